import re
import shlex
from dataclasses import fields, replace
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
import vl_convert
from commands import lirdrec
from jinja2 import Environment, PackageLoader

from lirdrec_pyg import DataConfig, LIRDRecConfig, Recommender, TrainingConfig, fit
from lirdrec_pyg.data import INTERACTS, Dataset, ItemCatalog
from lirdrec_pyg.data.drawings import draw_items
from lirdrec_pyg.data.generator import generate
from lirdrec_pyg.errors import ConfigError
from lirdrec_pyg.evaluation import RankingTask, evaluate_ranking, holm, metrics_by_user, paired_bootstrap
from lirdrec_pyg.models import EASEConfig, PopularityConfig
from lirdrec_pyg.recommender import Evaluator
from lirdrec_pyg.recommender.images import ItemImages
from lirdrec_pyg.report import branches, charts, comparison, data, item_map, metrics, training
from lirdrec_pyg.report.gallery import Gallery
from lirdrec_pyg.report.lead import lead
from lirdrec_pyg.report.section import Section
from lirdrec_pyg.training.config import PRESETS, Preset

TRAINING = TrainingConfig(epochs=3, lr=1e-2, batch_size=64, device="cpu")
MODEL = LIRDRecConfig(embedding_dim=8)
HOSTILE = "</script><img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def generated() -> Dataset:
    graph, users, items, facts = generate(60, 80)
    return Dataset(graph, users, items, catalog=draw_items(graph, items), facts=facts)


@pytest.fixture(scope="module")
def trained(generated: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Recommender:
    return fit(generated, MODEL, TRAINING, tmp_path_factory.mktemp("numbers") / "run")


@pytest.fixture(scope="module")
def other(generated: Dataset) -> Recommender:
    return fit(generated, replace(MODEL, item_graph=False), TRAINING)


def shown(section: Section) -> str:
    """Return the HTML of a section."""
    environment = Environment(loader=PackageLoader("lirdrec_pyg.report"), autoescape=True)
    return environment.get_template(section.template).render(section.content, pictures={})


def values_of(section: Section, name: str, column: int) -> dict[str, Any]:
    return {metric: values[column] for metric, _, values in section.content[name]}


def assert_draws(chart: charts.Chart) -> None:
    svg = vl_convert.vegalite_to_svg(chart.spec())
    assert "<path" in svg
    assert "NaN" not in svg


def test_metrics_are_those_of_the_run_and_of_the_baselines(trained: Recommender, generated: Dataset) -> None:
    section = metrics.section(trained)
    models = section.content["names"]
    assert models == ["lirdrec", "as recommended", "ease", "popularity"]
    task = RankingTask.from_graph(trained.graph, "test")
    expected = [
        trained.evaluate("test"),
        evaluate_ranking(trained.vectors.user, trained.vectors.item, task),
        fit(generated, EASEConfig()).metrics["test"],
        fit(generated, PopularityConfig()).metrics["test"],
    ]
    assert expected[0] == trained.metrics["test"]
    for column, found in enumerate(expected):
        for metric, (value, best) in values_of(section, "metrics", column).items():
            assert value == pytest.approx(found[metric], abs=1e-6), (models[column], metric)
            assert best == (value == max(each[metric] for each in expected))
    of_lists = trained.metrics["beyond_accuracy"]["test"]
    for metric, value in values_of(section, "of_lists", 0).items():
        assert value == charts.number(of_lists[metric])
    assert set(section.content["all"].frame.columns) == {"metric", "@5", "@10", "@20", "@50"}
    assert section.content["unclicked"] == int((trained.popularity == 0).sum()) == 8
    first_lines = lead(trained, section)["values"]
    assert first_lines["recall"] == pytest.approx(expected[1]["recall@20"])
    assert first_lines["others"] == pytest.approx(
        {"ease": expected[2]["recall@20"], "popularity": expected[3]["recall@20"]}
    )


@pytest.mark.parametrize("preset", ["fast", "best"])
def test_a_preset_is_named_whatever_its_training_chose(trained: Recommender, preset: Preset) -> None:
    chosen = {**PRESETS[preset], "race": False, "new_item_scale": 1.5, "item_graph": False}
    configs = [
        replace(config, **{field.name: chosen[field.name] for field in fields(config) if field.name in chosen})
        for config in (MODEL, TRAINING)
    ]
    run = replace(trained, model_config=configs[0], training_config=configs[1])
    assert lead(run, Section("", "", "", {}))["preset"] == preset


def test_metrics_by_activity_and_popularity(trained: Recommender) -> None:
    section = metrics.section(trained)
    for kind in ("user activity", "item popularity"):
        chart = section.content["charts"][f"By {kind}"]
        assert_draws(chart)
        buckets = [b for b in Evaluator(trained).buckets("test") if b.kind == kind]
        table = chart.table
        assert table["interactions"].to_list() == [b.interactions for b in buckets]
        assert table["held-out pairs"].to_list() == [b.num_pairs for b in buckets]
        assert table["lirdrec"].to_list() == pytest.approx([b.metrics["recall@20"] for b in buckets])
    html = shown(section)
    assert f"<strong>{max(each[0] for each in section.content['metrics'][0][2]):.4f}</strong>" in html


@pytest.mark.parametrize("refit", [True, False])
def test_without_held_out_interactions(learnable_shop: Path, refit: bool) -> None:
    split = "labels" if refit else "none"
    found = fit(DataConfig(data=str(learnable_shop), split=split), MODEL, replace(TRAINING, refit=refit))
    section = metrics.section(found)
    assert "all interactions" in section.content["note"].lower()
    assert ("names" in section.content) == refit
    if refit:
        assert section.content["metrics"][0][2] == [(found.metrics["test"]["recall@20"], False)]
    assert "EASE" not in shown(section)
    section = comparison.section([found, found], ["a", "b"], Gallery(found))
    assert section is not None
    assert "no metrics to compare" in shown(section)


def test_held_out_items(learnable_shop: Path) -> None:
    found = fit(DataConfig(data=str(learnable_shop), split="cold-items"), MODEL, TRAINING)
    section = metrics.section(found)
    table = section.content["cold"].frame
    for name, expected in found.metrics["cold_start"]["test"].items():
        row = table.row(by_predicate=pl.col("ranking") == name, named=True)
        assert row["recall@20"] == pytest.approx(expected["recall@20"], abs=1e-6)
    assert "not part of the training" in shown(section)
    shares = found.metrics["cold_start"]["test"]["cold among all"]
    assert section.content["shares"] == pytest.approx(shares)
    assert f"New items are {shares['offered@20']:.0%} of" in shown(section).replace("&nbsp;%", "%")
    assert data.section(found).content["counts"]["Items that were not part of the training"] == str(
        len(found.items) - found.num_trained_items
    )
    assert item_map.section(found, ItemImages(found)).content["num_items"] == len(found.items)


def test_models_that_are_baselines_themselves(generated: Dataset) -> None:
    found = fit(generated, EASEConfig())
    assert metrics.section(found).content["names"] == ["ease", "popularity"]
    assert item_map.section(found, ItemImages(found)) is None
    assert branches.section(found) is None
    assert training.section(found).content["charts"] == {}
    shown(training.section(found))


def test_differences_are_those_of_the_paired_bootstrap(trained: Recommender, other: Recommender) -> None:
    runs = [trained, other, replace(trained, vectors=trained.vectors)]
    section = comparison.section(runs, ["first", "other", "same"], Gallery(trained))
    assert section is not None
    rows = section.content["differences"]
    task = RankingTask.from_graph(trained.graph, "test")
    p = []
    for row in rows:
        a, b = (
            metrics_by_user(Evaluator(run).ranker, task, int(row.metric.split("@")[1]))[row.metric]
            for run in (trained, {"other": other, "same": trained}[row.run])
        )
        assert (row.first, row.value) == pytest.approx((float(a.mean()), float(b.mean())))
        p.append(float(paired_bootstrap(b, a)))
    assert [row.p for row in rows] == pytest.approx(p)
    assert [row.corrected for row in rows] == pytest.approx(holm(torch.tensor(p)).tolist())
    assert {(row.run, row.metric) for row in rows} == {
        (run, f"{name}@{k}") for run in ("other", "same") for name in ("recall", "ndcg") for k in (10, 20)
    }
    html = shown(section)
    assert html.count("<strong>+") + html.count("<strong>-") == sum(row.corrected <= 0.05 for row in rows)


def test_users_whose_lists_changed_most(trained: Recommender, other: Recommender) -> None:
    section = comparison.section([trained, other], ["first", "other"], Gallery(trained))
    assert section is not None
    (change,) = section.content["changes"]
    lists = [run.recommend(k=20) for run in (trained, other)]
    common = {
        user: len(
            set(lists[0].filter(pl.col("user") == user)["item"]) & set(lists[1].filter(pl.col("user") == user)["item"])
        )
        for user in trained.users.ids
    }
    assert change["mean"] == pytest.approx(np.mean([*common.values()]))
    assert [person.common for person in change["users"]] == sorted(common.values())[:4]
    for person in change["users"]:
        assert person.common == common[person.user]
        mine, theirs = (frame.filter(pl.col("user") == person.user)["item"] for frame in lists)
        titles = trained.dataset.catalog.titles(mine)
        assert [item.title for item, _ in person.lists[0]] == titles[:12].to_list()
        assert [both for _, both in person.lists[0]] == [item in theirs.to_list() for item in mine[:12]]
    assert change["chart"].table["users"].sum() == len(common)
    assert_draws(change["chart"])


def test_runs_on_other_data_are_refused(trained: Recommender, other: Recommender) -> None:
    comparison.check_comparable([trained, other])
    graph, users, items, _ = generate(60, 80, seed=1)
    changed = replace(other, dataset=Dataset(graph, users, items), path=Path("runs/second"))
    with pytest.raises(ConfigError, match=r"runs/second and .*run have different data or splits.*`split`"):
        comparison.check_comparable([trained, changed])


def test_map_has_each_item_with_title_and_image(trained: Recommender, monkeypatch: pytest.MonkeyPatch) -> None:
    section = item_map.section(trained, ItemImages(trained))
    assert section is not None
    chart = section.content["chart"]
    assert_draws(chart)
    values = chart.spec()["data"]["values"]
    assert [row["title"] for row in values] == trained.catalog_rows["title"].to_list()
    assert [row["interactions"] for row in values] == trained.popularity.tolist()
    assert all(row["image"].startswith("data:image/svg+xml") for row in values)
    monkeypatch.setattr(item_map, "_MAX_URI_LENGTH", 5000)
    uris = [
        row.get("image", "")
        for row in item_map.section(trained, ItemImages(trained)).content["chart"].spec()["data"]["values"]
    ]
    assert 4000 < sum(map(len, uris)) <= 5000
    monkeypatch.setattr(item_map, "_MAX_ITEMS", 30)
    few = item_map.section(trained, ItemImages(trained)).content
    assert (few["num_shown"], few["num_items"]) == (30, 80)


def test_colors_are_those_of_the_column_that_explains_the_vectors(trained: Recommender) -> None:
    ids = trained.items.ids
    group = pl.int_range(len(ids), eager=True) % 3
    names = pl.DataFrame({"name": ["red", "lime", "blue"]})["name"].gather(group)
    rows = {"id": ids, "unique": ids, "noise": group.reverse() // 2, "kind": names, "constant": "a"}
    item = torch.eye(3)[torch.tensor(group.to_list())] + 0.01 * torch.randn(len(ids), 3)
    changed = replace(
        trained,
        dataset=replace(trained.dataset, catalog=ItemCatalog(pl.DataFrame(rows))),
        vectors=replace(trained.vectors, item=item),
    )
    section = item_map.section(changed, ItemImages(changed))
    assert section is not None
    assert section.content["column"] == "kind"
    assert 0.99 < section.content["explained"] < 1
    assert not section.content["has_images"]
    color = section.content["chart"].spec()["encoding"]["color"]
    assert color["scale"] == {"domain": ["blue", "lime", "red"], "range": ["blue", "lime", "red"]}
    bare = replace(trained, dataset=replace(trained.dataset, catalog=None))
    color = item_map.section(bare, ItemImages(bare)).content["chart"].spec()["encoding"]["color"]
    assert color["field"] == "interactions"


def test_nothing_of_the_data_ends_a_script_or_becomes_html(trained: Recommender) -> None:
    rows = pl.DataFrame({"item_id": trained.items.ids, "title": HOSTILE, HOSTILE: ["a", HOSTILE] * 40})
    hostile = trained.with_catalog(rows, picture=None)
    section = item_map.section(hostile, ItemImages(hostile))
    assert section is not None
    html = shown(section)
    assert "<img" not in html
    assert html.count("</script>") == 1
    table = charts.Table(pl.DataFrame({HOSTILE: [HOSTILE]}))
    assert "<img" not in table.__html__()
    assert charts.script().count("</script") == 1


def test_popularity_curve_in_closed_form(trained: Recommender) -> None:
    users = torch.arange(60)
    # Item 0 has 60 interactions, item 1 has 30, items 2 and 3 have 5, and no other has any.
    item = torch.cat([torch.full((n,), i) for i, n in enumerate((60, 30, 5, 5))])
    edges = torch.stack([torch.cat([users, users[:30], users[:5], users[:5]]), item])
    graph = trained.graph.clone()
    graph[INTERACTS].edge_index = edges
    share = data.popularity_curve(replace(trained, dataset=replace(trained.dataset, graph=graph)), points=160)
    # 80 items in 160 steps: every second point is that of a number of items.
    assert share[::2][:6] == pytest.approx([0, 0.6, 0.9, 0.95, 1, 1])
    assert share[1] == pytest.approx(0.3)
    assert share[-1] == pytest.approx(1)


def test_missing_and_repeated_features_are_counted(trained: Recommender) -> None:
    graph = trained.graph.clone()
    x = graph["item"].x_text.clone()
    x[:3], x[5], x[6] = 0, x[7], x[7]
    mask = torch.ones(len(x), dtype=torch.bool)
    mask[:3] = False
    graph["item"].x_text, graph["item"].mask_text = x, mask
    section = data.section(replace(trained, dataset=replace(trained.dataset, graph=graph)))
    table = section.content["features"].frame
    row = table.row(by_predicate=pl.col("modality") == "text", named=True)
    assert (row["items without features"], row["zero vectors"], row["repeated vectors"]) == (3, 0, 2)
    counts = section.content["counts"]
    summary = trained.dataset.summary()
    assert counts["Interactions"] == f"{summary['interactions']:,}"
    assert counts["Items without a title"] == counts["Items without an image"] == "0"
    assert_draws(section.content["chart"])
    assert "synthetic" in shown(section)


def test_branches_are_equal_only_if_they_are(trained: Recommender) -> None:
    def of(weights: torch.Tensor) -> Section:
        section = branches.section(replace(trained, vectors=replace(trained.vectors, user_weight=weights)))
        assert section is not None
        assert_draws(section.content["chart"])
        return section

    equal = of(torch.full((60, 3), 1 / 3))
    assert equal.content["equal"] == 1
    assert "Here they are equal" in shown(equal)
    weights = torch.full((60, 3), 1 / 3)
    weights[:45] = torch.tensor([0.6, 0.2, 0.2])
    some = of(weights)
    assert some.content["equal"] == pytest.approx(0.25)
    assert some.content["heaviest"] == pytest.approx({"image": 0.75, "text": 0, "shared": 0})
    assert re.search(r"image for 75.* for 25\xa0%, the largest weights are equal", unescape(shown(some)), re.DOTALL)
    assert "equal" not in shown(of(torch.tensor([[0.6, 0.2, 0.2]]).expand(60, 3)))


def test_training_is_told_by_its_files(trained: Recommender) -> None:
    section = training.section(trained)
    history = pl.read_csv(trained.path / "history.csv")
    loss, valid = section.content["charts"]["Loss"], section.content["charts"]["Validation"]
    assert loss.table["loss"].to_list() == pytest.approx(history["loss"].to_list())
    assert valid.table["recall@20"].to_list() == pytest.approx(history["valid_recall@20"].to_list())
    assert f"best epoch is {trained.metrics['best_epoch']} of 3" in valid.label
    assert_draws(loss)
    assert_draws(valid)
    html = shown(section)
    assert f"{trained.metrics['parameters']:,}" in html
    assert "from memory" in html
    assert "embedding_dim: 8" in html


def test_copy_of_a_run_has_no_curves(trained: Recommender, tmp_path: Path) -> None:
    section = training.section(trained.save(tmp_path / "copy"))
    assert section.content["charts"] == {}
    assert str(trained.metrics["best_epoch"]) in section.content["facts"]["Best epoch"]


def test_command_repeats_the_run(learnable_shop: Path, tmp_path: Path) -> None:
    run = tmp_path / "a run"
    found = fit(DataConfig(data=str(learnable_shop)), MODEL, TRAINING, run)
    section = training.section(found)
    program, command, *args = shlex.split(section.content["command"])
    assert program == "lirdrec-pyg"
    result = lirdrec(command, *args)
    assert result.exit_code == 0, result.output
    assert Recommender.load(tmp_path / "a run-again").metrics["test"] == found.metrics["test"]
    updated = replace(found, dataset=replace(found.dataset, config=DataConfig()))  # as after an update
    assert training.section(updated).content["command"] is None


def test_race_and_linear_branch(generated: Dataset) -> None:
    config = replace(MODEL, linear_dim=4, linear_l2=20.0, linear_content={"text": 2.0}, linear_weight=0.5)
    found = fit(generated, config, TRAINING)
    metrics_of = {
        **found.metrics,
        "race": [
            {"variant": "as given", "epochs": 2, "recall@20": 0.25},
            {"variant": "item_graph=False", "epochs": 2, "recall@20": 0.5},
            {"variant": "item_graph=False", "epochs": 3, "recall@20": 0.75},
        ],
    }
    section = training.section(replace(found, metrics=metrics_of))
    assert section.content["winner"] == "as given"
    assert section.content["race"].frame.rows() == [("as given", 0.25, None), ("item_graph=False", 0.5, 0.75)]
    assert re.search(
        "linear branch of 4 columns .* weight 0.5 .*regularization 20; .*text 2", section.content["linear"]
    )
    without = replace(found, metrics=metrics_of, model_config=replace(config, item_graph=False))
    assert training.section(without).content["winner"] == "item_graph=False"
    shown(section)
