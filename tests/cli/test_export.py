import re
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from commands import assert_refused, lirdrec
from safetensors.numpy import load_file

from lirdrec_pyg.serving import Recommender

FILES = {
    "parquet": ["items.parquet", "users.parquet"],
    "npy": ["item_ids.npy", "item_vectors.npy", "user_ids.npy", "user_vectors.npy"],
    "safetensors": ["item_ids.npy", "user_ids.npy", "vectors.safetensors"],
}


@pytest.mark.parametrize("form", FILES)
def test_vectors_are_written_with_their_ids(run: Path, tmp_path: Path, form: str) -> None:
    out = tmp_path / "new" / "folder"
    result = lirdrec("export", run, "--format", form, "--out", out)
    assert result.exit_code == 0, result.output
    assert sorted(p.name for p in out.iterdir()) == FILES[form]
    for name in FILES[form]:
        assert str(out / name) in result.output
    recommender = Recommender.load(run)
    if form == "parquet":
        table = pl.read_parquet(out / "items.parquet")
        ids, vectors = table["id"].to_list(), table["vector"].to_numpy()
    else:
        ids = np.load(out / "item_ids.npy", allow_pickle=False).tolist()
        vectors = (
            np.load(out / "item_vectors.npy") if form == "npy" else load_file(out / FILES[form][2])["item_vectors"]
        )
    assert ids == recommender.items.ids.to_list()
    np.testing.assert_array_equal(vectors, recommender.item_vectors())


def test_parquet_is_the_default_and_a_second_export_is_refused(run: Path, tmp_path: Path) -> None:
    assert lirdrec("export", run, "--out", tmp_path).exit_code == 0
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    assert sorted(before) == FILES["parquet"]
    assert_refused(lirdrec("export", run, "--out", tmp_path), "users.parquet is there already")
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_the_ids_of_a_run_are_not_written_over(run: Path) -> None:
    before = {p.name: p.read_bytes() for p in run.iterdir()}
    for form in ("parquet", "safetensors"):
        assert_refused(lirdrec("export", run, "--format", form, "--out", run), "is there already")
    assert {p.name: p.read_bytes() for p in run.iterdir()} == before


def test_each_mistake_is_one_error_and_writes_nothing(run: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("precious")
    out = tmp_path / "out"
    for options, named in (
        (["--out", out, "--format", "csv"], "--format"),
        (["--out", tmp_path / "file"], "file"),
        ([], "--out"),
    ):
        assert_refused(lirdrec("export", run, *options), named)
    assert_refused(lirdrec("export", tmp_path, "--out", out), "no run folder")
    assert_refused(lirdrec("export", "--out", out), "RUN")
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {"file": "precious"}


def test_help_names_every_option() -> None:
    text = re.sub(r"\s+", " ", lirdrec("export", "--help").output)
    for option in ("--format [safetensors|parquet|npy]", "[default: parquet]", "--out", "user_ids.npy"):
        assert option in text
