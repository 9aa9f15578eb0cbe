"""On a GPU, everything gives what it gives on the CPU."""

import copy
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist

from lirdrec_pyg import Callback, Dataset, LIRDRecConfig, Recommender, TrainingConfig, fit, preset
from lirdrec_pyg.models import MODEL_CONFIGS, LIRDRec, ModelConfig
from lirdrec_pyg.nn import RowShards, SeenItems, top_k
from lirdrec_pyg.training import EpochResult, Trainer, training_step
from lirdrec_pyg.transforms import knn_edges

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")]


ABLATIONS = [
    LIRDRecConfig(fusion="attention"),
    LIRDRecConfig(fusion="static"),
    LIRDRecConfig(fusion="mean", item_graph=False),
    LIRDRecConfig(dct="none", id_branch=True),
    LIRDRecConfig(dct="2d", num_layers=0),
]


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return Dataset.from_path("synthetic")


def trainer_on(device: str, dataset: Dataset, **settings: Any) -> Trainer:
    config = LIRDRecConfig()
    torch.manual_seed(0)
    graph = LIRDRec.graph_transform(config)(copy.copy(dataset.graph))
    graph = LIRDRec.input_transform(config)(graph.to(device))
    return Trainer(LIRDRec.from_config(config, graph), graph, TrainingConfig(device=device, **settings))


def test_a_pass_agrees_with_the_cpu(dataset: Dataset) -> None:
    on_cpu, on_gpu = (trainer_on(device, dataset) for device in ("cpu", "cuda"))
    on_gpu.model.module.load_state_dict(on_cpu.model.module.state_dict())
    triples = on_cpu.sampler.sample_epoch()[:, :1024]
    found = []
    for trainer in (on_cpu, on_gpu):
        model = trainer.model.module
        user, item = model(trainer.data)
        loss = model.loss(trainer.data, triples.to(user.device))
        loss.backward()
        found.append([x.detach().cpu() for x in (user, item, loss, *(p.grad for p in model.parameters()))])
    for expected, value in zip(*found, strict=True):
        torch.testing.assert_close(value, expected, atol=1e-4, rtol=1e-4)


def test_a_step_never_waits_for_the_device(dataset: Dataset) -> None:
    trainer = trainer_on("cuda", dataset)
    batches = trainer.sampler.sample_epoch().split(1024, dim=1)
    arguments = trainer.optimizers, trainer.fabric.backward, trainer.fabric.autocast
    training_step(trainer.model, trainer.data, batches[0], *arguments)
    torch.cuda.set_sync_debug_mode("error")
    try:
        training_step(trainer.model, trainer.data, batches[1], *arguments)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_rankings_and_neighbors_agree_with_the_cpu() -> None:
    torch.manual_seed(0)
    user, item = torch.randn(9000, 24), torch.randn(40_000, 24)
    seen = SeenItems.of(torch.stack([torch.randint(9000, (50_000,)), torch.randint(40_000, (50_000,))]), 9000)
    index = torch.arange(0, 9000, 7)
    expected = torch.cat([block.score for block in top_k(user, item, index, 20, seen)])
    on_gpu = SeenItems(seen.start.cuda(), seen.item.cuda())
    found = torch.cat([block.score for block in top_k(user.cuda(), item.cuda(), index.cuda(), 20, on_gpu)])
    torch.testing.assert_close(found.cpu(), expected, atol=1e-4, rtol=1e-4)
    edges = [knn_edges(x, 5, search="exact").cpu() for x in (item[:5000], item[:5000].cuda())]
    assert (edges[0] == edges[1]).all(dim=0).float().mean() > 0.999  # ties aside


SHORT = {"device": "cuda", "epochs": 2, "batch_size": 4096}


@pytest.mark.parametrize(
    "configs", [preset("best", **SHORT), *((config(), TrainingConfig(**SHORT)) for config in MODEL_CONFIGS.values())]
)
def test_each_model_is_trained_saved_and_used(
    configs: tuple[ModelConfig, TrainingConfig], dataset: Dataset, tmp_path: Path
) -> None:
    run = fit(dataset, *configs, tmp_path / "run").path
    assert run is not None
    on_cpu, on_gpu = (Recommender.load(run, device) for device in ("cpu", "cuda"))
    users = dataset.users.ids[:2]
    scores = [recommender.recommend(users, k=5)["score"].to_numpy() for recommender in (on_cpu, on_gpu)]
    np.testing.assert_allclose(*scores, atol=1e-4, rtol=1e-4)
    assert on_cpu.evaluate() == pytest.approx(on_gpu.evaluate(), abs=2e-3)


class Losses(Callback):
    def __init__(self) -> None:
        self.values: list[float] = []

    def on_epoch_end(self, result: EpochResult) -> None:
        self.values.append(result.loss)


@pytest.mark.parametrize("config", [LIRDRecConfig(), *ABLATIONS], ids=str)
def test_replayed_steps_equal_steps_that_are_run(
    config: LIRDRecConfig, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for is_capturable in (True, False):
        monkeypatch.setattr(LIRDRec, "is_capturable", is_capturable)
        losses = Losses()
        training = TrainingConfig(device="cuda", epochs=3, batch_size=1024, lr=1e-3, edge_dropout=0.1, ema=0.9)
        recommender = fit(dataset, config, training, callbacks=[losses])
        assert recommender.metrics is not None
        found.append([*losses.values, recommender.metrics["test"]["recall@20"]])
    assert found[0] == pytest.approx(found[1], rel=1e-3)


@pytest.mark.parametrize(
    "settings",
    [
        {"precision": "bf16-mixed"},
        {"edge_dropout": 0.2},
        {"sampling": "neighbors"},
        {"sampling": "neighbors", "user_gradients": "sparse"},
    ],
    ids=str,
)
def test_each_way_of_training_learns(settings: dict[str, Any], dataset: Dataset) -> None:
    if settings.get("sampling") == "neighbors" and not any(map(find_spec, ("pyg_lib", "torch_sparse"))):
        pytest.skip("needs pyg-lib or torch-sparse")
    losses = Losses()
    training = TrainingConfig(device="cuda", epochs=3, batch_size=1024, lr=1e-3, **settings)
    fit(dataset, LIRDRecConfig(), training, callbacks=[losses])
    assert losses.values[-1] < losses.values[0]


@pytest.fixture
def group(tmp_path: Path) -> Iterator[None]:
    """A group of this process alone, which exchanges with itself."""
    dist.init_process_group("nccl", init_method=f"file://{tmp_path / 'group'}", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("group")
@pytest.mark.parametrize("sparse", [False, True])
def test_rows_are_looked_up_and_written(sparse: bool) -> None:
    shards, table = RowShards(50, "cuda"), torch.randn(50, 3, 4, device="cuda", requires_grad=True)
    index = torch.randperm(50, device="cuda")[:20]
    found = shards.lookup(table, index, sparse)
    assert torch.equal(found, table[index])
    found.square().sum().backward()
    assert table.grad is not None
    expected = torch.zeros_like(table).index_copy(0, index, 2 * table.detach()[index])
    torch.testing.assert_close(table.grad.to_dense(), expected)
    written = torch.zeros(50, 5, device="cuda")
    shards.write(written, index, torch.ones(20, 5, device="cuda"))
    assert torch.equal(written.sum(dim=1).nonzero().squeeze(1), index.sort().values)
    assert shards.distributed(written).full_tensor().equal(written)
