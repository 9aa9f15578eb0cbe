from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from click.testing import CliRunner
from commands import assert_refused, lirdrec
from hypothesis import given, settings
from hypothesis import strategies as st

from lirdrec_pyg.cli import main
from lirdrec_pyg.data import FeatureTable, features
from lirdrec_pyg.features.check import check_table


@pytest.mark.parametrize("block_bytes", [2**26, 64])
def test_everything_is_counted(monkeypatch: pytest.MonkeyPatch, block_bytes: int) -> None:
    monkeypatch.setattr(features, "_BLOCK_BYTES", block_bytes)
    x = torch.from_numpy(np.random.default_rng(0).standard_normal((50, 4))).float()
    x[3, 1], x[8, 0], x[9, 2] = torch.nan, torch.inf, -torch.inf
    x[20] = x[40] = 0
    x[30] = x[31] = x[1]
    x[:, 3] = 5
    x[20] = x[40] = 0
    x[41], x[42] = 1e30, 1e-30  # squares that are infinite and zero
    x[43], x[44] = torch.tensor([1e17, -1e17, 0, 0]), torch.tensor([1e-11, -1e-11, 0, 0])
    found = check_table(FeatureTable(x, None, "x"))
    assert found.not_finite.tolist() == [3, 8, 9]
    assert found.zero.tolist() == [20, 40]
    assert found.extreme.tolist() == [41, 42]
    assert found.duplicate.tolist() == [30, 31, 40]
    assert found.constant.tolist() == []
    assert (found.rows, found.width, found.dtype, found.has_ids) == (50, 4, "float32", False)
    assert not found.is_usable
    x[20] = x[40] = 5
    x[3], x[8], x[9], x[41:45] = 5, 5, 5, 5
    found = check_table(FeatureTable(x, pl.Series(range(50)), "x"))
    assert found.constant.tolist() == [3]
    assert found.is_usable


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.sampled_from([0.0, 1.0, 2.0]), st.sampled_from([0.0, 3.0])), min_size=1, max_size=30))
def test_duplicates_equal_an_earlier_row(rows: list[tuple[float, float]]) -> None:
    found = check_table(FeatureTable(torch.tensor(rows), None, "x"))
    assert found.duplicate.tolist() == [n for n, row in enumerate(rows) if row in rows[:n]]
    assert found.zero.tolist() == [n for n, row in enumerate(rows) if row == (0, 0)]


def test_the_command_names_unusable_rows(tmp_path: Path) -> None:
    x = np.random.default_rng(0).standard_normal((5, 3)).astype(np.float32)
    np.save(tmp_path / "image_feat.npy", x)
    x[2, 1], x[4] = np.nan, x[0]
    pl.DataFrame({"item_id": list("abcde"), "features": pl.Series(x)}).write_parquet(tmp_path / "text_feat.parquet")
    good = CliRunner().invoke(main, ["check-features", str(tmp_path / "image_feat.npy")])
    assert good.exit_code == 0, good.output
    bad = CliRunner().invoke(main, ["check-features", str(tmp_path)])
    assert bad.exit_code == 1, bad.output
    assert "item 'c', has NaN or infinite values" in bad.output
    assert "item 'e', equals an earlier row" in bad.output
    table = [line.split() for line in bad.output.splitlines() if line.startswith(str(tmp_path)) and ": " not in line]
    assert [line[1:] for line in table] == [
        ["5", "3", "float32", "by", "position", "0", "0", "0", "0", "0"],
        ["5", "3", "float32", "in", "the", "file", "1", "0", "0", "1", "0"],
    ]
    np.savez(tmp_path / "twice.npz", features=x, ids=["a", "b", "a", "c", "d"])
    np.save(tmp_path / "flat.npy", x[0])
    np.save(tmp_path / "long.npy", 1e25 * x[:2])
    several = lirdrec("check-features", *(tmp_path / name for name in ("twice.npz", "long.npy", "flat.npy")))
    assert several.exit_code == 2
    (tmp_path / "empty").mkdir()
    others = lirdrec("check-features", tmp_path / "empty", tmp_path / "image_feat.npy")
    assert others.exit_code == 2
    assert "image_feat.npy" in others.stdout
    assert "no file is named MODALITY_feat.*" in others.stderr
    assert f"{tmp_path / 'long.npy'}: row 0 (counted from 0) is too long or too short" in several.stdout
    assert [line.split()[0] for line in several.stderr.splitlines()] == ["Error:", "Error:"]
    assert [name in line for name, line in zip(("'a'", "flat.npy"), several.stderr.splitlines())] == [True, True]
    assert_refused(CliRunner().invoke(main, ["check-features", str(tmp_path / "nothing.npy")]), "nothing.npy")


def test_the_command_reads_as_fit_does(tmp_path: Path) -> None:
    x = np.random.default_rng(0).standard_normal((5, 3)).astype(np.float32)
    np.savez(tmp_path / "named.npz", features=x, item_ids=np.arange(5))
    np.savez(tmp_path / "each.npz", **dict(zip("abcde", x)))
    columns = {f"d{n}": column for n, column in enumerate(x.T)}
    pl.DataFrame({"item_id": list("abcde"), "index": [4, 0, 2, 3, 1], **columns}).write_parquet(tmp_path / "x.parquet")
    pl.DataFrame({"item_id": list("abcde"), "v": map(str, x.tolist())}).write_csv(tmp_path / "x.csv")
    files = [tmp_path / name for name in ("named.npz", "each.npz", "x.parquet", "x.csv")]
    result = lirdrec("check-features", *files)
    assert result.exit_code == 0, result.output
    assert result.stderr == f"Warning: {files[2]} has index columns, which are not used as features: 'index'.\n"
    rows = [line.split() for line in result.stdout.splitlines()[1:]]
    assert [row[1:7] for row in rows] == [["5", "3", "float32", "in", "the", "file"]] * 4
    np.savez(tmp_path / "order.npz", features=x, order=np.arange(5))
    assert_refused(lirdrec("check-features", tmp_path / "order.npz"), "'features', 'order'", "rows 'ids'")
