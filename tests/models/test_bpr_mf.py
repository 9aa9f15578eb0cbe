import pytest
import torch
from small_graph import TRIPLES, assert_gradients_reach_all, bpr, gradients, prepared, small_graph

from lirdrec_pyg.config import BPRMFConfig


def test_loss_is_the_formula() -> None:
    model, data = prepared(BPRMFConfig(embedding_dim=4, reg_weight=0.3), small_graph())
    user, item = model(data)
    u, i, j = TRIPLES
    norms = sum((user[a] ** 2).sum() + (item[b] ** 2).sum() + (item[c] ** 2).sum() for a, b, c in zip(u, i, j))
    expected = bpr(user, item) + 0.3 * norms / (2 * len(u))
    assert model.loss(data, TRIPLES).item() == pytest.approx(expected.item())
    assert model.loss(data, TRIPLES, 0.25).item() == pytest.approx(0.25 * expected.item())


def test_gradients_reach_the_rows_of_the_batch_alone() -> None:
    model, data = prepared(BPRMFConfig(embedding_dim=4), small_graph())
    loss = model.loss(data, TRIPLES)
    assert_gradients_reach_all(model, loss)
    moved = gradients(model, model.loss(data, TRIPLES))["user"].abs().sum(dim=1) > 0
    assert moved.nonzero().view(-1).tolist() == TRIPLES[0].unique().tolist()
    assert torch.equal(model(data)[0], model.user)
