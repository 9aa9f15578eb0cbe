"""LIRDRec without one of its parts, or with one more."""

import copy
from typing import Any

import pytest
import torch
from small_graph import NUM_ITEMS, NUM_USERS, TRIPLES, assert_gradients_reach_all, prepared, small_graph

from lirdrec_pyg.config import LIRDRecConfig
from lirdrec_pyg.data import SIMILAR, modalities, set_new_items
from lirdrec_pyg.errors import ConfigError
from lirdrec_pyg.models import LIRDRec, check_inductive, fold_in_users, model_vectors

SETTINGS: dict[str, dict[str, Any]] = {
    "without transformation": {"dct": "none"},
    "2-D transformation": {"dct": "2d"},
    "mean": {"fusion": "mean"},
    "static": {"fusion": "static"},
    "attention": {"fusion": "attention"},
    "without item graph": {"item_graph": False},
    "one modality": {"only_modality": "text"},
    "ID branch": {"id_branch": True},
}
EVERY = pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)


def config(**settings: Any) -> LIRDRecConfig:
    return LIRDRecConfig(embedding_dim=4, knn_k=3, reg_weight=0.05, **settings)


def trained(**settings: Any) -> tuple[LIRDRec, Any]:
    model, data = prepared(config(**settings), small_graph())
    model.start_epoch()
    return model, data


@EVERY
def test_gradients_reach_all_parameters(settings: dict[str, Any]) -> None:
    model, data = trained(**settings)
    user, item = model(data)
    assert user.shape == (NUM_USERS, 4 * len(model.branches))
    assert item.shape == (NUM_ITEMS, 4 * len(model.branches))
    assert_gradients_reach_all(model, model.loss(data, TRIPLES))


@EVERY
def test_a_graph_that_nothing_was_made_ready_in_gives_the_same(settings: dict[str, Any]) -> None:
    model, data = trained(**settings)
    bare = LIRDRec.graph_transform(config(**settings))(small_graph())
    for one, other in zip(model(data), model(bare), strict=True):
        assert torch.allclose(one, other, atol=1e-6)
    vectors = model.vectors(data)
    model.eval()
    assert torch.allclose(vectors.user, model(data)[0])
    assert vectors.user_weight.shape == (NUM_USERS, len(model.branches))


@EVERY
def test_without_a_setting_it_is_the_paper_model(settings: dict[str, Any]) -> None:
    name = next(iter(settings))
    plain, _ = trained()
    same, _ = trained(**{name: getattr(LIRDRecConfig(), name)})
    state = same.state_dict()
    assert state.keys() == plain.state_dict().keys()
    assert all(torch.equal(value, state[key]) or value.isnan().all() for key, value in plain.state_dict().items())


def test_branches() -> None:
    assert trained()[0].branches == ("image", "text", "shared")
    assert trained(dct="none")[0].branches == ("image", "text")
    assert trained(id_branch=True)[0].branches == ("image", "text", "shared", "id")
    assert trained(only_modality="text")[0].branches == ("text", "shared")


def test_without_the_item_graph_items_are_what_the_propagation_gives() -> None:
    without, data = trained(item_graph=False)
    assert SIMILAR not in data.edge_types
    with_graph, other = trained()
    with_graph.load_state_dict(without.state_dict())
    vectors = with_graph.vectors(other)
    assert torch.allclose(without.vectors(data).item, vectors.item_layers.sum(dim=0), atol=1e-6)
    assert not torch.allclose(without.vectors(data).item, vectors.item, atol=1e-3)


def test_one_modality_is_a_model_that_never_saw_the_other() -> None:
    model, data = trained(only_modality="text")
    changed = small_graph()
    changed["item"].x_image = torch.randn(NUM_ITEMS, 6)
    kept = LIRDRec.input_transform(config(only_modality="text"))(
        LIRDRec.graph_transform(config(only_modality="text"))(copy.copy(changed))
    )
    for one, other in zip(model(data), model(kept), strict=True):
        assert torch.equal(one, other)
    assert "x_image" in changed["item"]
    with pytest.raises(ConfigError, match=r"--only-modality is 'sound'.*image, text"):
        trained(only_modality="sound")


def test_the_id_branch_has_a_free_vector_for_each_item() -> None:
    model, data = trained(id_branch=True)
    encoded = model.encode_items(data)
    assert torch.allclose(encoded[:, -1], model.item_id / model.item_id.norm(dim=1, keepdim=True))


@EVERY
def test_new_items_and_users(settings: dict[str, Any]) -> None:
    model, data = trained(**settings)
    features = {"image": torch.randn(2, 6), "text": torch.randn(2, 5)}
    new = set_new_items(data, {name: features[name] for name in modalities(data)})
    if settings.get("dct") == "2d":
        with pytest.raises(ConfigError, match="--dct 2d"):
            check_inductive(model)
        return
    folded = fold_in_users(model, data, model.vectors(data), torch.tensor([[0, 0], [1, 2]]), 1)
    assert folded.user.isfinite().all()
    if "id_branch" in settings:
        with pytest.raises(ConfigError, match="--id-branch"):
            check_inductive(model)
        return
    vectors = model_vectors(model.float(), new, 3)
    assert vectors.item.shape == (NUM_ITEMS + 2, 4 * len(model.branches))
    assert vectors.item.isfinite().all()
