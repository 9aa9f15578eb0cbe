import math
from dataclasses import replace

import polars as pl
import pytest
import torch
from lightning_fabric import seed_everything
from torch_geometric.data import HeteroData

from lirdrec_pyg.callback import Callback
from lirdrec_pyg.data import Dataset, modalities
from lirdrec_pyg.data.generator import generate
from lirdrec_pyg.errors import ConfigError
from lirdrec_pyg.evaluation import RankingTask, evaluate_ranking
from lirdrec_pyg.experiments import measure_gradient_bias
from lirdrec_pyg.experiments.gradient_bias import _Watched, _with_shuffled_features, draw, verdict
from lirdrec_pyg.models import LIRDRec, LIRDRecConfig
from lirdrec_pyg.training import EpochResult, Trainer, TrainingConfig

MODEL = LIRDRecConfig(embedding_dim=16)
TRAINING = TrainingConfig(epochs=6, lr=4e-3, batch_size=256, device="cpu")
SHORT = TrainingConfig(epochs=2, lr=1e-2, batch_size=512, device="cpu")
BRANCHES = ["image", "text", "shared", "id"]


def shop() -> Dataset:
    """Users choose items by what the features show."""
    graph, users, items, _ = generate(200, 300, mean_interactions=10, cold_share=0.0)
    return Dataset(graph, users, items)


def noise(graph: HeteroData, width: int, *names: str) -> None:
    """Replace features by ones that show nothing."""
    generator = torch.Generator().manual_seed(1)
    for modality in modalities(graph):
        x = torch.randn(graph["item"].num_nodes, width, generator=generator)
        if modality in names:
            graph["item"][f"x_{modality}"] = x


class StopAfter(Callback):
    def __init__(self, epochs: int) -> None:
        self._left = epochs

    def on_epoch_end(self, result: EpochResult) -> None:
        self._left -= 1

    def should_stop(self) -> bool:
        return self._left == 0


@pytest.fixture(scope="module")
def planted() -> pl.DataFrame:
    return measure_gradient_bias(shop(), MODEL, TRAINING)


def test_one_row_per_training_epoch_and_branch(planted: pl.DataFrame) -> None:
    for _, part in planted.group_by("features"):
        assert part["epoch"].to_list() == [epoch for epoch in range(1, 7) for _ in BRANCHES]
        assert part["branch"].to_list() == 6 * BRANCHES
    assert planted["features"].to_list() == 24 * ["own"] + 24 * ["others"]
    values = planted.drop("features", "epoch", "branch").to_torch()
    assert values.isfinite().all()
    assert (values > 0).all()
    users = len(RankingTask.from_graph(shop().graph, "valid").user_index)
    assert planted["valid_users"].unique().to_list() == [users]


def test_the_planted_effect_is_found(planted: pl.DataFrame) -> None:
    updates, quality = verdict(planted)
    assert "gradients of the feature encoders" in updates
    assert "the paper's finding holds here" in quality


@pytest.mark.slow
def test_the_verdict_depends_on_whether_features_mean_something() -> None:
    dataset = shop()
    noise(dataset.graph, 512, "image", "text")  # the wider noise is, the better it works as an ID
    assert "does not hold here" in verdict(measure_gradient_bias(dataset, MODEL, TRAINING))[1]
    dataset = shop()
    noise(dataset.graph, 64, "image")
    assert "holds here" in verdict(measure_gradient_bias(dataset, MODEL, TRAINING))[1]


def test_shuffling_keeps_the_features_of_an_item_together() -> None:
    graph = shop().graph
    graph["item"].mask_image = torch.rand(300) < 0.5
    shuffled = _with_shuffled_features(graph, 3)
    order = [
        int((graph["item"].x_text == row).all(dim=1).nonzero()[0, 0])
        for row in shuffled["item"].x_text  # rows are all different
    ]
    assert sorted(order) == list(range(300))
    assert order != list(range(300))
    torch.testing.assert_close(shuffled["item"].x_image, graph["item"].x_image[order])
    assert shuffled["item"].mask_image.equal(graph["item"].mask_image[order])
    assert shuffled["user", "interacts", "item"].edge_index.equal(graph["user", "interacts", "item"].edge_index)
    assert graph["item"].x_text.equal(shop().graph["item"].x_text)


def test_the_first_step_equals_a_step_by_hand() -> None:
    training = TrainingConfig(epochs=1, lr=1e-2, batch_size=10**6, device="cpu")
    found = measure_gradient_bias(shop(), MODEL, training).filter(pl.col("features") == "own")

    seed_everything(training.seed, verbose=False)
    data = LIRDRec.input_transform(MODEL)(LIRDRec.graph_transform(MODEL)(shop().graph))
    model = _Watched.from_config(replace(MODEL, id_branch=True), data)
    trainer = Trainer(model, data, training)
    model.start_epoch()
    triples = trainer.sampler.sample_epoch()
    before = model.encode_items(data).detach()
    vectors = before.clone().requires_grad_()
    model.encode_items = lambda data: vectors  # type: ignore[method-assign]
    (item_gradient,) = torch.autograd.grad(model.loss(data, triples), vectors)
    del model.encode_items
    model.loss(data, triples).backward()
    for row, branch in enumerate(BRANCHES):
        parameters = [model.item_id] if branch == "id" else list(model.encoders[row].parameters())
        squares = sum(float(p.grad.square().sum()) for p in parameters if p.grad is not None)
        count = sum(p.numel() for p in parameters)
        assert found["parameter_gradient"][row] == pytest.approx(math.sqrt(squares / count), rel=1e-3)
        assert found["item_gradient"][row] == pytest.approx(float(item_gradient[:, row].norm(dim=1).mean()), rel=1e-3)
    model.zero_grad()

    trainer.optimizers[0].zero_grad()
    model.loss(data, triples).backward()
    trainer.optimizers[0].step()
    after = model.eval().encode_items(data).detach()
    moved = (after - before).norm(dim=-1).mean(dim=0)
    assert found["item_change"].to_list() == pytest.approx(moved.tolist(), rel=1e-2)

    with torch.no_grad():
        user, item = model(data)
    task = RankingTask.from_graph(data, "valid")
    for row in range(len(BRANCHES)):
        part = slice(16 * row, 16 * (row + 1))
        alone = evaluate_ranking(user[:, part], item[:, part], task)["recall@20"]
        assert found["valid_recall@20"][row] == pytest.approx(alone, abs=0.02)


def test_the_seed_determines_everything_and_the_graph_stays_as_it_is() -> None:
    dataset = shop()
    before = dataset.graph.edge_types
    first, second = (measure_gradient_bias(dataset, MODEL, replace(SHORT, epochs=1)) for _ in range(2))
    assert first.equals(second)
    assert dataset.graph.edge_types == before
    assert "dct" not in dataset.graph["item"]


def test_what_was_measured_before_a_stop_is_kept() -> None:
    found = measure_gradient_bias(shop(), MODEL, SHORT, StopAfter(1))
    assert found["epoch"].to_list() == 4 * [1]
    assert "shuffled features not measured" in verdict(found)[1]
    found = measure_gradient_bias(shop(), MODEL, SHORT, StopAfter(3))
    assert found["features"].unique().to_list() == ["own"]
    assert found["epoch"].max() == 2


def table(gradient: float, change: float, id_recall: float, others: float) -> pl.DataFrame:
    """Build 20 epochs in which features have these ratios to IDs, and at the end Recall@20 of 0.4 and 0.5."""
    rows: list[tuple[object, ...]] = []
    for epoch in range(1, 21):
        for branch, scale in (("text", 2.0), ("shared", 0.5), ("id", None)):
            ratios = (1.0, 1.0) if scale is None else (scale * gradient, scale * change)
            end = {"text": 0.4, "shared": 0.5, "id": id_recall}[branch]
            recall = end if epoch > 18 else 0.9
            rows.append(("own", epoch, branch, 0.1 * ratios[0], 0.1, 0.2 * ratios[1], recall, 200))
    for epoch in range(1, 11):
        for branch, recall in (("text", others), ("shared", others - 0.1), ("id", 0.95)):
            rows.append(("others", epoch, branch, 99.0, 0.1, 99.0, recall if epoch > 9 else 0.9, 200))
    columns = ["features", "epoch", "branch", "parameter_gradient", "item_gradient", "item_change"]
    return pl.DataFrame(rows, schema=[*columns, "valid_recall@20", "valid_users"], orient="row")


def test_the_verdict_follows_from_the_table() -> None:
    for gradient, change, id_recall, others, conclusion in (
        (3.0, 2.0, 0.2, 0.39, "finding holds here"),
        (3.0, 2.0, 0.47, 0.39, "finding holds here"),
        (3.0, 2.0, 0.48, 0.39, "does not hold here: features get larger updates, but ID vectors do as well"),
        # Two standard errors of 200 users are 0.0998 here.
        (3.0, 2.0, 0.2, 0.41, "does not hold here: ID vectors stay poor, but shuffled features do as well"),
        (0.3, 2.0, 0.2, 0.3, "does not hold here: ID vectors stay poor, but not because of smaller updates"),
        (3.0, 0.5, 0.6, 0.3, "does not hold here: ID vectors neither get smaller updates nor stay poor"),
    ):
        updates, quality = verdict(table(gradient, change, id_recall, others))
        assert "Over 20 epochs" in updates
        assert f"were {gradient:.3g} times as large" in updates
        assert f"changed {change:.3g} times as much" in updates
        assert (
            f"ID {id_recall:.4f}, features text 0.4000, shared 0.5000, shuffled features at best {others:.4f}"
            in quality
        )
        assert conclusion in quality


def test_settings_that_hide_what_is_measured_are_refused() -> None:
    for settings in ({"precision": "16-mixed"}, {"sampling": "neighbors"}, {"user_gradients": "sparse"}):
        ((name, value),) = settings.items()
        with pytest.raises(ConfigError, match=f"`{name}={value!r}`"):
            measure_gradient_bias(shop(), MODEL, TrainingConfig(device="cpu", **settings))  # type: ignore[arg-type]


def test_plot_shows_every_branch_and_gradients_on_a_log_scale(planted: pl.DataFrame) -> None:
    pytest.importorskip("matplotlib")
    panels = draw(planted).axes
    assert [axes.get_yscale() for axes in panels] == ["log", "log", "linear"]
    for axes in panels:
        labels = [line.get_label() for line in axes.lines]
        assert labels == BRANCHES + (["shuffled features, best"] if axes is panels[-1] else [])
        assert all(len(line.get_xdata()) == 6 for line in axes.lines)
