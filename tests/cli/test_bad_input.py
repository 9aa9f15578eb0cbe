"""Each mistake leads to one sentence that names the culprit, exit code 2, and nothing written."""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from click.testing import CliRunner, Result
from commands import assert_refused, lirdrec
from runs import contents

from lirdrec_pyg.cli import main

Change = Callable[[Path], None]


def features(change: Callable[[np.ndarray], np.ndarray]) -> Change:
    def apply(folder: Path) -> None:
        path = folder / "image_feat.npy"
        np.save(path, change(np.load(path)))

    return apply


def lines(change: Callable[[list[str]], list[str]]) -> Change:
    def apply(folder: Path) -> None:
        path = folder / "shop.inter"
        path.write_text("\n".join(change(path.read_text().splitlines())) + "\n")

    return apply


def put(value: float) -> Callable[[np.ndarray], np.ndarray]:
    def change(x: np.ndarray) -> np.ndarray:
        x[3, 1] = value
        return x

    return change


def zero_row(x: np.ndarray) -> np.ndarray:
    x[4] = 0
    return x


def one_item(folder: Path) -> None:
    rows = [f"{user}\t0\t{label}" for label in (0, 1, 2) for user in range(3 * label, 3 * label + 3)]
    (folder / "shop.inter").write_text("\n".join(["userID\titemID\tx_label", *rows]))
    for name in ("image", "text"):
        path = folder / f"{name}_feat.npy"
        np.save(path, np.load(path)[:1])


def one_item_table(folder: Path) -> None:
    (folder / "shop.inter").unlink()
    (folder / "shop.csv").write_text("user_id,item_id\n" + "".join(f"{user},0\n" for user in range(9)))
    for name in ("image", "text"):
        path = folder / f"{name}_feat.npy"
        np.save(path, np.load(path)[:1])


def unnamed_ids(folder: Path) -> None:
    x = np.load(folder / "image_feat.npy")
    (folder / "image_feat.npy").unlink()
    pl.DataFrame({"n_photos": range(30), "product": range(30), "f0": x[:, 0]}).write_parquet(
        folder / "image_feat.parquet"
    )


def all_in_training(rows: list[str]) -> list[str]:
    return [rows[0], *(row.rsplit("\t", 1)[0] + "\t0" for row in rows[1:])]


def table(change: Callable[[list[list[str]]], list[list[str]]]) -> Change:
    """Replace the table by a CSV of users, items and ``change``."""

    def apply(folder: Path) -> None:
        rows = [row.split("\t")[:2] for row in (folder / "shop.inter").read_text().splitlines()[1:]]
        (folder / "shop.inter").unlink()
        (folder / "shop.csv").write_text("\n".join(map(",".join, [["user_id", "item_id", "date"], *change(rows)])))

    return apply


def dated(written: Callable[[int], object]) -> Change:
    return table(lambda rows: [[*row, str(written(n))] for n, row in enumerate(rows)])


def duplicate_ids(folder: Path) -> None:
    (folder / "ids.txt").write_text("\n".join(map(str, [*range(29), 0])))


CASES: dict[str, tuple[Change, list[str], str]] = {
    "no such folder": (lambda f: None, ["--data", "nowhere"], "nowhere"),
    "folder without a table": (lambda f: (f / "shop.inter").unlink(), [], "no table of interactions"),
    "folder without features": (lambda f: [p.unlink() for p in f.glob("*.npy")] and None, [], "no item features"),
    "no such feature file": (lambda f: None, ["--features", "image=gone.npy"], "gone.npy"),
    "wrong column": (lambda f: None, ["--user-column", "who"], "'who'"),
    "broken line": (lines(lambda r: [*r[:5], "x\ty\tz\tz\tz\tz", *r[5:]]), [], "shop.inter"),
    "missing ID": (lines(lambda r: [*r[:5], "\t3\t0", *r[6:]]), [], "line 6"),
    "word for a missing ID": (
        lines(lambda r: [*r[:5], "nan\t3\t0", *r[6:], "NULL\t4\t0"]),
        [],
        "no 'userID' in line 6, where it is 'nan' (2 in total). Fill it in, or pass --missing-ids drop to drop such "
        "rows, or --missing-ids keep if 'nan' is an ID.",
    ),
    "header again": (lines(lambda r: [*r[:161], r[0], *r[161:]]), [], "repeats its header in line 162"),
    "no header": (lines(lambda r: r[1:]), [], "Pass --no-header, since its first line looks like data"),
    "header that is none": (
        lines(lambda r: r),
        ["--no-header"],
        "line 1 ('userID', 'itemID'; 1 in total). Leave out --no-header",
    ),
    "month or day first": (
        dated(lambda n: f"{n % 12 + 1:02}/{n % 11 + 1:02}/2020 10:00"),
        ["--split", "time"],
        "Pass --time-format as '%d/%m/%Y %H:%M' or '%m/%d/%Y %H:%M'",
    ),
    "seconds and milliseconds": (
        dated(lambda n: 1_600_000_000 * (1000 if n % 2 else 1)),
        ["--split", "time"],
        "mixes units of time, such as 1600000000 and 1600000000000",
    ),
    "wrong format of times": (
        dated(lambda n: "25/12/2020"),
        ["--split", "time", "--time-format", "%m/%d/%Y"],
        "'25/12/2020' in column 'date', line 2. It does not fit --time-format, '%m/%d/%Y'",
    ),
    "format without times": (lambda f: None, ["--time-format", "%Y"], "no column of times"),
    "rating that is no number": (lambda f: None, ["--min-rating", "x_label>=1,5"], "--min-rating is 'x_label>=1,5'"),
    "no such rating": (lambda f: None, ["--min-rating", "stars>=4"], "No column 'stars' for --min-rating"),
    "IDs from 1": (
        table(lambda rows: [[user, str(int(item) + 1), ""] for user, item in rows]),
        [],
        "IDs seem to count from 1: list the item IDs of the rows in a file, one per line, and pass it as --item-ids",
    ),
    "wrong label": (lines(lambda r: [*r[:5], "1\t3\t7", *r[6:]]), [], "line 6"),
    "binary noise": (lambda f: (f / "shop.inter").write_bytes(bytes(range(256)) * 9) and None, [], "shop.inter"),
    "fewer feature rows than items": (features(lambda x: x[:20]), [], "image_feat.npy has 20"),
    "NaN features": (features(put(np.nan)), [], "nan in row 3, column 1"),
    "infinite features": (features(put(np.inf)), [], "inf in row 3, column 1"),
    "zero-vector features": (features(zero_row), [], "all zeros in row 4"),
    "object features": (features(lambda x: x.astype(object)), [], "image_feat.npy"),
    "vector instead of matrix": (features(lambda x: x[:, 0]), [], "image_feat.npy"),
    "cut feature file": (
        lambda f: (f / "image_feat.npy").write_bytes((f / "image_feat.npy").read_bytes()[:300]) and None,
        [],
        "image_feat.npy",
    ),
    "empty validation split": (lines(all_in_training), [], "validation split is empty"),
    "empty table": (lines(lambda r: r[:1]), [], "holds no interactions"),
    "k-core that leaves nothing": (lambda f: None, ["--k-core", "99"], "99-core"),
    "duplicate item IDs": (duplicate_ids, ["--item-ids", "{folder}/ids.txt"], "ID 0 more than once"),
    "one-item catalog": (one_item, [], "At least two"),
    "one-item table without labels": (one_item_table, [], "At least two"),
    "feature file without named IDs": (unnamed_ids, [], "'item_id'"),
    "wrong label that no split needs": (
        lines(lambda r: [*r[:5], "1\t3\t7", *r[6:]]),
        ["--split", "random"],
        "line 6",
    ),
    "split without times": (lambda f: None, ["--split", "time"], "--time-column"),
    "unknown option": (lambda f: None, ["--num-layer", "2"], "--num-layer"),
    "option out of range": (lambda f: None, ["--epochs", "0"], "--epochs"),
    "no number": (lambda f: None, ["--lr", "fast"], "--lr"),
    "unknown choice": (lambda f: None, ["--split", "half"], "--split"),
    "unknown modality": (lambda f: None, ["--graph-weights", "smell=0.5"], "'smell'"),
    "weights above one": (lambda f: None, ["--graph-weights", "image=1.5"], "1.5"),
    "no pair": (lambda f: None, ["--features", "image"], "no folder 'image'"),
    "no such config": (lambda f: None, ["--config", "gone.yaml"], "gone.yaml"),
}


def fit(shop: Path, out: Path, *options: object) -> Result:
    return lirdrec("fit", "--data", shop, "--out", out, "--epochs", 1, "--embedding-dim", 8, *options)


@pytest.mark.parametrize("case", CASES)
def test_one_sentence_exit_2_nothing_written(case: str, shop: Path, tmp_path: Path) -> None:
    change, options, culprit = CASES[case]
    change(shop)
    assert_refused(fit(shop, tmp_path / "run", *(option.format(folder=shop) for option in options)), culprit)
    assert not (tmp_path / "run").exists()


def test_bad_config_files_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for content, culprit in {
        "epoch: 3": "did you mean 'epochs'",
        "epochs: many": "--epochs",
        "- a\n- b": "option: value",
        "epochs: [": "not YAML",
        "!!python/object/apply:os.system ['touch gotcha']": "not YAML",
        # Values of the wrong kind.
        "lr: {a: 1}": "lr",
        "epochs: [1]": "epochs",
        "epochs: 1.5": "--epochs",
        "epochs: true": "--epochs",
        "seed: 2024-01-01": "--seed",
        "graph_weights: 3": "graph_weights",
        "lr: .inf": "`lr`|--lr",
    }.items():
        Path("c.yaml").write_text(content)
        result = lirdrec("fit", "--data", "nowhere", "--out", "run", "--config", "c.yaml")
        assert result.exit_code == 2, result.output
        assert re.search(culprit, result.output)
        assert sorted(contents(tmp_path)) == ["c.yaml"]


def test_what_no_data_can_fix_is_refused_before_reading_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    (tmp_path / "file").write_text("")
    for options, culprit in (
        (("--out", tmp_path / "file" / "run"), "is a file"),
        (("--device", "cuda"), "--device cuda"),
        (("--split", "cold-items", "--dct", "2d"), "--dct feature"),
        (("--split", "cold-items", "--cold-fraction", 0), "--cold-fraction"),
        (("--split", "cold-items", "--cold-fraction", 0.95), "--cold-fraction"),
        (("--seed", "99999999999"), "--seed"),
        (("--seed", "-1"), "--seed"),
        (("--seed", "x"), "--seed"),
    ):
        command = ["fit", "--data", "nowhere", "--out", tmp_path / "run", *options]
        assert_refused(CliRunner().invoke(main, [*map(str, command)]), culprit)
        assert [*contents(tmp_path)] == ["file"]


def test_generated_data_have_no_data_options(tmp_path: Path) -> None:
    for options in (("--k-core", 5), ("--features", "x=y.npy"), ("--split", "labels")):
        assert_refused(fit(Path("synthetic"), tmp_path / "run", *options), options[0], "--data synthetic")


def test_too_few_items_to_hold_out(shop: Path, tmp_path: Path) -> None:
    options = ("--split", "cold-items", "--cold-fraction", 0.01)
    assert_refused(fit(shop, tmp_path / "run", *options), "--cold-fraction 0.01 of 30 items is 0")


def test_commands_on_a_run_need_one(tmp_path: Path) -> None:
    out = tmp_path / "out.csv"
    for command, *options in (
        ("evaluate",),
        ("recommend", "--all", "--out", out),
        ("similar", "--item", "x"),
        ("explain", "--user", "x", "--item", "y"),
        ("export", "--out", out),
    ):
        for path in (tmp_path, tmp_path / "nowhere"):
            assert_refused(lirdrec(command, path, *options), "not a run folder")
        assert_refused(lirdrec(command, *options), "RUN")
    assert not out.exists()


def test_zero_rows_can_count_as_missing(shop: Path, tmp_path: Path) -> None:
    features(zero_row)(shop)
    result = fit(shop, tmp_path / "run", "--zero-features", "missing")
    assert result.exit_code == 0, result.output
    assert "items without image: 1" in result.output


@pytest.mark.parametrize("column", ["timestamp", "split"])
def test_invalid_column_that_is_not_needed_is_ignored(column: str, shop: Path, tmp_path: Path) -> None:
    rows = [row.split("\t")[:2] for row in (shop / "shop.inter").read_text().splitlines()[1:]]
    (shop / "shop.inter").unlink()
    table = [["user_id", "item_id", column], *([*row, "" if n % 7 else "12"] for n, row in enumerate(rows))]
    (shop / "shop.csv").write_text("\n".join(map(",".join, table)) + "\n\n")
    needing = {"timestamp": "time", "split": "labels"}[column]
    assert_refused(fit(shop, tmp_path / "run", "--split", needing), f"column '{column}', line ")
    result = fit(shop, tmp_path / "run", "--split", "random")
    assert result.exit_code == 0, result.output
