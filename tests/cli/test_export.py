from pathlib import Path

import numpy as np
import polars as pl
import pytest
from commands import assert_refused, lirdrec
from runs import contents
from safetensors.numpy import load_file

from lirdrec_pyg import DataConfig, EASEConfig, Recommender, TrainingConfig, fit

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


def test_each_mistake_is_one_error_and_writes_nothing(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("precious")
    url = "postgresql://u:hidden@localhost:1/db"
    for options, named in (
        (("--out", "out", "--format", "csv"), "--format"),
        (("--out", "file"), "file"),
        ((), "--out"),
        (("--out", "out", "--to", url), "either --out"),
        (("--to", url, "--format", "npy"), "--format is for --out"),
        (("--out", "out", "--schema", "s"), "for PostgreSQL"),
        (("--to", "lance:out", "--no-index"), "for PostgreSQL"),
        (("--to", "lance:file"), "file is a file. Export to a folder."),
        (("--to", "lance:"), "--to lance: names no folder"),
        (("--to", "hidden"), "--to is not the URL"),
        (("--to", url), "Cannot export to PostgreSQL"),
    ):
        result = lirdrec("export", run, *options)
        assert_refused(result, named)
        assert "hidden" not in result.output
    assert contents(tmp_path) == {"file": b"precious"}


def test_tables_of_lance_are_written(run: Path, tmp_path: Path) -> None:
    import lancedb  # takes seconds

    place = f"lance:{tmp_path / 'out'}"
    for options in ((), ("--overwrite",)):
        result = lirdrec("export", run, "--to", place, *options)
        assert result.exit_code == 0, result.output
        for name in ("users", "items", "seen"):
            count = lancedb.connect(tmp_path / "out").open_table(name).count_rows()
            assert f"{tmp_path / 'out'}  {name}  {count:,} rows\n" in result.output
    assert_refused(
        lirdrec("export", run, "--to", place), "has a table 'users'. Export to another folder, or pass --overwrite."
    )


def test_models_without_vectors_are_refused(shared_shop: Path, tmp_path: Path) -> None:
    fit(DataConfig(data=str(shared_shop)), EASEConfig(), TrainingConfig(device="cpu"), tmp_path / "run")
    for options in (
        ("--out", tmp_path / "out"),
        ("--to", "postgresql://localhost:1/db"),
        ("--to", f"lance:{tmp_path / 'out'}"),
    ):
        assert_refused(lirdrec("export", tmp_path / "run", *options), "ease has no vectors")
    assert_refused(
        lirdrec("export", tmp_path / "run", "--out", tmp_path / "out", "--format", "onnx"),
        "ease does not support new items",
    )
    assert not (tmp_path / "out").exists()


def test_missing_packages_are_named(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lirdrec_pyg.errors.find_spec", lambda name: None)
    for extra, options in (
        ("postgres", ("--to", "postgresql://localhost:1/db")),
        ("lance", ("--to", f"lance:{tmp_path / 'out'}")),
        ("onnx", ("--out", tmp_path / "out", "--format", "onnx")),
    ):
        assert_refused(
            lirdrec("export", run, *options), f"needs the extra '{extra}': pip install 'lirdrec-pyg[{extra}]'."
        )
    assert not (tmp_path / "out").exists()
