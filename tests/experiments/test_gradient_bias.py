import math
from dataclasses import replace

import polars as pl
import pytest
import torch
from layout import check_layout
from lightning_fabric import seed_everything

from lirdrec_pyg.callback import Callback
from lirdrec_pyg.data import Dataset
from lirdrec_pyg.data.generator import generate
from lirdrec_pyg.errors import ConfigError
from lirdrec_pyg.evaluation import RankingTask, evaluate_ranking
from lirdrec_pyg.experiments import measure_gradient_bias
from lirdrec_pyg.experiments.gradient_bias import _Watched, _with_shuffled_features, verdict
from lirdrec_pyg.experiments.plots import draw_gradient_bias
from lirdrec_pyg.models import LIRDRec, LIRDRecConfig
from lirdrec_pyg.training import MONITOR, EpochResult, Trainer, TrainingConfig

MODEL = LIRDRecConfig(embedding_dim=16)
TRAINING = TrainingConfig(epochs=6, lr=4e-3, batch_size=256, device="cpu")
SHORT = TrainingConfig(epochs=2, lr=1e-2, batch_size=512, device="cpu")
BRANCHES = ["image", "text", "shared", "id"]


def shop() -> Dataset:
    """Users choose items by what the features show."""
    graph, users, items, _ = generate(200, 300, mean_interactions=10, cold_share=0.0)
    return Dataset(graph, users, items)


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


def test_there_is_no_verdict_after_a_few_epochs(planted: pl.DataFrame) -> None:
    updates, quality = verdict(planted)
    assert "gradients of the feature encoders" in updates
    assert "no verdict yet" in quality
    assert "`epochs`" in quality


@pytest.mark.slow
def test_the_planted_effect_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Trainer, "evaluate", lambda *_: {MONITOR: 0.0})  # single branches are measured apart
    training = replace(TRAINING, epochs=60, patience=60, lr=1e-2, batch_size=512)
    assert "the paper's finding holds here" in verdict(measure_gradient_bias(shop(), MODEL, training))[1]


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
    assert "shuffled features not measured; no verdict without" in verdict(found)[1]
    found = measure_gradient_bias(shop(), MODEL, SHORT, StopAfter(3))
    assert found["features"].unique().to_list() == ["own"]
    assert found["epoch"].max() == 2


def table(
    ids: float, others: float, gradient: float = 3.0, change: float = 2.0, users: int = 50_000, epochs: int = 60
) -> pl.DataFrame:
    """Build a table with these ratios of features to IDs, in which Recall@20 rises to these values and, for features,
    to 0.4 and 0.5."""
    ends = {"own": {"text": 0.4, "shared": 0.5, "id": ids}, "others": {"text": others, "shared": others / 2, "id": 0.9}}
    scales = {"text": 2.0, "shared": 0.5}
    rows = [
        {
            "features": features,
            "epoch": epoch,
            "branch": branch,
            "parameter_gradient": 0.1 * (scales[branch] * gradient if branch in scales else 1.0),
            "item_gradient": 0.1,
            "item_change": 0.2 * (scales[branch] * change if branch in scales else 1.0),
            "valid_recall@20": end * (1 - 0.8**epoch),
            "valid_users": users,
        }
        for features, branches in ends.items()
        for epoch in range(1, epochs + 1)
        for branch, end in branches.items()
    ]
    return pl.DataFrame(rows)


def test_the_verdict_follows_from_the_table() -> None:
    for settings, conclusion in (
        ({"ids": 0.2, "others": 0.39}, "the paper's finding holds here: features get larger updates"),
        ({"ids": 0.47, "others": 0.47}, "the paper's finding holds here"),
        ({"ids": 0.51, "others": 0.39}, "finding does not hold here: ID vectors do as well as features."),
        ({"ids": 0.2, "others": 0.51}, "finding does not hold here: shuffled features do as well as an item's own."),
        (
            {"ids": 0.6, "others": 0.3, "gradient": 0.3},
            "does not hold here: features get no larger gradients than IDs, and ID vectors do as well as features.",
        ),
        ({"ids": 0.2, "others": 0.3, "change": 0.5}, "does not hold here: features change no more than IDs."),
    ):
        updates, quality = verdict(table(**settings))  # type: ignore[arg-type]
        assert "Over 60 epochs" in updates
        assert f"were {settings.get('gradient', 3)} times as large" in updates
        assert f"changed {settings.get('change', 2)} times as much" in updates
        ids, others = settings["ids"], settings["others"]
        assert f"ID {ids:.4f}, features text 0.4000, shared 0.5000, shuffled features at best {others:.4f}" in quality
        assert conclusion in quality


def test_a_difference_that_may_be_noise_gives_no_verdict() -> None:
    # Two standard errors of 200 users are 0.0998 here.
    assert "finding holds here" in verdict(table(0.39, 0.39, users=200))[1]
    for ids, others, text in (
        (0.42, 0.3, "ID vectors do as well as features"),
        (0.5, 0.3, "ID vectors do as well as features"),
        (0.3, 0.42, "shuffled features do as well as an item's own"),
    ):
        quality = verdict(table(ids, others, users=200))[1]
        assert f"no verdict, since within the noise {text}. Measure on more users" in quality
    found = table(0.2, 0.2, change=1)
    larger = pl.when(pl.col("branch") != "id").then(pl.when(pl.col("epoch") % 2 == 0).then(10).otherwise(0.12))
    noisy = found.with_columns(pl.col("item_change") * larger.otherwise(1))
    assert "within the noise features change no more than IDs" in verdict(noisy)[1]


def test_there_is_no_verdict_while_a_curve_may_rise() -> None:
    assert "finding holds here" in verdict(table(0.2, 0.3, epochs=20))[1]
    short = verdict(table(0.2, 0.3, epochs=19))[1]
    assert "Recall@20 of the ID vectors, the features, the shuffled features may still rise" in short

    def quality(rows: pl.Expr, curve: pl.Expr) -> str:
        recall = pl.when(rows).then(curve).otherwise("valid_recall@20").alias("valid_recall@20")
        return verdict(table(0.2, 0.3).with_columns(recall))[1]

    epoch, ids, own = pl.col("epoch"), pl.col("branch") == "id", pl.col("features") == "own"
    late = 0.2 * (1 - 0.5 ** (epoch / 30))
    for rows, curve, name in (
        (own & ids, 0.003 * epoch, "the ID vectors"),
        (own & ids, late, "the ID vectors"),
        (own & ids, 0.02 + 1e-5 * epoch, "the ID vectors"),  # still at chance
        (own & ~ids, 3 * late, "the features"),
        (~own & ~ids, late, "the shuffled features"),
    ):
        assert f"no verdict yet, since Recall@20 of {name} may still rise. Train longer" in quality(rows, curve)
    for rows, curve in (
        (~own & ids, late),  # not compared
        (own & (pl.col("branch") == "text"), late),  # below the best branch
        (own & ~ids, 0.6 - 0.001 * epoch),
        (~own & ~ids, pl.lit(0.02)),
    ):
        assert "finding holds here" in quality(rows, curve)


def test_settings_that_hide_what_is_measured_are_refused() -> None:
    for settings in ({"precision": "16-mixed"}, {"sampling": "neighbors"}, {"user_gradients": "sparse"}):
        ((name, value),) = settings.items()
        with pytest.raises(ConfigError, match=f"`{name}={value!r}`"):
            measure_gradient_bias(shop(), MODEL, TrainingConfig(device="cpu", **settings))  # type: ignore[arg-type]


def test_plot_shows_every_branch_and_gradients_on_a_log_scale(planted: pl.DataFrame) -> None:
    pytest.importorskip("matplotlib")
    figure = draw_gradient_bias(planted)
    panels = figure.axes
    assert [axes.get_yscale() for axes in panels] == ["log", "log", "linear"]
    for axes in panels:
        labels = [line.get_label() for line in axes.lines]
        assert labels == BRANCHES + (["shuffled features, best"] if axes is panels[-1] else [])
        assert all(len(line.get_xdata()) == 6 for line in axes.lines)


def test_nothing_overlaps_in_the_plot(planted: pl.DataFrame) -> None:
    pytest.importorskip("matplotlib")
    for epochs in (1, 500):
        found = table(0.2, 0.3, epochs=epochs).with_columns(pl.col("branch").replace("text", "long name " * 9))
        check_layout(draw_gradient_bias(found))
    check_layout(draw_gradient_bias(planted))
