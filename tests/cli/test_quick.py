"""Plain questions, which are answered without torch."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from commands import lirdrec
from polars.testing import assert_frame_equal
from runs import change_versions, flip, reseal
from safetensors.numpy import load_file, save_file

from lirdrec_pyg import ItemCatalog, LIRDRecConfig, Recommender, TrainingConfig, fit
from lirdrec_pyg.cli.quick import quick_answer
from lirdrec_pyg.data import INTERACTS
from lirdrec_pyg.datasets import synthetic_data
from lirdrec_pyg.files import CHECKSUMS, checksum, format_checksums
from lirdrec_pyg.recommender.columns import title_column


@pytest.fixture(scope="module")
def titled_run(cold_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with integer IDs, held-out items, a vector of zeros, and titles, of which some are missing."""
    path = tmp_path_factory.mktemp("titled") / "run"
    recommender = Recommender.load(cold_run)
    vectors = recommender.vectors
    item = vectors.item.index_fill(0, torch.tensor([5]), 0.0)
    ids = recommender.items.ids[1:]
    catalog = pl.DataFrame({"id": ids[::-1], "title": "the " + ids[::-1].cast(pl.String)})
    changed = replace(recommender, vectors=replace(vectors, item=item), checksums=None)
    changed.with_catalog(catalog).save(path)
    return path


def test_answers_are_those_of_the_library(run: Path, titled_run: Path) -> None:
    for path in (run, titled_run):
        recommender = Recommender.load(path)
        columns = title_column(recommender)
        users, items = recommender.users.ids.cast(pl.String), recommender.items.ids
        for (command, *options), expected in (
            (("recommend", "--users", ",".join(users)), recommender.recommend(k=99, columns=columns)),
            *((("similar", "--item", str(i)), recommender.similar_items(i, 99, columns=columns)) for i in items[::4]),
        ):
            found = quick_answer(command, [str(path), *options, "-k", "99"])
            assert found is not None
            assert isinstance(found.found, pl.DataFrame)
            assert_frame_equal(found.found, expected, check_dtypes=False, abs_tol=1e-5)


@pytest.fixture(scope="module")
def linear_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a linear branch, titles, and an item without a text."""
    path = tmp_path_factory.mktemp("linear") / "run"
    dataset = synthetic_data(30, 40)
    graph = dataset.graph
    item = int(graph[INTERACTS].edge_index[1, 0])
    graph["item"].mask_text = torch.arange(40) != item
    graph["item"].x_text[item] = 0
    model = LIRDRecConfig(embedding_dim=4, knn_k=4, linear_dim=5, linear_l2=9.0, linear_weight=0.5)
    fit(dataset, model, TrainingConfig(epochs=2), path)
    return path


def test_explanations_are_those_of_the_library(run: Path, shop_run: Path, linear_run: Path) -> None:
    for path in (run, shop_run, linear_run):
        recommender = Recommender.load(path)
        columns = title_column(recommender)
        edges = recommender.graph[INTERACTS].edge_index
        users, items = recommender.users.ids, recommender.items.ids
        asked = [(edges[0, 0], edges[1, 0]), (edges[0, 0], 3), (7, 0), (3, 5)]  # the first one has the item
        for user, item in ((users[int(row)], items[int(column)]) for row, column in asked):
            answer = quick_answer("explain", [str(path), "--user", str(user), "--item", str(item)])
            assert answer is not None
            for found, expected in zip(answer.found, recommender.explain(user, item, columns=columns), strict=True):
                if isinstance(expected, pl.DataFrame):
                    assert_frame_equal(found, expected, check_dtypes=False, abs_tol=1e-5)
                else:
                    assert found == pytest.approx(expected, abs=1e-5)


QUESTIONS = (
    ("recommend", "--users", "user-3, user-1,user-3", "-k", 2),
    ("recommend", "--users", "user-2"),
    ("similar", "--item", "item-7"),
    ("explain", "--user", "user-3", "--item", "item-7"),
)


def test_answers_are_printed_as_usual_without_torch(run: Path) -> None:
    questions = [[command, str(run), *map(str, options)] for command, *options in QUESTIONS]
    program = (
        "import sys\n"
        "from lirdrec_pyg.cli import main\n"
        f"for question in {questions}: main(question, standalone_mode=False)\n"
        "assert not {'torch', 'torch_geometric'} & sys.modules.keys()"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    expected = "".join(lirdrec(command, run, *options).stdout for command, *options in QUESTIONS)  # with --device cpu
    for found, usual in zip(done.stdout.split(), expected.split(), strict=True):
        if found != usual:  # the last digit of a number
            assert float(found.rstrip("%,")) == pytest.approx(
                float(usual.rstrip("%,")), abs=2e-4 if "%" not in usual else 0.11
            )


def test_only_the_command_itself_answers_what_is_unusual(run: Path, tmp_path: Path) -> None:
    def is_answered(path: Path, command: str = "recommend", *options: str) -> bool:
        return quick_answer(command, [str(path), *(options or ("--users", "user-1"))]) is not None

    assert is_answered(run)
    for command, *options in (
        ("recommend", "--users", "user-1,nobody"),
        ("recommend", "--users", "user-1", "--explain"),
        ("recommend", "--users", "user-1", "-k", "0"),
        ("recommend", "--history", "item-1"),
        ("recommend", "--help"),
        ("similar", "--item", "nothing"),
        ("similar", "--item", "item-1", "--by", "image"),
        ("explain", "--user", "user-1", "--item", "nothing"),
        ("explain", "--user", "user-1", "--item", "item-1", "--nearest", "2"),
    ):
        assert not is_answered(run, command, *options)
    assert not is_answered(tmp_path / "nowhere")


def _change(path: Path, name: str, **tensors: np.ndarray) -> None:
    save_file({**load_file(path / name), **tensors}, path / name)
    reseal(path)


def _without_history(path: Path) -> None:
    key = "user/interacts/item:edge_index"
    pairs = load_file(path / "graph.safetensors")[key]
    _change(path, "graph.safetensors", **{key: np.ascontiguousarray(pairs[:, pairs[0] != 1])})


def _interrupted(path: Path) -> None:
    (path / "metrics.json").write_text(json.dumps({"refit": {"stopped": "interrupted", "epochs": 1}}, indent=2))


def _of_format_1(path: Path) -> None:
    change_versions(path, format=1)
    reseal(path)


def _with_clashing_title(path: Path) -> None:
    ids = pl.read_parquet(path / "items.parquet")
    ItemCatalog(ids.with_columns(score=pl.lit("x")), title="score").save(path / "catalog.parquet")
    with (path / CHECKSUMS).open("a") as file:
        file.write(format_checksums({"catalog.parquet": checksum(path / "catalog.parquet")}))


CHANGES: dict[str, Callable[[Path], object]] = {
    "unfinished": lambda path: (path / CHECKSUMS).unlink(),
    "interrupted refit": _interrupted,
    "no metrics": lambda path: (path / "metrics.json").unlink(),
    "another format": _of_format_1,
    "damaged": lambda path: flip(path / "model.safetensors"),
    "unlisted": lambda path: (path / "new_items.parquet").write_bytes(b""),
    "no training interactions": _without_history,
    "title that clashes": _with_clashing_title,
}


def test_only_the_command_itself_answers_about_an_unusual_run(run: Path, tmp_path: Path) -> None:
    for name, change in CHANGES.items():
        path = Path(shutil.copytree(run, tmp_path / name))
        assert quick_answer("recommend", [str(path), "--users", "user-1"]) is not None
        change(path)
        assert quick_answer("recommend", [str(path), "--users", "user-1"]) is None, name
    path = Path(shutil.copytree(run, tmp_path / "equal"))
    _change(path, "vectors.safetensors", item=np.ones_like(load_file(path / "vectors.safetensors")["item"]))
    assert quick_answer("similar", [str(path), "--item", "item-1"]) is None
