"""Tables in portions, and exported vectors."""

import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from safetensors.numpy import load_file

from lirdrec_pyg.errors import ConfigError, DataError, RunError
from lirdrec_pyg.serving import Recommender, check_table_path, export_vectors, write_table

READERS = {".parquet": pl.read_parquet, ".csv": pl.read_csv, ".jsonl": pl.read_ndjson}
FORMATS = ["parquet", "npy", "safetensors"]


def frames() -> Iterator[pl.DataFrame]:
    for number in range(3):
        users = [f"u{number}", 'with, "quotes"', "日本"]
        yield pl.DataFrame({"user": users, "rank": [1, 2, 3], "score": [0.25 * number, None, -1.5]})


@pytest.mark.parametrize("suffix", READERS)
def test_all_formats_hold_the_same_rows(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a[1]*{suffix}"
    assert write_table(frames(), path) == 9
    with path.open("rb") as file:
        assert READERS[suffix](file).equals(pl.concat(frames()))
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("suffix", READERS)
def test_recommendations_come_back_as_they_were(
    recommender: Recommender, tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = recommender.recommend(["u2", "u3", "007"])
    monkeypatch.setattr("lirdrec_pyg.nn.ranking._BLOCK_ROWS", {"cpu": 1})
    path = tmp_path / f"table{suffix}"
    assert write_table(recommender.recommend_blocks(["u2", "u3", "007"]), path) == 60
    found = READERS[suffix](path)
    assert found.columns == ["user", "item", "rank", "score"]
    assert found.select("user", "item").equals(expected.select("user", "item"))
    assert found["rank"].to_list() == expected["rank"].to_list()
    np.testing.assert_allclose(found["score"], expected["score"], atol=1e-6)


@pytest.mark.parametrize("suffix", READERS)
@pytest.mark.parametrize("error", [DataError("gone wrong."), OSError("No space left"), KeyboardInterrupt()], ids=repr)
@pytest.mark.parametrize("after", [0, 2])
def test_who_fails_halfway_leaves_the_earlier_file_and_no_other(
    tmp_path: Path, suffix: str, error: BaseException, after: int
) -> None:
    def failing() -> Iterator[pl.DataFrame]:
        for number, frame in enumerate(frames()):
            if number == after:
                raise error
            yield frame

    path = tmp_path / f"table{suffix}"
    for content in (None, b"earlier"):
        if content:
            path.write_bytes(content)
        with pytest.raises(RunError if isinstance(error, OSError) else type(error)):
            write_table(failing(), path)
        assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == ({path.name: content} if content else {})


@pytest.mark.parametrize("suffix", READERS)
def test_an_earlier_file_is_replaced(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"table{suffix}"
    path.write_text("earlier")
    write_table([pl.DataFrame({"a": [1]})], path)
    assert READERS[suffix](path)["a"].to_list() == [1]


@pytest.mark.parametrize("suffix", READERS)
def test_a_table_without_rows_is_written_too(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"table{suffix}"
    assert write_table([pl.DataFrame({"a": [1]}).clear()], path) == 0
    assert path.is_file()


@pytest.mark.parametrize("name", ["table.txt", "table", "table.parquet.gz", ".csv"])
def test_an_unknown_ending_is_refused(tmp_path: Path, name: str) -> None:
    for act in (check_table_path, lambda path: write_table(frames(), path)):
        with pytest.raises(ConfigError, match=r"unknown ending.*\.parquet, \.csv, \.jsonl"):
            act(tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_missing_or_in_the_way_is_refused(tmp_path: Path) -> None:
    (tmp_path / "folder.csv").mkdir()
    for path in (tmp_path / "nowhere" / "a.csv", tmp_path / "folder.csv"):
        with pytest.raises(ConfigError, match="name a file in a folder that exists"):
            write_table(frames(), path)


def test_a_relative_path_is_one_in_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert write_table(frames(), Path("a.csv")) == 9


def read_export(folder: Path, form: str) -> dict[str, tuple[list, np.ndarray]]:
    """IDs and vectors of users and items."""
    if form == "parquet":
        tables = {side: pl.read_parquet(folder / f"{side}s.parquet") for side in ("user", "item")}
        return {side: (table["id"].to_list(), table["vector"].to_numpy()) for side, table in tables.items()}
    ids = {side: np.load(folder / f"{side}_ids.npy", allow_pickle=False).tolist() for side in ("user", "item")}
    if form == "npy":
        return {side: (ids[side], np.load(folder / f"{side}_vectors.npy", allow_pickle=False)) for side in ids}
    vectors = load_file(folder / "vectors.safetensors")
    return {side: (ids[side], vectors[f"{side}_vectors"]) for side in ids}


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("kind", ["text", "integers", "new items"])
def test_an_export_is_read_back_as_it_was(
    recommender: Recommender,
    int_recommender: Recommender,
    grown: Recommender,
    tmp_path: Path,
    form: str,
    kind: str,
) -> None:
    source = {"text": recommender, "integers": int_recommender, "new items": grown}[kind]
    out = tmp_path / "deep" / "out"
    files = export_vectors(source, out, form)
    assert sorted(files) == sorted(out.iterdir())
    found = read_export(out, form)
    for side, vocabulary, vectors in (
        ("user", source.users, source.user_vectors()),
        ("item", source.items, source.item_vectors()),
    ):
        ids, x = found[side]
        assert ids == vocabulary.ids.to_list()
        assert x.dtype == np.float32
        np.testing.assert_array_equal(x, vectors)


@pytest.mark.parametrize("form", FORMATS)
def test_files_that_are_there_are_not_overwritten(recommender: Recommender, tmp_path: Path, form: str) -> None:
    names = [path.name for path in export_vectors(recommender, tmp_path / "first", form)]
    for name in names:
        out = tmp_path / f"beside {name}"
        out.mkdir()
        (out / name).write_text("precious")
        with pytest.raises(RunError, match=f"{name} is there already"):
            export_vectors(recommender, out, form)
        assert {p.name: p.read_text() for p in out.iterdir()} == {name: "precious"}


def test_two_formats_can_stand_beside_each_other(recommender: Recommender, tmp_path: Path) -> None:
    export_vectors(recommender, tmp_path, "parquet")
    export_vectors(recommender, tmp_path, "npy")
    assert len(list(tmp_path.iterdir())) == 6


def test_an_unknown_format_and_a_file_for_a_folder_are_refused(recommender: Recommender, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"'csv'.*safetensors, parquet, npy"):
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


@pytest.mark.parametrize("form", FORMATS)
def test_a_full_disk_leaves_no_file_of_an_export(recommender: Recommender, tmp_path: Path, form: str) -> None:
    files = export_vectors(recommender, tmp_path / "all", form)
    sizes = sorted(file.stat().st_size for file in files)
    with no_file_larger_than(sizes[-1] - 1), pytest.raises(RunError, match="can't be written"):
        export_vectors(recommender, tmp_path / "out", form)
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize("suffix", READERS)
def test_a_table_that_a_full_disk_cuts_leaves_the_earlier_one(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"table{suffix}"
    path.write_text("earlier")
    with no_file_larger_than(20), pytest.raises(RunError, match="can't be written"):
        write_table(frames(), path)
    assert path.read_text() == "earlier"
    assert [*tmp_path.iterdir()] == [path]


@pytest.mark.parametrize("form", FORMATS)
def test_an_exact_vector_index_finds_the_same_items(
    grown: Recommender, tmp_path: Path, form: str, assert_best: Callable[..., None]
) -> None:
    faiss = pytest.importorskip("faiss")
    export_vectors(grown, tmp_path, form)
    found = read_export(tmp_path, form)
    (users, user), (items, item) = found["user"], found["item"]
    index = faiss.IndexFlatIP(item.shape[1])
    index.add(np.ascontiguousarray(item))
    chosen = [n for n, name in enumerate(users) if name not in ("u46", "u47", "u48", "u49")]
    score, position = index.search(np.ascontiguousarray(user[chosen]), 20)
    ours = grown.recommend([users[n] for n in chosen], k=20, exclude_seen=False)
    np.testing.assert_allclose(ours["score"].to_numpy().reshape(score.shape), score, atol=1e-5)
    theirs = np.array(items)[position]
    same = ours["item"].to_numpy().reshape(theirs.shape) == theirs
    # Items may change places where their scores differ by rounding.
    assert same.mean() > 0.99
