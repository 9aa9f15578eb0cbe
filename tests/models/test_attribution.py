"""Parts of scores, against their formulas in loops."""

import copy
from typing import Any

import pytest
import torch
from small_graph import NUM_ITEMS, NUM_USERS, prepared
from torch import Tensor

from lirdrec_pyg.data import INTERACTS
from lirdrec_pyg.models import (
    ContentKNNConfig,
    EASEConfig,
    ItemKNNConfig,
    LIRDRecConfig,
    Parts,
    attribution_of_history,
    fold_in_users,
)
from lirdrec_pyg.nn import SeenItems, unit_vectors

USER, ITEM = (x.flatten() for x in torch.meshgrid(torch.arange(NUM_USERS), torch.arange(NUM_ITEMS), indexing="ij"))


def as_matrix(parts: Parts, num_rows: int) -> Tensor:
    """Parts by pair and past item, shape ``(N, |I|)``."""
    found = parts.part.new_zeros(num_rows, NUM_ITEMS)
    found[parts.row, parts.past] = parts.part
    return found


@pytest.mark.parametrize("num_layers", [1, 3])
@pytest.mark.parametrize("fusion", ["pwc", "mean"])
def test_parts_of_propagated_users_follow_the_formula(num_layers: int, fusion: Any) -> None:
    model, data = prepared(LIRDRecConfig(embedding_dim=4, knn_k=3, num_layers=num_layers, fusion=fusion))
    vectors = model.vectors(data)
    parts = model.attribution(data, vectors)(USER, ITEM)
    assert (parts.row.diff() >= 0).all()
    found = as_matrix(parts, len(USER))
    own = [data[INTERACTS].edge_index[1][data[INTERACTS].edge_index[0] == u].tolist() for u in range(NUM_USERS)]
    for n, (u, v) in enumerate(zip(USER.tolist(), ITEM.tolist(), strict=True)):
        target, expected = model.split_branches(vectors.item[v])[0], torch.zeros(NUM_ITEMS).double()
        for i in own[u]:
            weight = (len(own[u]) * sum(i in items for items in own)) ** -0.5
            for b, alpha in enumerate(vectors.user_weight[u]):
                for layer in vectors.item_layers[:-1]:
                    expected[i] += alpha * weight * (model.split_branches(layer[i])[0, b] @ target[b])
        torch.testing.assert_close(found[n], expected, rtol=1e-6, atol=1e-6)
        free = vectors.user_weight[u].unsqueeze(1) * unit_vectors(model.user[u].detach())
        torch.testing.assert_close(parts.rest[n], (free * target).sum())


@pytest.mark.parametrize("config", [EASEConfig(), ItemKNNConfig(num_neighbors=3), ContentKNNConfig(knn_k=3)])
def test_a_part_is_what_the_score_loses_without_the_item(config: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lirdrec_pyg.models.closed_form._COMPARED", 4)  # several blocks
    model, data = prepared(config)
    model.fit(data)
    edges = data[INTERACTS].edge_index
    parts = model.attribution(data, model.vectors(data))(USER, ITEM)
    assert parts.rest.eq(0).all()
    found = as_matrix(parts, len(USER)).view(NUM_USERS, NUM_ITEMS, NUM_ITEMS)
    everyone = torch.arange(NUM_USERS)
    scores = model.scores(SeenItems.of(edges, NUM_USERS), everyone)
    for past in range(NUM_ITEMS):
        without = model.scores(SeenItems.of(edges[:, edges[1] != past], NUM_USERS), everyone)
        torch.testing.assert_close(found[:, :, past], scores - without, rtol=1e-5, atol=1e-6)


def test_parts_of_later_items_add_up_to_the_score() -> None:
    model, data = prepared(LIRDRecConfig(embedding_dim=4, knn_k=3))
    vectors = model.vectors(data)
    known = int(data[INTERACTS].edge_index[0, 0])
    own = data[INTERACTS].edge_index[1][data[INTERACTS].edge_index[0] == known]
    later = torch.tensor([[0, 0, 1, 1], [2, 5, 7, int(own[0])]])  # of a new user, then of a known one: one is old
    position = torch.tensor([-1, known, known])
    edges = data[INTERACTS].edge_index
    known_items = vectors, SeenItems.of(edges, NUM_USERS), torch.bincount(edges[1], minlength=NUM_ITEMS)
    attribution = attribution_of_history(model, *known_items, later, position)
    user, item = torch.arange(3).repeat_interleave(NUM_ITEMS), torch.arange(NUM_ITEMS).repeat(3)
    parts = attribution(user, item)
    folded = fold_in_users(model, *known_items, later, position)
    total = as_matrix(parts, len(user)).sum(dim=1) + parts.rest
    torch.testing.assert_close(total.view(3, -1), folded.user @ folded.item.T, rtol=1e-9, atol=1e-9)
    row, past = attribution.history.pairs(torch.arange(3))
    assert [set(past[row == n].tolist()) for n in range(3)] == [{2, 5}, {*own.tolist(), 7}, set(own.tolist())]
    assert parts.rest[:NUM_ITEMS].eq(0).all()
    assert not parts.rest[NUM_ITEMS:].eq(0).any()
    trained = model.attribution(data, vectors)(torch.full((NUM_ITEMS,), known), torch.arange(NUM_ITEMS))
    torch.testing.assert_close(parts.part[parts.row >= 2 * NUM_ITEMS], trained.part, rtol=1e-6, atol=1e-6)


def test_single_precision_adds_up_to_rounding() -> None:
    model, data = prepared(LIRDRecConfig(embedding_dim=4, knn_k=3))
    vectors = copy.deepcopy(model).float().vectors(data)
    parts = model.float().attribution(data, vectors)(USER, ITEM)
    total = as_matrix(parts, len(USER)).sum(dim=1) + parts.rest
    torch.testing.assert_close(total.view(NUM_USERS, -1), vectors.user @ vectors.item.T, rtol=1e-5, atol=1e-5)
