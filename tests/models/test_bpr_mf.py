from small_graph import TRIPLES, assert_is_the_formula, bpr, gradients, prepared, squares

from lirdrec_pyg.models import BPRMFConfig


def test_formula() -> None:
    model, data = prepared(BPRMFConfig(embedding_dim=4, reg_weight=0.3))
    user, item, (u, i, j) = model.user, model.item, TRIPLES
    assert_is_the_formula(model, data, [user, item], bpr(user, item) + 0.3 * squares(user[u], item[i], item[j]))
    moved = gradients(model, model.loss(data, TRIPLES))["user"].abs().sum(dim=1) > 0
    assert moved.nonzero().view(-1).tolist() == u.unique().tolist()
