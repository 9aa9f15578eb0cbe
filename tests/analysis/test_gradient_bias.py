import math
from dataclasses import replace

import polars as pl
import pytest
import torch
from lightning_fabric import seed_everything
from torch_geometric.data import HeteroData

from lirdrec_pyg.analysis.gradient_bias import _dealt_out, _Watched, draw, measure_gradient_bias, verdict
from lirdrec_pyg.config import LIRDRecConfig, TrainingConfig
from lirdrec_pyg.data import modalities
from lirdrec_pyg.datasets import synthetic_data
from lirdrec_pyg.errors import ConfigError
from lirdrec_pyg.evaluation import RankingTask, evaluate_ranking
from lirdrec_pyg.models import LIRDRec
from lirdrec_pyg.training import EpochResult, Hooks, Trainer

MODEL = LIRDRecConfig(embedding_dim=16)
TRAINING = TrainingConfig(epochs=12, lr=2e-3, batch_size=256, device="cpu")
BRANCHES = ["image", "text", "shared", "id"]


def shop() -> HeteroData:
    """Users take items by what the features show."""
    return synthetic_data(200, 300, mean_interactions=10, cold_share=0.0).graph


def of_noise(graph: HeteroData, width: int) -> HeteroData:
    """With features that show nothing."""
    generator = torch.Generator().manual_seed(1)
    for modality in modalities(graph):
        graph["item"][f"x_{modality}"] = torch.randn(graph["item"].num_nodes, width, generator=generator)
    return graph


def own(table: pl.DataFrame) -> pl.DataFrame:
    return table.filter(pl.col("features") == "own")


@pytest.fixture(scope="module")
def planted() -> pl.DataFrame:
    return measure_gradient_bias(shop(), MODEL, TRAINING)


def test_a_row_for_each_training_epoch_and_branch(planted: pl.DataFrame) -> None:
    for _, part in planted.group_by("features"):
        assert part["epoch"].to_list() == [epoch for epoch in range(1, 13) for _ in BRANCHES]
        assert part["branch"].to_list() == 12 * BRANCHES
    assert planted["features"].to_list() == 48 * ["own"] + 48 * ["others"]
    figures = planted.drop("features", "epoch", "branch").to_torch()
    assert figures.isfinite().all()
    assert (figures > 0).all()
    assert planted["valid_users"].unique().to_list() == [len(RankingTask.from_graph(shop(), "val").user_index)]


def test_the_planted_effect_is_found(planted: pl.DataFrame) -> None:
    updates, quality = verdict(planted)
    assert "got gradients" in updates
    assert "the paper's finding holds here" in quality


# The wider noise is, the better it does in place of IDs.
@pytest.mark.parametrize("width", [4, 64, 512])
def test_the_verdict_turns_round_where_features_are_noise(width: int) -> None:
    _, quality = verdict(measure_gradient_bias(of_noise(shop(), width), MODEL, TRAINING))
    assert "does not hold here" in quality


def test_one_modality_that_says_nothing_does_not_turn_it_round() -> None:
    graph = shop()
    noise = of_noise(shop(), 64)
    graph["item"].x_image = noise["item"].x_image
    assert "holds here" in verdict(measure_gradient_bias(graph, MODEL, TRAINING))[1]


def test_dealing_out_features_keeps_those_of_an_item_together() -> None:
    graph = shop()
    graph["item"].mask_image = torch.rand(300) < 0.5
    dealt = _dealt_out(graph, 3)
    order = [
        int((graph["item"].x_text == row).all(dim=1).nonzero()[0, 0])
        for row in dealt["item"].x_text  # rows are all different
    ]
    assert sorted(order) == list(range(300))
    assert order != list(range(300))
    torch.testing.assert_close(dealt["item"].x_image, graph["item"].x_image[order])
    assert dealt["item"].mask_image.equal(graph["item"].mask_image[order])
    assert dealt["user", "interacts", "item"].edge_index.equal(graph["user", "interacts", "item"].edge_index)
    assert graph["item"].x_text.equal(shop()["item"].x_text)


def test_figures_of_the_first_step_are_those_of_a_step_by_hand() -> None:
    graph, training = shop(), TrainingConfig(epochs=1, lr=1e-2, batch_size=10**6, device="cpu")
    found = own(measure_gradient_bias(graph, MODEL, training))

    seed_everything(training.seed, verbose=False)
    data = LIRDRec.input_transform(MODEL)(LIRDRec.graph_transform(MODEL)(shop()))
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
    task = RankingTask.from_graph(data, "val")
    for row in range(len(BRANCHES)):
        part = slice(16 * row, 16 * (row + 1))
        alone = evaluate_ranking(user[:, part], item[:, part], task)["recall@20"]
        assert found["valid_recall@20"][row] == pytest.approx(alone, abs=0.02)


def test_a_seed_decides_everything_and_the_graph_stays_as_it_was() -> None:
    graph = shop()
    before = graph.edge_types
    short = TrainingConfig(epochs=2, lr=1e-2, batch_size=512, device="cpu")
    first, second = (measure_gradient_bias(graph, MODEL, short) for _ in range(2))
    assert first.equals(second)
    assert graph.edge_types == before
    assert "dct" not in graph["item"]


def test_what_was_measured_until_a_stop_is_kept() -> None:
    epochs: list[EpochResult] = []
    hooks = Hooks(on_epoch=epochs.append, should_stop=lambda: len(epochs) == 2)
    found = measure_gradient_bias(shop(), MODEL, TRAINING, hooks)
    assert found["epoch"].to_list() == 4 * [1] + 4 * [2]
    assert "not measured with the features of other items" in verdict(found)[1]


def test_a_stop_in_the_second_training_leaves_the_first() -> None:
    epochs: list[EpochResult] = []
    hooks = Hooks(on_epoch=epochs.append, should_stop=lambda: len(epochs) == 15)
    found = measure_gradient_bias(shop(), MODEL, TRAINING, hooks)
    assert found["features"].unique().to_list() == ["own"]
    assert found["epoch"].max() == 12


def table(gradient: float, change: float, id_recall: float, others: float) -> pl.DataFrame:
    """Figures of 20 epochs in which the features have ratios ``gradient`` and ``change``, and Recalls of 0.4 and 0.5
    at the end."""
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


@pytest.mark.parametrize(
    ("gradient", "change", "id_recall", "others", "conclusion"),
    [
        (3.0, 2.0, 0.2, 0.39, "finding holds here"),
        (3.0, 2.0, 0.47, 0.39, "finding holds here"),
        (3.0, 2.0, 0.48, 0.39, "for all the larger updates of the features, the ID vectors come as far"),
        # Two standard errors of 200 users are 0.0998 here.
        (3.0, 2.0, 0.2, 0.41, "the ID vectors stay poor, but features that say nothing of an item come as far"),
        (0.3, 2.0, 0.2, 0.3, "does not hold here: the ID vectors stay poor, but not for want of updates"),
        (3.0, 0.5, 0.6, 0.3, "does not hold here: the ID vectors neither lack updates nor stay poor"),
    ],
)
def test_the_verdict_follows_from_the_figures(
    gradient: float, change: float, id_recall: float, others: float, conclusion: str
) -> None:
    updates, quality = verdict(table(gradient, change, id_recall, others))
    assert "Over 20 epochs" in updates
    assert f"gradients {gradient:.3g} times as large" in updates
    assert f"moved {change:.3g} times as far" in updates
    assert (
        f"Recall@20 of {id_recall:.4f}, the feature branches at text 0.4000, shared 0.5000, "
        f"with the features of other items at best {others:.4f}: the paper's finding " in quality
    )
    assert conclusion in quality


def test_scaled_gradients_are_refused() -> None:
    with pytest.raises(ConfigError, match="16-mixed scales the gradients"):
        measure_gradient_bias(shop(), MODEL, TrainingConfig(precision="16-mixed", device="cpu"))


def test_the_figure_shows_every_branch_and_gradients_in_log_scale(planted: pl.DataFrame) -> None:
    pytest.importorskip("matplotlib")
    panels = draw(planted).axes
    assert [axes.get_yscale() for axes in panels] == ["log", "log", "linear"]
    for axes in panels:
        labels = [line.get_label() for line in axes.lines]
        assert labels == BRANCHES + (["others' features, best"] if axes is panels[-1] else [])
        assert all(len(line.get_xdata()) == 12 for line in axes.lines)
