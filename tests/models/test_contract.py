"""What holds for every model of the registry, and for every ablation of LIRDRec.

A new model is tested here as soon as it is registered; its own test compares it with its formula.
"""

import copy
import functools
import io
from typing import Any

import pytest
import torch
from small_graph import BACKENDS, NUM_ITEMS, NUM_USERS, TRIPLES, WIDTHS, gradients, prepared, small_graph
from torch import Tensor
from torch_geometric.data import HeteroData
from torch_geometric.transforms import Compose
from torch_geometric.utils import scatter

import lirdrec_pyg
import lirdrec_pyg.models
from lirdrec_pyg.data import INTERACTS, modalities, set_new_items
from lirdrec_pyg.errors import ConfigError
from lirdrec_pyg.models import MODEL_CONFIGS, MODELS, ClosedFormModel, Model, ModelConfig, fold_in_users, model_vectors
from lirdrec_pyg.nn import SeenItems
from lirdrec_pyg.training import TrainingConfig
from lirdrec_pyg.transforms import CacheAdjacency, DropEdges, NormalizeBipartite


def config_of(name: str, **settings: Any) -> ModelConfig:
    kind = MODEL_CONFIGS[name]
    small = {"embedding_dim": 4, "knn_k": 3, "num_neighbors": 3}
    return kind(**{key: value for key, value in small.items() if key in kind.__dataclass_fields__}, **settings)


CONFIGS = {
    **{name: config_of(name) for name in MODEL_CONFIGS},
    "no transform": config_of("lirdrec", dct="none"),
    "2-D transform": config_of("lirdrec", dct="2d"),
    "mean fusion": config_of("lirdrec", fusion="mean"),
    "static fusion": config_of("lirdrec", fusion="static"),
    "attention fusion": config_of("lirdrec", fusion="attention"),
    "no item graph": config_of("lirdrec", item_graph=False),
    "no layers": config_of("lirdrec", num_layers=0, num_item_layers=0),
    "one modality": config_of("lirdrec", only_modality="text"),
    "ID branch": config_of("lirdrec", id_branch=True),
    "softmax": config_of("lirdrec", loss="softmax", feature_dim=3),
    "linear branch": config_of(
        "lirdrec", loss="softmax", linear_dim=5, linear_l2=10.0, linear_content={"text": 2.0}, linear_weight=0.7
    ),
}
TRAINED = {name: config for name, config in CONFIGS.items() if not config.is_closed_form}
# Equal for all items of a user, these biases cancel out in the loss.
WITHOUT_EFFECT = {"freedom": {"projections.0.bias", "projections.1.bias"}}
ALL_USERS, ITEMS = torch.arange(NUM_USERS), torch.arange(NUM_ITEMS)

every = pytest.mark.parametrize("name", CONFIGS)
every_trained = pytest.mark.parametrize("name", TRAINED)
every_model = pytest.mark.parametrize("name", MODELS)
every_trained_model = pytest.mark.parametrize("name", [name for name in MODELS if name in TRAINED])


def build(name: str, seed: int = 0) -> tuple[Any, HeteroData]:
    """A model that is fitted, or in its second epoch."""
    config = CONFIGS[name]
    model, data = prepared(config, seed=seed)
    if config.is_closed_form:
        model.fit(data)
    else:
        model.start_epoch()
        model.loss(data, TRIPLES)
        model.start_epoch()
    return model, data


build_once = functools.cache(build)


def make(name: str) -> tuple[Any, HeteroData]:
    model, data = build_once(name)
    return copy.deepcopy(model), copy.copy(data)


def scores(model: Model, data: HeteroData, users: Tensor = ALL_USERS) -> Tensor:
    """Scores of all items, in the order of the items."""
    (block,) = model.ranker(data).top_k(users, NUM_ITEMS)
    return torch.empty_like(block.score).scatter(1, block.item, block.score)


def state_equal(model: Model, state: dict[str, Tensor]) -> None:
    torch.testing.assert_close(dict(model.state_dict()), dict(state), rtol=0, atol=0, equal_nan=True)


def test_the_registry_names_every_model_by_its_config() -> None:
    for name, kind in MODELS.items():
        assert issubclass(kind, Model)
        assert kind.config_class.model == name
        assert MODEL_CONFIGS[name] is kind.config_class
        assert {kind.__name__, kind.config_class.__name__} <= {*lirdrec_pyg.models.__all__}
        assert kind.config_class.__name__ in lirdrec_pyg.__all__
        assert issubclass(kind, ClosedFormModel) == kind.config_class.is_closed_form
        assert TrainingConfig(**kind.config_class.training_defaults).lr > 0


@every_model
def test_a_seed_determines_the_model(name: str) -> None:
    model, data = make(name)
    state_equal(build(name)[0], model.state_dict())
    assert bool(list(model.parameters())) != CONFIGS[name].is_closed_form
    if not CONFIGS[name].is_closed_form:
        assert not torch.equal(model(data)[0], build(name, seed=1)[0](data)[0])
        fresh = copy.deepcopy(model)
        fresh.reset_parameters()
        assert not torch.equal(model(data)[0], fresh(data)[0])


@every
def test_rankings_agree_with_vectors(name: str) -> None:
    model, data = make(name)
    vectors = model.vectors(data)
    assert (vectors is not None) == CONFIGS[name].has_vectors
    found = scores(model, data)
    assert found.shape == (NUM_USERS, NUM_ITEMS)
    assert found.isfinite().all()
    if vectors is not None:
        assert vectors.user.size(1) == vectors.item.size(1)
        torch.testing.assert_close(found, vectors.user @ vectors.item.T)
    torch.testing.assert_close(scores(model, data, torch.tensor([4, 1])), found[[4, 1]])

    seen, among = SeenItems.of(data[INTERACTS].edge_index, NUM_USERS), torch.tensor([6, 1, 3])
    unseen = found.clone()
    unseen[tuple(data[INTERACTS].edge_index)] = -torch.inf
    for candidates, k in ((None, NUM_ITEMS), (among, 2)):
        (block,) = model.ranker(data).top_k(ALL_USERS, k, seen, candidates)
        of_candidates = unseen if candidates is None else unseen[:, candidates]
        torch.testing.assert_close(block.score, of_candidates.topk(k).values)
        torch.testing.assert_close(block.score, unseen.gather(1, block.item))
        assert candidates is None or torch.isin(block.item, candidates).all()


@every
def test_vectors_are_those_of_eval_mode_and_computing_them_changes_nothing(name: str) -> None:
    for training in (True, False):
        model, data = make(name)
        model.train(training)
        for module in list(model.modules())[-1:]:
            module.eval()  # frozen
        modes = [module.training for module in model.modules()]
        before, keys = copy.deepcopy(model.state_dict()), [list(store.keys()) for store in data.stores]
        vectors = model.vectors(data)
        model.ranker(data)
        state_equal(model, before)
        assert [module.training for module in model.modules()] == modes
        assert [list(store.keys()) for store in data.stores] == keys
        assert vectors is None or not any(x.requires_grad for x in vars(vectors).values())
    if not CONFIGS[name].is_closed_form:
        learned = (x[:, : vectors.width] for x in (vectors.user, vectors.item))
        assert all(map(torch.equal, learned, model.eval()(data)))


@every_model
def test_state_dict_round_trip(name: str) -> None:
    model, data = make(name)
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    loaded = prepared(CONFIGS[name], seed=1)[0].to(torch.float32 if CONFIGS[name].is_closed_form else torch.float64)
    loaded.load_state_dict(torch.load(file, weights_only=True))
    copied = copy.deepcopy(model)
    for each in (model, loaded, copied):
        if not CONFIGS[name].is_closed_form:
            each.start_epoch()  # schedules are part of the state
    for other in (loaded, copied):
        assert torch.equal(scores(other, data), scores(model, data))


@every
def test_capabilities_work_or_are_rejected(name: str) -> None:
    config, (model, data) = CONFIGS[name], make(name)
    for capability in (
        "new_items",
        "new_users",
        "explanations",
        "fusion_weights",
        "neighbor_sampling",
        "negatives",
    ):
        if not getattr(config, f"supports_{capability}"):
            with pytest.raises(ConfigError, match=f"`model='{config.model}'` .*{capability.replace('_', ' ')}.*`"):
                config.require(capability)
        else:
            config.require(capability)
    vectors = model.vectors(data)
    if config.supports_new_items:
        new = set_new_items(data, {m: torch.randn(2, WIDTHS[m]) for m in modalities(data)})
        found = model_vectors(model, new)
        assert found.item.shape == (NUM_ITEMS + 2, vectors.item.size(1))
        assert found.item.isfinite().all()
    if config.supports_new_users:
        edges = data[INTERACTS].edge_index
        known = SeenItems.of(edges, NUM_USERS), torch.bincount(edges[1], minlength=NUM_ITEMS)
        found = fold_in_users(model, vectors, *known, torch.tensor([[0, 0], [1, 2]]), torch.tensor([-1]))
        assert found.user.shape == (1, vectors.user.size(1))
        assert found.user.isfinite().all()
    if config.supports_explanations:
        parts = model.attribution(data, vectors)(ALL_USERS.repeat_interleave(NUM_ITEMS), ITEMS.repeat(NUM_USERS))
        total = parts.rest + scatter(parts.part, parts.row, dim_size=len(parts.rest))
        exact = 1e-5 if config.is_closed_form else 1e-9
        torch.testing.assert_close(total.view(NUM_USERS, -1), scores(model, data), rtol=exact, atol=exact)
    if config.supports_fusion_weights:
        assert vectors.user_weight.shape == (NUM_USERS, len(model.branches))
        torch.testing.assert_close(vectors.user_weight.sum(dim=1), torch.ones(NUM_USERS).double())
    if config.supports_neighbor_sampling:
        assert model.sampling_depth() == (config.num_layers, config.num_item_layers if config.item_graph else 0)
        stored = type(model).graph_transform(config)(small_graph())
        sampled = type(model).sampling_transform(config)(stored)
        layerwise = model.layerwise_vectors(sampled)
        torch.testing.assert_close(vars(layerwise), vars(vectors), rtol=1e-5, atol=1e-5)
        users = model.use_sparse_user_gradients()
        assert any(users is parameter for parameter in model.parameters())
        model.synchronize_users(ALL_USERS, torch.ones(NUM_USERS, 1, dtype=torch.bool), torch.clone)
    if config.supports_negatives:
        several = torch.cat([TRIPLES, TRIPLES[2:].flip(1)])
        assert not torch.equal(model.loss(data, several), model.loss(data, TRIPLES))


@every_trained
def test_the_loss_reaches_all_parameters_and_is_linear_in_the_weight(name: str) -> None:
    model, data = make(name)
    for key, gradient in gradients(model, model.loss(data, TRIPLES)).items():
        assert gradient is not None, key
        assert gradient.isfinite().all(), key
        assert bool(gradient.abs().sum() > 1e-12) == (key not in WITHOUT_EFFECT.get(name, ())), key
    model.eval()
    zero, half, one = (model.loss(data, TRIPLES, weight) for weight in (0.0, 0.5, 1.0))
    torch.testing.assert_close(half, (zero + one) / 2)
    assert zero < one


@every_trained_model
def test_training_steps_decrease_the_loss(name: str) -> None:
    model, data = make(name)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    losses = []
    for _ in range(15):
        optimizer.zero_grad()
        losses.append(model.loss(data, TRIPLES))
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < 0.8 * losses[0]


@every_trained
def test_sparse_backends_and_bare_graphs_give_the_same(name: str) -> None:
    config, (model, _) = CONFIGS[name], make(name)
    model.eval()
    stored = type(model).graph_transform(config)(small_graph())
    graphs = [stored, *(type(model).input_transform(config, backend)(copy.copy(stored)) for backend in BACKENDS)]
    results = []
    for data in graphs:
        loss = model.loss(data, TRIPLES)
        results.append((model(data), loss, gradients(model, loss)))
    for result in results[1:]:
        torch.testing.assert_close(result, results[0], rtol=1e-5, atol=1e-5)


@every_trained_model
def test_dropped_edges_are_noticed(name: str) -> None:
    model, data = make(name)
    model.eval()
    untouched, before = copy.deepcopy(model), model(data)
    drop = Compose([DropEdges(0.5, torch.Generator().manual_seed(0)), NormalizeBipartite(), CacheAdjacency()])
    fewer = drop(copy.copy(data))
    assert all(map(torch.equal, model(fewer), untouched(fewer)))
    assert all(map(torch.equal, model(data), before))


@every_trained_model
def test_bf16_autocast_is_close_to_float32(name: str) -> None:
    model, data = prepared(CONFIGS[name])
    model.float().eval()
    exact = model(data)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = model(data)
        loss = model.loss(data, TRIPLES)
    loss.backward()
    for a, b in zip(rough, exact, strict=True):
        assert a.dtype == torch.float32 or CONFIGS[name].model != "lirdrec"
        torch.testing.assert_close(a.float(), b, rtol=0.05, atol=0.05)
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
