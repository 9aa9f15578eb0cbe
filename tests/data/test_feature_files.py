"""Feature files: a contract that the readers of all formats keep, and what is special in each."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from lirdrec_pyg.data import read_features
from lirdrec_pyg.errors import DataError

MATRIX = np.random.default_rng(0).standard_normal((5, 3)).astype(np.float32)
TENSOR = torch.from_numpy(MATRIX)
IDS = list("abcde")


def save_npy(path: Path, array: Any = MATRIX) -> Path:
    np.save(path, array)
    return path


def save_npz(path: Path, **arrays: Any) -> Path:
    np.savez(path, **arrays)
    return path


def save_pt(path: Path, content: Any = TENSOR, **options: Any) -> Path:
    torch.save(content, path, **options)
    return path


def save_safetensors(path: Path, **tensors: torch.Tensor) -> Path:
    save_file(tensors, path)
    return path


def save_parquet(path: Path, **columns: Any) -> Path:
    pl.DataFrame(columns).write_parquet(path)
    return path


def save_text(path: Path, frame: pl.DataFrame, **options: Any) -> Path:
    frame.write_csv(path, **options)
    return path


def mapped_file(x: torch.Tensor) -> str:
    """Return the file that the memory of ``x`` is a view of, or an empty text."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        bounds, *_, name = line.split(maxsplit=5)
        low, high = (int(bound, 16) for bound in bounds.split("-"))
        if low <= x.data_ptr() < high:
            return name if name.startswith("/") else ""
    return ""


COLUMNS = {f"c{n}": column for n, column in enumerate(MATRIX.T)}
ZEROS = ["007", "7", "8", "9", "10"]

FORMATS: dict[str, tuple[Callable[[Path], Path], list[Any] | None]] = {
    "npy": (lambda d: save_npy(d / "x.npy"), None),
    "npy in Fortran order": (lambda d: save_npy(d / "x.npy", np.asfortranarray(MATRIX)), None),
    "npz of one matrix": (lambda d: save_npz(d / "x.npz", anything=MATRIX), None),
    "npz with text IDs": (lambda d: save_npz(d / "x.npz", features=MATRIX, ids=np.array(IDS)), IDS),
    "npz with integer IDs": (lambda d: save_npz(d / "x.npz", y=MATRIX, ids=np.arange(5, dtype="u8")), [*range(5)]),
    "pt of a tensor": (lambda d: save_pt(d / "x.pt"), None),
    "pt of a parameter": (lambda d: save_pt(d / "x.pt", torch.nn.Parameter(TENSOR)), None),
    "old pt": (lambda d: save_pt(d / "x.pt", _use_new_zipfile_serialization=False), None),
    "pt with text IDs": (lambda d: save_pt(d / "x.pt", {"features": TENSOR, "ids": IDS}), IDS),
    "pt with integer IDs": (lambda d: save_pt(d / "x.pt", {"x": TENSOR, "ids": torch.arange(5)}), [*range(5)]),
    "safetensors": (lambda d: save_safetensors(d / "x.safetensors", x=TENSOR), None),
    "safetensors with IDs": (
        lambda d: save_safetensors(d / "x.safetensors", features=TENSOR, ids=torch.arange(5)),
        [*range(5)],
    ),
    "npz of one vector per ID": (lambda d: save_npz(d / "x.npz", **dict(zip(IDS, MATRIX))), IDS),
    "pt of one vector per ID": (lambda d: save_pt(d / "x.pt", dict(zip(range(7, 12), TENSOR))), [*range(7, 12)]),
    "pt of one matrix of one row per ID": (lambda d: save_pt(d / "x.pt", dict(zip(IDS, TENSOR[:, None]))), IDS),
    "safetensors of one vector per ID": (
        lambda d: save_safetensors(d / "x.safetensors", **{i: x.clone() for i, x in zip(IDS, TENSOR)}),
        IDS,
    ),
    "parquet of columns": (lambda d: save_parquet(d / "x.parquet", item=IDS, **COLUMNS), IDS),
    "parquet of lists": (lambda d: save_parquet(d / "x.parquet", item=IDS, vector=MATRIX.tolist()), IDS),
    "parquet of arrays": (lambda d: save_parquet(d / "x.parquet", item=IDS, vector=MATRIX), IDS),
    "parquet of lists beside other columns": (
        lambda d: save_parquet(d / "x.parquet", item=IDS, title=IDS, features=MATRIX.tolist(), price=[1] * len(IDS)),
        IDS,
    ),
    "parquet with leading zeros": (lambda d: save_parquet(d / "x.parquet", item=ZEROS, vector=MATRIX), ZEROS),
}

TABLE = pl.DataFrame({"item": ZEROS, **COLUMNS})
# Formats of text, of which a part is a smaller table.
TEXT_FORMATS: dict[str, Callable[[Path], Path]] = {
    "csv of columns": lambda d: save_text(d / "x.csv", TABLE),
    "csv with Windows line ends": lambda d: save_text(d / "x.csv", TABLE, line_terminator="\r\n"),
    "csv of vectors": lambda d: save_text(d / "x.csv", pl.DataFrame({"item": ZEROS, "v": map(str, MATRIX.tolist())})),
    "tsv of columns": lambda d: save_text(d / "x.tsv", TABLE, separator="\t"),
    "gzipped csv": lambda d: save_text(d / "x.csv.gz", TABLE, compression="gzip"),
    "jsonl of vectors": lambda d: (
        pl.DataFrame({"item": ZEROS, "v": MATRIX}).write_ndjson(d / "x.jsonl") or d / "x.jsonl"
    ),
}


@pytest.mark.parametrize("name", FORMATS)
def test_contract(name: str, tmp_path: Path, refuses: Any) -> None:
    """Every format returns the matrix and its IDs, and a damaged file is refused by name."""
    save, ids = FORMATS[name]
    path = save(tmp_path)
    table = read_features(path)
    assert table.values.dtype == torch.float32
    assert not table.values.requires_grad
    torch.testing.assert_close(table.values, TENSOR)
    assert ids == (None if table.ids is None else table.ids.to_list())
    assert len(table) == 5
    content = path.read_bytes()
    path.unlink()  # a mapped file must not change
    if name != "old pt":  # it is readable without its last bytes
        for damaged in (b"", content[: len(content) // 2], content[:-5], np.random.default_rng(0).bytes(300)):
            path.write_bytes(damaged)
            with refuses(path):
                read_features(path)


@pytest.mark.parametrize("name", TEXT_FORMATS)
def test_text_is_read(name: str, tmp_path: Path) -> None:
    table = read_features(TEXT_FORMATS[name](tmp_path))
    np.testing.assert_allclose(table.values, MATRIX, rtol=1e-6)
    assert table.ids is not None
    assert table.ids.to_list() == ZEROS


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_flipped_bytes_raise_nothing_but_data_errors(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    name = data.draw(
        st.sampled_from(["npy", "npz with text IDs", "safetensors with IDs", "pt with text IDs", "parquet of arrays"])
    )
    path = FORMATS[name][0](tmp_path_factory.mktemp("flipped"))
    content = bytearray(path.read_bytes())
    # The first bytes of files, where their headers are, are hit most.
    for position in data.draw(st.lists(st.integers(0, len(content) - 1) | st.integers(0, 130), min_size=1, max_size=3)):
        content[position] = data.draw(st.integers(0, 255))
    path.write_bytes(bytes(content))
    try:
        table = read_features(path)
    except DataError:
        return
    assert table.values.dim() == 2


def test_every_type_of_number_is_read(tmp_path: Path) -> None:
    matrix = np.array([[1, 0, 3], [0, 5, 6]])
    for dtype in ["f2", "f4", "f8", ">f2", ">f4", ">i2", "i1", "i8", "u1", "u2", "u8", "g", "?"]:
        values = read_features(save_npy(tmp_path / f"{ord(dtype[0])}{dtype[1:]}.npy", matrix.astype(dtype))).values
        assert values.dtype == (torch.float16 if dtype == "f2" else torch.float32), dtype
        assert values.tolist() == matrix.astype(dtype).tolist(), dtype
    for kind in [torch.bfloat16, torch.float8_e4m3fn, torch.uint16, torch.int64]:
        values = read_features(save_pt(tmp_path / f"{kind}.pt", torch.from_numpy(matrix).to(kind))).values
        assert values.dtype == (kind if kind == torch.bfloat16 else torch.float32)
        assert values.tolist() == matrix.tolist()
    for column in [
        pl.Series([1, 2], dtype=pl.UInt8),
        pl.Series([1, 2], dtype=pl.Int128),
        pl.Series([1, 2]).cast(pl.Decimal(9, 2)),
        pl.Series([[1], [2]], dtype=pl.List(pl.Int32)),
    ]:
        values = read_features(save_parquet(tmp_path / "x.parquet", item=["a", "b"], x=column)).values
        assert values.tolist() == [[1.0], [2.0]], column.dtype


ID_COLUMNS: dict[str, tuple[dict[str, Any], str]] = {
    "usual name": ({"n_photos": [3, 5], "item_id": [7, 8], "f0": [1.0, 2.0]}, "item_id"),
    "usual name beside an array": ({"vector": [[1.0], [2.0]], "iid": [7, 8]}, "iid"),
    "only text": ({"n_photos": [3, 5], "sku": ["x", "y"], "f0": [1.0, 2.0]}, "sku"),
    "only text, as categories": ({"f0": [1.0, 2.0], "sku": pl.Series(["x", "y"], dtype=pl.Categorical)}, "sku"),
    "only text, as an enumeration": ({"f0": [1.0, 2.0], "sku": pl.Series(["x", "y"], dtype=pl.Enum("xy"))}, "sku"),
    "beside a list": ({"sku": [7, 8], "vector": [[1.0], [2.0]]}, "sku"),
    "after an array": ({"vector": np.ones((2, 3)), "sku": [7, 8]}, "sku"),
}


@pytest.mark.parametrize("name", ID_COLUMNS)
def test_the_id_column_is_recognized(name: str, tmp_path: Path) -> None:
    columns, wanted = ID_COLUMNS[name]
    ids = read_features(save_parquet(tmp_path / "x.parquet", **columns)).ids
    assert ids is not None
    assert ids.to_list() == list(columns[wanted])


def test_the_id_column_can_be_passed(tmp_path: Path, refuses: Any) -> None:
    path = save_parquet(tmp_path / "x.parquet", price=[1.5, 2.5], sku=["a", "b"])
    table = read_features(path, id_column="sku")
    assert table.ids is not None
    assert table.ids.to_list() == ["a", "b"]
    assert table.values.tolist() == [[1.5], [2.5]]
    with refuses(path, "'isbn'", "'price', 'sku'"):
        read_features(path, id_column="isbn")


def test_an_entry_of_ids_is_recognized_by_its_usual_names(tmp_path: Path, refuses: Any) -> None:
    for name in ("ids", "item_ids", "ItemID", "item-ids", "ASIN", "parent_asins", "keys", "names", "index", "SKU"):
        numbers = np.arange(5)[::-1].copy()
        for path, ids in (
            (save_npz(tmp_path / "x.npz", features=MATRIX, **{name: np.array(IDS)}), IDS),
            (save_pt(tmp_path / "x.pt", {"embeddings": TENSOR, name: IDS}), IDS),
            (save_safetensors(tmp_path / "x.safetensors", x=TENSOR, **{name: torch.from_numpy(numbers)}), [*numbers]),
            (save_npz(tmp_path / "y.npz", items=MATRIX, **{name: numbers}), [*numbers]),
        ):
            table = read_features(path)
            assert table.values.tolist() == MATRIX.tolist()
            assert table.ids is not None
            assert table.ids.to_list() == ids
    for other in ("titles", "order", "user_ids", "sku_codes"):
        for path in (
            save_npz(tmp_path / "x.npz", features=MATRIX, **{other: np.array(IDS)}),
            save_pt(tmp_path / "x.pt", {"features": TENSOR, other: IDS}),
            save_safetensors(tmp_path / "x.safetensors", features=TENSOR, **{other: torch.arange(5)}),
            save_npz(tmp_path / "y.npz", features=MATRIX, ids=np.arange(5), **{other: np.array(IDS)}),
        ):
            with refuses(path, repr(other), "the item IDs of its rows 'ids', and leave out everything else"):
                read_features(path)


PANDAS = pd.DataFrame(MATRIX, columns=["d0", "d1", "d2"])
ORDER = [3, 1, 4, 0, 2]
SHUFFLED = PANDAS.assign(item_id=IDS).iloc[ORDER]


@pytest.mark.parametrize(
    ("table", "ids", "left_out"),
    [
        (SHUFFLED, list("dbeac"), ["__index_level_0__"]),
        (SHUFFLED.rename(columns={"item_id": "sku"}), list("dbeac"), ["__index_level_0__"]),
        (SHUFFLED.reset_index(), list("dbeac"), ["index"]),
        (SHUFFLED.reset_index().reset_index(), list("dbeac"), ["level_0", "index"]),
        (
            SHUFFLED.assign(**{"Unnamed: 0": ORDER, "Unnamed: 0.1": ORDER}),
            list("dbeac"),
            ["Unnamed: 0", "Unnamed: 0.1", "__index_level_0__"],
        ),
        (SHUFFLED.assign(row=ORDER, ID=ORDER).reset_index(drop=True), list("dbeac"), ["row", "ID"]),
        (SHUFFLED.set_index([ORDER, "item_id"]), list("dbeac"), ["__index_level_0__"]),
        (SHUFFLED.set_index("item_id"), list("dbeac"), []),
        (SHUFFLED.set_index("item_id").rename_axis(None), list("dbeac"), []),
        (PANDAS.set_index(pd.Index([50, 7, 9, 8, 1], name="product")), [50, 7, 9, 8, 1], []),
        (PANDAS.set_index(pd.RangeIndex(20, 30, 2, name="asin")), [20, 22, 24, 26, 28], []),
    ],
)
def test_an_index_of_pandas_is_no_feature(
    table: pd.DataFrame, ids: list[Any], left_out: list[str], tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    table.to_parquet(tmp_path / "x.parquet")
    read = read_features(tmp_path / "x.parquet")
    assert read.values.tolist() == (MATRIX[ORDER] if "d" in ids else MATRIX).tolist()
    assert read.ids is not None
    assert read.ids.to_list() == ids
    named = [str(warning.message) for warning in recwarn]
    assert [text.partition("not used as features: ")[2] for text in named] == (
        [", ".join(map(repr, left_out)) + "."] if left_out else []
    )


def test_columns_that_count_rows_are_no_features(tmp_path: Path) -> None:
    x = np.random.default_rng(1).standard_normal(12)
    columns = {"item": [*"abcdefghijkl"], "n": np.arange(100, 112), "f0": x}
    for path in (
        save_parquet(tmp_path / "x.parquet", **columns),
        save_parquet(tmp_path / "x.parquet", **{**columns, "n": columns["n"].astype("f4")}),
        save_text(tmp_path / "x.csv", pl.DataFrame(columns)),
    ):
        with pytest.warns(UserWarning, match="index columns, which are not used as features: 'n'"):
            assert read_features(path).values.shape == (12, 1)


def test_row_numbers_are_no_ids(tmp_path: Path, refuses: Any) -> None:
    for table in (PANDAS, PANDAS.iloc[ORDER], PANDAS.assign(product=ORDER).iloc[ORDER]):
        table.to_parquet(tmp_path / "x.parquet")
        with refuses("x.parquet", "Name it 'item_id'"):
            read_features(tmp_path / "x.parquet")


def test_metadata_of_pandas_may_be_wrong(tmp_path: Path) -> None:
    for metadata in (
        "{", "5", "[]", '{"index_columns": 5}', '{"index_columns": [[], 5, null, "gone", {"kind": "range"}]}',
        '{"index_columns": [{"name": "sku", "start": 0, "stop": 1e30, "step": 1}]}',
        f'{{"index_columns": [{{"name": "sku", "start": 0, "stop": {10**30}, "step": 1}}]}}',
        '{"index_columns": [{"name": "sku", "start": 0, "stop": 4, "step": 1}]}',
    ):  # fmt: skip
        pl.DataFrame({"item": IDS, **COLUMNS}).write_parquet(tmp_path / "x.parquet", metadata={"pandas": metadata})
        assert read_features(tmp_path / "x.parquet").values.tolist() == MATRIX.tolist()


def test_vectors_beside_other_columns_are_used(tmp_path: Path, refuses: Any) -> None:
    path = save_parquet(tmp_path / "x.parquet", item=IDS, title=IDS, look=MATRIX.tolist(), price=[1] * 5)
    with pytest.warns(UserWarning, match="vectors in column 'look', so others are not used as features: 'title', 'pri"):
        assert read_features(path).values.tolist() == MATRIX.tolist()
    path = save_parquet(tmp_path / "x.parquet", item=IDS, look=MATRIX, sound=MATRIX)
    with refuses(path, "'look', 'sound'", "'features'"):
        read_features(path)


@pytest.mark.parametrize("form", ["[{}]", "({})", " {} "])
@pytest.mark.parametrize("separator", [", ", ",", " ", "\n  ", ";", " | "])
def test_vectors_may_be_text(form: str, separator: str, tmp_path: Path) -> None:
    texts = [form.format(separator.join(map(str, row))) for row in MATRIX.tolist()]
    for columns in ({"item": IDS, "v": texts}, {"product": [5, 3, 9, 1, 2], "v": texts}):
        table = read_features(save_parquet(tmp_path / "x.parquet", **columns))
        np.testing.assert_allclose(table.values, MATRIX, rtol=1e-6)
        assert table.ids is not None
        assert table.ids.to_list() == next(iter(columns.values()))


def test_numbers_may_be_text(tmp_path: Path) -> None:
    for columns in (
        {name: [*map(str, column.tolist())] for name, column in COLUMNS.items()},
        {"v": [[*map(str, row)] for row in MATRIX.tolist()]},
    ):
        for name in ("item_id", "sku"):
            table = read_features(save_parquet(tmp_path / "x.parquet", **{name: IDS}, **columns))
            np.testing.assert_allclose(table.values, MATRIX, rtol=1e-6)
            assert table.ids is not None
            assert table.ids.to_list() == IDS


def test_a_number_before_the_ids_is_a_feature(tmp_path: Path) -> None:
    table = read_features(save_parquet(tmp_path / "x.parquet", n_photos=[2, 1], item_id=[1, 2], f0=[0.5, 0.25]))
    assert table.ids is not None
    assert table.ids.to_list() == [1, 2]
    assert table.values.tolist() == [[2.0, 0.5], [1.0, 0.25]]


@pytest.mark.parametrize(
    "columns",
    [
        {"n_photos": [3, 5], "product": [7, 8], "f0": [1.0, 2.0]},
        {"product": [7, 8], "f0": [1.0, 2.0]},
        {"sku": ["x", "y"], "title": ["a", "b"], "f0": [1.0, 2.0]},
        {"product": [7, 8], "n_photos": [3, 5], "vector": [[1.0], [2.0]]},
        {"look": [[1.0], [2.0]], "sound": [[1.0], [2.0]]},
    ],
    ids=["number first", "two numbers", "two texts", "two numbers beside a list", "only lists"],
)
def test_ids_that_could_be_features_are_not_guessed(columns: dict[str, Any], tmp_path: Path, refuses: Any) -> None:
    path = save_parquet(tmp_path / "x.parquet", **columns)
    with refuses(path, "Name it 'item_id'", ", ".join(map(repr, columns))):
        read_features(path)


def test_a_path_is_never_a_pattern(tmp_path: Path) -> None:
    save_parquet(tmp_path / "x1.parquet", item=["other"], x=[9.0])
    table = read_features(save_parquet(tmp_path / "x[1].parquet", item=["own"], x=[1.0]))
    assert table.values.tolist() == [[1.0]]


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="reads the mappings of a Linux process")
def test_a_matrix_stays_in_its_file(tmp_path: Path) -> None:
    for dtype in (np.float16, np.float32):
        matrix = MATRIX.astype(dtype)
        for path in (save_npy(tmp_path / "x.npy", matrix), save_pt(tmp_path / "x.pt", torch.from_numpy(matrix))):
            before = path.read_bytes()
            values = read_features(path).values
            assert values.numpy().dtype == dtype
            assert mapped_file(values) == str(path)
            assert mapped_file(values.clone()) == ""
            values[0] = 7
            assert path.read_bytes() == before
            path.unlink()


@pytest.mark.parametrize(
    ("name", "write"),
    {
        "x.pt": lambda path, evil: torch.save({"features": TENSOR, "ids": evil}, path),
        "bare.pt": lambda path, evil: path.write_bytes(pickle.dumps(evil)),
        "x.npy": lambda path, evil: np.save(path, np.array([[evil]], dtype=object), allow_pickle=True),
        "bare.npy": lambda path, evil: path.write_bytes(pickle.dumps(evil)),
        "x.npz": lambda path, evil: np.savez(path, features=np.array([[evil]], dtype=object)),
        "ids.npz": lambda path, evil: np.savez(path, features=MATRIX, ids=np.array([evil] * 5, dtype=object)),
        "bare.npz": lambda path, evil: path.write_bytes(pickle.dumps(evil)),
    }.items(),
)
def test_nothing_in_a_file_is_executed(
    name: str, write: Callable[[Path, Any], None], tmp_path: Path, payload: Any, refuses: Any
) -> None:
    write(tmp_path / name, payload)
    with refuses(tmp_path / name):
        read_features(tmp_path / name)


def test_the_payload_works_if_it_is_unpickled(payload: Any) -> None:
    pickle.loads(pickle.dumps(payload)).close()
    assert payload.path.exists()
    payload.path.unlink()


def with_ids(ids: Any) -> Callable[[Path], Path]:
    return lambda d: save_npz(d / "x.npz", features=MATRIX, ids=np.asarray(ids))


def pt_with_ids(ids: Any) -> Callable[[Path], Path]:
    return lambda d: save_pt(d / "x.pt", {"features": TENSOR, "ids": ids})


def parquet_of(**columns: Any) -> Callable[[Path], Path]:
    return lambda d: save_parquet(d / "x.parquet", **columns)


UNFIT: dict[str, tuple[Callable[[Path], Path], str]] = {
    "missing": (lambda d: d / "none.npy", "does not exist"),
    "a folder": (lambda d: d, "does not exist"),
    "unknown suffix": (lambda d: save_npy(d / "x.npy").rename(d / "x.pkl"), "unknown suffix"),
    "no header in csv": (
        lambda d: save_text(d / "x.csv", TABLE, include_header=False),
        "has a column '007': its header is missing. Add a line",
    ),
    "no header in csv of integers": (
        lambda d: save_text(d / "x.csv", pl.DataFrame([["a", "b"], [5, 7], [3, 4]]), include_header=False),
        "has a column '5': its header is missing",
    ),
    "no header in csv of vectors": (
        lambda d: save_text(d / "x.csv", pl.DataFrame([["a", "b"], ["[1, 2]", "[3, 4]"]]), include_header=False),
        "has a column '[1, 2]': its header is missing",
    ),
    **{
        f"shape {shape}": (lambda d, shape=shape: save_npy(d / "x.npy", np.ones(shape)), f"shape is {shape}")
        for shape in [(), (6,), (1, 2, 3), (0, 3), (3, 0)]
    },
    "text in npy": (lambda d: save_npy(d / "x.npy", [["a"]]), "not numbers"),
    "dates in npy": (lambda d: save_npy(d / "x.npy", np.array([["2024"]], dtype="M8[D]")), "not numbers"),
    "objects in npy": (lambda d: save_npy(d / "x.npy", MATRIX.astype(object)), "Python objects"),
    "records in npy": (lambda d: save_npy(d / "x.npy", np.zeros((2, 2), dtype=[("a", "f4")])), "not numbers"),
    "complex numbers in npy": (lambda d: save_npy(d / "x.npy", MATRIX.astype(complex)), "not numbers"),
    "npz named npy": (lambda d: save_npz(d / "x.npz", x=MATRIX).rename(d / "x.npy"), "not a readable .npy"),
    "npy named npz": (lambda d: save_npy(d / "x.npy").rename(d / "x.npz"), "not a readable .npz"),
    "two matrices in npz": (lambda d: save_npz(d / "x.npz", a=MATRIX, b=MATRIX), "holds 'a', 'b'. Name"),
    "only IDs in npz": (lambda d: save_npz(d / "x.npz", ids=np.arange(5)), "'features'"),
    "nothing in npz": (lambda d: save_npz(d / "x.npz"), "'features'"),
    "objects as IDs in npz": (with_ids(np.array(IDS, dtype=object)), "IDs by astype(str)"),
    "duplicate IDs in npz": (with_ids(list("aabcd")), "the ID 'a' more than once"),
    "too few IDs in npz": (with_ids(["a"]), "1 item IDs for 5"),
    "float IDs in npz": (with_ids(np.arange(5.0)), "Float64"),
    "complex IDs in npz": (with_ids(np.ones(5) + 1j), "IDs"),
    "byte IDs in npz": (with_ids(np.array(IDS, dtype="S")), "Binary"),
    "matrix of IDs in npz": (with_ids(np.ones((5, 2))), "IDs must be"),
    "list in pt": (lambda d: save_pt(d / "x.pt", [TENSOR]), "holds a list"),
    "list in the dictionary of a pt": (lambda d: save_pt(d / "x.pt", {"features": [1.0]}), "holds a list"),
    "no matrix in pt": (lambda d: save_pt(d / "x.pt", {"ids": IDS}), "'features'"),
    "dictionary in the dictionary of a pt": (lambda d: save_pt(d / "x.pt", {"image": {"ids": IDS}}), "holds a dict"),
    "vectors of two lengths in pt": (lambda d: save_pt(d / "x.pt", {"a": TENSOR[0], "b": TENSOR[0, :2]}), "'a', 'b'"),
    "repeated vectors in pt": (lambda d: save_pt(d / "x.pt", dict.fromkeys("ab", torch.ones(1).expand(10**9))), "'a'"),
    "text per ID in npz": (lambda d: save_npz(d / "x.npz", a=np.array(IDS), b=np.array(IDS)), "'a', holds <U1"),
    "two matrices in pt": (lambda d: save_pt(d / "x.pt", {"a": TENSOR, "b": TENSOR}), "holds 'a', 'b'. Name"),
    "sparse tensor in pt": (lambda d: save_pt(d / "x.pt", TENSOR.to_sparse()), "not a plain matrix"),
    "complex tensor in pt": (lambda d: save_pt(d / "x.pt", TENSOR + 1j), "not a plain matrix"),
    "tensor without data in pt": (lambda d: save_pt(d / "x.pt", TENSOR.to("meta")), "not a plain matrix"),
    "mixed IDs in pt": (pt_with_ids(["a", 1, 2, 3, 4]), "item IDs"),
    "one number as IDs in pt": (pt_with_ids(5), "item IDs"),
    "set of IDs in pt": (pt_with_ids(set(IDS)), "item IDs"),
    "bfloat16 IDs in pt": (pt_with_ids(torch.arange(5).bfloat16()), "item IDs"),
    "missing ID in pt": (pt_with_ids(["a", None, "c", "d", "e"]), "no ID in row 1"),
    "empty ID in pt": (pt_with_ids([*"abcd", ""]), "no ID in row 4"),
    "two matrices in safetensors": (
        lambda d: save_safetensors(d / "x.safetensors", a=TENSOR, b=TENSOR.clone()),
        "holds 'a', 'b'. Name",
    ),
    "bfloat16 IDs in safetensors": (
        lambda d: save_safetensors(d / "x.safetensors", x=TENSOR, ids=torch.arange(5).bfloat16()),
        "item IDs",
    ),
    "only IDs in parquet": (parquet_of(item=IDS), "at least one column of features"),
    "no rows in parquet": (parquet_of(item=pl.Series([], dtype=pl.String), x=[]), "no rows"),
    "no number in parquet": (parquet_of(item=["a", "b"], x=[1.0, None]), "no value in column 'x', row 1"),
    "no vector in parquet": (parquet_of(item=["a", "b"], x=[None, [1.0]]), "no value in column 'x', row 0"),
    "text in parquet": (parquet_of(item_id=[1, 2], title=["a", "b"], f0=[1.0, 2.0]), "such as 'a', not numbers. Store"),
    "text beside numbers as text in parquet": (parquet_of(item=["a", "b"], x=["1", "n/a"]), "such as 'n/a', not num"),
    "codes beside numbers in parquet": (parquet_of(item=["a", "b"], code=["1", "2"], x=[1.0, 2.0]), "such as '1', not"),
    "cut vectors as text in parquet": (parquet_of(item=["a"], x=["[0. 1. ... 2. 3.]"]), "such as '[0. 1. ... 2. 3.]'"),
    "decimal commas in parquet": (parquet_of(item=["a"], x=["0,34 0,82"]), "such as '0,34 0,82'"),
    "one number with a comma in parquet": (parquet_of(item=["a"], x=["1,234"]), "such as '1,234'"),
    "no vector as text in parquet": (
        parquet_of(item=["a", "b"], x=["[1, 2]", "[1, x]"]),
        "has '[1, x]' in column 'x', row 1 (rows count from 0), not a vector of numbers",
    ),
    "bytes in parquet": (parquet_of(item=["a"], x=[b"abcd"]), "type Binary, not numbers. Store vectors as lists"),
    "lists of text in parquet": (parquet_of(item=["a"], x=[["b"]]), "not numbers"),
    "lists of lists in parquet": (parquet_of(item=["a"], x=[[[1.0]]]), "not numbers"),
    "ragged lists in parquet": (parquet_of(item=["a", "b"], x=[[1.0], [1.0, 2.0]]), "differ in length"),
    "no ID in parquet": (parquet_of(item=["a", None], x=[1.0, 2.0]), "no ID in row 1"),
    "duplicate IDs in parquet": (parquet_of(item=[7, 7], x=[1.0, 2.0]), "the ID 7 more than once"),
    "float IDs in parquet": (parquet_of(item=[1.0, 2.0], x=[1.0, 2.0]), "Float64"),
}


def test_unfit_contents_are_named(tmp_path: Path, refuses: Any) -> None:
    for number, (make, text) in enumerate(UNFIT.values()):
        folder = tmp_path / str(number)
        folder.mkdir()
        path = make(folder)
        with refuses(path, text):
            read_features(path)


def test_ids_in_the_metadata_of_safetensors_are_used(tmp_path: Path) -> None:
    x = torch.arange(6.0).view(3, 2)
    save_file({"features": x}, tmp_path / "x.safetensors", metadata={"format": "pt", "item_ids": '["b", "c", "a"]'})
    table = read_features(tmp_path / "x.safetensors")
    assert table.ids is not None
    assert table.ids.to_list() == ["b", "c", "a"]
