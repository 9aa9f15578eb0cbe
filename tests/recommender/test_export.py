"""Tables written in portions, and exported vectors."""

import itertools
import os
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from runs import contents
from safetensors.numpy import load_file

from lirdrec_pyg.data import known_interactions
from lirdrec_pyg.errors import ConfigError, DataError, RunError
from lirdrec_pyg.recommender import Recommender, check_table_path, export_vectors, write_table

READERS = {".parquet": pl.read_parquet, ".csv": pl.read_csv, ".jsonl": pl.read_ndjson}
FORMATS = ["parquet", "npy", "safetensors"]


def frames() -> Iterator[pl.DataFrame]:
    for number in range(3):
        users = [f"u{number}", 'with, "quotes"\n\tand lines', "日本"]
        yield pl.DataFrame({"user": users, "rank": [1, 2, 3], "score": [0.25 * number, None, -1.5]})


def test_all_formats_hold_the_same_rows(tmp_path: Path) -> None:
    for suffix, reader in READERS.items():
        path = tmp_path / suffix[1:] / f"a[1]*{suffix}"
        path.parent.mkdir()
        path.write_text("earlier")
        assert write_table(frames(), path) == 9
        with path.open("rb") as file:
            assert reader(file).equals(pl.concat(frames()))
        assert write_table([pl.DataFrame({"a": [1]}).clear()], path) == 0
        assert [*path.parent.iterdir()] == [path]


def test_recommendations_are_read_back(
    recommender: Recommender, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = recommender.recommend(["u2", "u3", "007"])
    monkeypatch.setattr("lirdrec_pyg.nn.ranking._BLOCK_ROWS", {"cpu": 1})
    for suffix, reader in READERS.items():
        path = tmp_path / f"table{suffix}"
        assert write_table(recommender.recommend_blocks(["u2", "u3", "007"]), path) == 60
        found = reader(path)
        assert found.columns == ["user", "item", "rank", "score"]
        assert found.select("user", "item").equals(expected.select("user", "item"))
        assert found["rank"].to_list() == expected["rank"].to_list()
        np.testing.assert_allclose(found["score"], expected["score"], atol=1e-6)


def test_failure_leaves_the_earlier_file_and_no_other(tmp_path: Path) -> None:
    def failing(error: BaseException, after: int) -> Iterator[pl.DataFrame]:
        for number, frame in enumerate(frames()):
            if number == after:
                raise error
            yield frame

    errors = DataError("gone wrong."), OSError("No space left"), KeyboardInterrupt()
    for suffix, error, after, earlier in itertools.product(READERS, errors, (0, 2), (False, True)):
        folder = tmp_path / f"{suffix[1:]}-{type(error).__name__}-{after}-{earlier}"
        folder.mkdir()
        path = folder / f"table{suffix}"
        if earlier:
            path.write_text("earlier")
        with pytest.raises(RunError if isinstance(error, OSError) else type(error)):
            write_table(failing(error, after), path)
        assert {p.name: p.read_text() for p in folder.iterdir()} == ({path.name: "earlier"} if earlier else {})


def test_impossible_paths_are_refused(tmp_path: Path) -> None:
    for name in ("table.txt", "table", "table.parquet.gz", ".csv"):
        for act in (check_table_path, lambda path: write_table(frames(), path)):
            with pytest.raises(ConfigError, match=r"`out`.*\.parquet, \.csv, \.jsonl"):
                act(tmp_path / name)
    assert not list(tmp_path.iterdir())
    (tmp_path / "folder.csv").mkdir()
    for path in (tmp_path / "nowhere" / "a.csv", tmp_path / "folder.csv"):
        with pytest.raises(ConfigError, match="existing folder"):
            write_table(frames(), path)


def test_relative_path_is_relative_to_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert write_table(frames(), Path("a.csv")) == 9


def read_export(folder: Path, form: str) -> dict[str, tuple[list, np.ndarray]]:
    """Return IDs and vectors of users and items."""
    if form == "parquet":
        tables = {side: pl.read_parquet(folder / f"{side}s.parquet") for side in ("user", "item")}
        return {side: (table["id"].to_list(), table["vector"].to_numpy()) for side, table in tables.items()}
    ids = {side: np.load(folder / f"{side}_ids.npy", allow_pickle=False).tolist() for side in ("user", "item")}
    if form == "npy":
        return {side: (ids[side], np.load(folder / f"{side}_vectors.npy", allow_pickle=False)) for side in ids}
    vectors = load_file(folder / "vectors.safetensors")
    return {side: (ids[side], vectors[f"{side}_vectors"]) for side in ids}


def test_export_is_read_back(
    recommender: Recommender, int_recommender: Recommender, grown: Recommender, tmp_path: Path
) -> None:
    for form in FORMATS:
        for number, source in enumerate((recommender, int_recommender, grown)):
            out = tmp_path / form / str(number)
            assert sorted(export_vectors(source, out, form)) == sorted(out.iterdir())
            found = read_export(out, form)
            for side, vocabulary, vectors in (
                ("user", source.users, source.user_vectors()),
                ("item", source.items, source.item_vectors()),
            ):
                ids, x = found[side]
                assert ids == vocabulary.ids.to_list()
                assert x.dtype == np.float32
                np.testing.assert_array_equal(x, vectors)


def test_existing_files_are_not_overwritten(recommender: Recommender, tmp_path: Path) -> None:
    for form in FORMATS:
        for name in [path.name for path in export_vectors(recommender, tmp_path / form, form)]:
            out = tmp_path / f"{form} beside {name}"
            out.mkdir()
            (out / name).write_text("precious")
            with pytest.raises(RunError, match=f"{name} exists. .*`overwrite=True`"):
                export_vectors(recommender, out, form)
            assert {p.name: p.read_text() for p in out.iterdir()} == {name: "precious"}


def test_an_earlier_export_is_replaced_on_request(
    recommender: Recommender, int_recommender: Recommender, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail_at(last: str) -> Callable[[Path, Path], None]:
        def replace(source: Path, target: Path) -> None:
            if Path(source).suffix == ".partial" and Path(target).name == last:
                raise OSError("I/O error")
            os.rename(source, target)

        return replace

    for form in FORMATS:
        out = tmp_path / form
        names = [path.name for path in export_vectors(recommender, out, form)]
        (out / "notes.txt").write_text("precious")
        earlier = contents(out)
        for name in names:
            with monkeypatch.context() as patch:
                patch.setattr("lirdrec_pyg.files.os.replace", fail_at(name))
                with pytest.raises(RunError, match="I/O error"):
                    export_vectors(int_recommender, out, form, overwrite=True)
            assert contents(out) == earlier
        export_vectors(int_recommender, out, form, overwrite=True)
        assert read_export(out, form)["item"][0] == int_recommender.items.ids.to_list()
        assert contents(out).keys() == earlier.keys()


def test_users_of_a_table_have_their_known_items(recommender: Recommender, tmp_path: Path) -> None:
    export_vectors(recommender, tmp_path, "parquet")
    known: dict[str, set[str]] = {}
    for user, item in known_interactions(recommender.graph).t().tolist():
        known.setdefault(recommender.users.ids[user], set()).add(recommender.items.ids[item])
    table = pl.read_parquet(tmp_path / "users.parquet")
    assert table["seen"].null_count() == (~recommender.has_history).sum() > 0
    for user, seen in table.drop_nulls("seen").select("id", "seen").iter_rows():
        assert len(seen) == len(known[user])
        assert {*seen} == known[user]


def test_an_export_that_was_killed_is_restored_by_the_next(recommender: Recommender, tmp_path: Path) -> None:
    export_vectors(recommender, tmp_path, "npy")
    earlier = contents(tmp_path)
    (tmp_path / ".earlier").mkdir()
    for name in earlier:
        (tmp_path / name).rename(tmp_path / ".earlier" / name)
    (tmp_path / "item_ids.npy").write_text("new")
    export_vectors(recommender, tmp_path, "parquet")
    assert earlier.items() <= contents(tmp_path).items()
    assert len(contents(tmp_path)) == 6


def test_vectors_never_stay_beside_ids_of_another_export(recommender: Recommender, tmp_path: Path) -> None:
    for form, other, left in (
        ("npy", "safetensors", "user_vectors.npy"),
        ("safetensors", "npy", "vectors.safetensors"),
        ("fold_in.onnx", "npy", "fold_in.onnx"),
    ):
        if form in FORMATS:
            export_vectors(recommender, tmp_path / form, form)
        else:
            (tmp_path / form).mkdir()
            (tmp_path / form / left).write_text("of format onnx")
        earlier = contents(tmp_path / form)
        with pytest.raises(RunError, match=rf"{left} is of an earlier export, whose IDs would be replaced\. Delete it"):
            export_vectors(recommender, tmp_path / form, other, overwrite=True)
        assert contents(tmp_path / form) == earlier


def test_a_run_is_never_overwritten(recommender: Recommender) -> None:
    assert recommender.path is not None
    before = contents(recommender.path)
    for form in FORMATS:
        with pytest.raises(RunError, match="is the folder of a run"):
            export_vectors(recommender, recommender.path, form, overwrite=True)
    assert contents(recommender.path) == before


def test_two_formats_fit_into_one_folder(recommender: Recommender, tmp_path: Path) -> None:
    export_vectors(recommender, tmp_path, "parquet")
    export_vectors(recommender, tmp_path, "npy")
    assert len(list(tmp_path.iterdir())) == 6


def test_unknown_format_and_a_file_for_a_folder_are_refused(recommender: Recommender, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"'csv'.*parquet, npy, safetensors, onnx"):
        export_vectors(recommender, tmp_path, "csv")
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="is a file"):
        export_vectors(recommender, tmp_path / "file", "npy")
    assert (tmp_path / "file").read_text() == ""


@contextmanager
def no_file_larger_than(size: int) -> Iterator[None]:
    """As on a disk that is nearly full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_full_disk_leaves_no_file_of_an_export(recommender: Recommender, tmp_path: Path) -> None:
    for form in FORMATS:
        sizes = sorted(file.stat().st_size for file in export_vectors(recommender, tmp_path / form / "all", form))
        with no_file_larger_than(sizes[-1] - 1), pytest.raises(RunError, match="Cannot write"):
            export_vectors(recommender, tmp_path / form / "out", form)
        assert not (tmp_path / form / "out").exists()


def test_full_disk_leaves_the_earlier_table(tmp_path: Path) -> None:
    for suffix in READERS:
        path = tmp_path / suffix[1:] / f"table{suffix}"
        path.parent.mkdir()
        path.write_text("earlier")
        with no_file_larger_than(20), pytest.raises(RunError, match="Cannot write"):
            write_table(frames(), path)
        assert path.read_text() == "earlier"
        assert [*path.parent.iterdir()] == [path]


def test_exact_vector_index_finds_the_same_items(grown: Recommender, tmp_path: Path) -> None:
    faiss = pytest.importorskip("faiss")
    export_vectors(grown, tmp_path, "npy")
    found = read_export(tmp_path, "npy")
    (users, user), (items, item) = found["user"], found["item"]
    index = faiss.IndexFlatIP(item.shape[1])
    index.add(np.ascontiguousarray(item))
    chosen = [n for n, name in enumerate(users) if name not in ("u46", "u47", "u48", "u49")]
    score, position = index.search(np.ascontiguousarray(user[chosen]), 20)
    ours = grown.recommend([users[n] for n in chosen], k=20, exclude_seen=False)
    np.testing.assert_allclose(ours["score"].to_numpy().reshape(score.shape), score, atol=1e-5)
    theirs = np.array(items)[position]
    same = ours["item"].to_numpy().reshape(theirs.shape) == theirs
    # Items whose scores differ by rounding may be swapped.
    assert same.mean() > 0.99
