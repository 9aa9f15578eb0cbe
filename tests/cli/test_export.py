from pathlib import Path

import numpy as np
import polars as pl
from commands import assert_refused, lirdrec
from runs import contents
from safetensors.numpy import load_file

from lirdrec_pyg import Recommender

FILES = {
    "parquet": ["items.parquet", "users.parquet"],
    "npy": ["item_ids.npy", "item_vectors.npy", "user_ids.npy", "user_vectors.npy"],
    "safetensors": ["item_ids.npy", "user_ids.npy", "vectors.safetensors"],
}


def test_vectors_are_written_with_their_ids(run: Path, tmp_path: Path) -> None:
    recommender = Recommender.load(run)
    for form, names in FILES.items():
        out = tmp_path / form / "folder"
        result = lirdrec("export", run, *(() if form == "parquet" else ("--format", form)), "--out", out)
        assert result.exit_code == 0, result.output
        assert sorted(p.name for p in out.iterdir()) == names
        assert all(str(out / name) in result.output for name in names)
        if form == "parquet":
            table = pl.read_parquet(out / "items.parquet")
            ids, vectors = table["id"].to_list(), table["vector"].to_numpy()
        else:
            ids = np.load(out / "item_ids.npy", allow_pickle=False).tolist()
            vectors = np.load(out / "item_vectors.npy") if form == "npy" else load_file(out / names[2])["item_vectors"]
        assert ids == recommender.items.ids.to_list()
        np.testing.assert_array_equal(vectors, recommender.item_vectors())


def test_existing_files_are_not_overwritten(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert lirdrec("export", run, "--out", out).exit_code == 0
    for folder, form, *options in ((out, "parquet"), (run, "parquet"), (run, "safetensors", "--overwrite")):
        before = contents(folder)
        named = "exists. Pass another folder as --out, or --overwrite." if folder == out else "is the folder of a run"
        assert_refused(lirdrec("export", run, "--format", form, "--out", folder, *options), named)
        assert contents(folder) == before


def test_an_earlier_export_is_replaced_on_request(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert lirdrec("export", run, "--out", out).exit_code == 0
    before = contents(out)
    (out / "items.parquet").write_text("earlier")
    result = lirdrec("export", run, "--out", out, "--overwrite")
    assert result.exit_code == 0, result.output
    assert contents(out) == before


def test_each_mistake_is_one_error_and_writes_nothing(run: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("precious")
    for options, named in (
        (("--out", tmp_path / "out", "--format", "csv"), "--format"),
        (("--out", tmp_path / "file"), "file"),
        ((), "--out"),
    ):
        assert_refused(lirdrec("export", run, *options), named)
    assert contents(tmp_path) == {"file": b"precious"}
