import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from lirdrec_pyg.data import features as module
from lirdrec_pyg.data import read_features
from lirdrec_pyg.data.features import blank_rows, check_features, fill_missing_rows, finite_rows
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


def columns_of(matrix: np.ndarray) -> dict[str, np.ndarray]:
    return {f"c{n}": column for n, column in enumerate(matrix.T)}


def mapped_file(x: torch.Tensor) -> str:
    """The file that the memory of ``x`` is a view of, or an empty text."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        bounds, *_, name = line.split(maxsplit=5)
        low, high = (int(bound, 16) for bound in bounds.split("-"))
        if low <= x.data_ptr() < high:
            return name if name.startswith("/") else ""
    return ""


FORMATS: dict[str, tuple[Callable[[Path], Path], list[Any] | None]] = {
    "npy": (lambda d: save_npy(d / "x.npy"), None),
    "npy in Fortran order": (lambda d: save_npy(d / "x.npy", np.asfortranarray(MATRIX)), None),
    "npz of one matrix": (lambda d: save_npz(d / "x.npz", anything=MATRIX), None),
    "npz with text IDs": (lambda d: save_npz(d / "x.npz", features=MATRIX, ids=np.array(IDS)), IDS),
    "npz with integer IDs": (lambda d: save_npz(d / "x.npz", y=MATRIX, ids=np.arange(5, dtype="u8")), [*range(5)]),
    "pt of a tensor": (lambda d: save_pt(d / "x.pt"), None),
    "pt of a parameter": (lambda d: save_pt(d / "x.pt", torch.nn.Parameter(TENSOR)), None),
    "pt of old": (lambda d: save_pt(d / "x.pt", _use_new_zipfile_serialization=False), None),
    "pt with text IDs": (lambda d: save_pt(d / "x.pt", {"features": TENSOR, "ids": IDS}), IDS),
    "pt with integer IDs": (lambda d: save_pt(d / "x.pt", {"x": TENSOR, "ids": torch.arange(5)}), [*range(5)]),
    "safetensors": (lambda d: save_safetensors(d / "x.safetensors", x=TENSOR), None),
    "safetensors with IDs": (
        lambda d: save_safetensors(d / "x.safetensors", features=TENSOR, ids=torch.arange(5)),
        [*range(5)],
    ),
    "parquet of columns": (lambda d: save_parquet(d / "x.parquet", item=IDS, **columns_of(MATRIX)), IDS),
    "parquet of lists": (lambda d: save_parquet(d / "x.parquet", item=IDS, vector=MATRIX.tolist()), IDS),
    "parquet of arrays": (lambda d: save_parquet(d / "x.parquet", item=IDS, vector=MATRIX), IDS),
    "parquet of lists beside other columns": (
        lambda d: save_parquet(d / "x.parquet", item=IDS, title=IDS, features=MATRIX.tolist(), price=[1] * len(IDS)),
        IDS,
    ),
    "parquet of leading zeros": (
        lambda d: save_parquet(d / "x.parquet", item=["007", "7", "8", "9", "10"], vector=MATRIX),
        ["007", "7", "8", "9", "10"],
    ),
}


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_the_matrix_and_its_ids(name: str, tmp_path: Path) -> None:
    save, ids = FORMATS[name]
    table = read_features(save(tmp_path))
    assert table.values.dtype == torch.float32
    assert not table.values.requires_grad
    torch.testing.assert_close(table.values, TENSOR)
    assert ids == (None if table.ids is None else table.ids.to_list())
    assert len(table) == 5


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", ">f2", ">f4", ">i2", "i1", "i8", "u1", "u2", "u8", "g", "?"])
def test_every_type_of_number_is_read(dtype: str, tmp_path: Path) -> None:
    matrix = np.array([[1, 0, 3], [0, 5, 6]]).astype(dtype)
    values = read_features(save_npy(tmp_path / "x.npy", matrix)).values
    assert values.dtype == (torch.float16 if dtype == "f2" else torch.float32)
    assert values.tolist() == matrix.tolist()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float8_e4m3fn, torch.uint16, torch.int64])
def test_types_that_only_torch_has_are_read(dtype: torch.dtype, tmp_path: Path) -> None:
    matrix = torch.tensor([[1, 0, 3], [0, 5, 6]]).to(dtype)
    values = read_features(save_pt(tmp_path / "x.pt", matrix)).values
    assert values.dtype == (dtype if dtype == torch.bfloat16 else torch.float32)
    assert values.tolist() == [[1, 0, 3], [0, 5, 6]]


@pytest.mark.parametrize(
    "column",
    [
        pytest.param(pl.Series([1, 2], dtype=pl.UInt8), id="uint8"),
        pytest.param(pl.Series([1, 2], dtype=pl.Int128), id="int128"),
        pytest.param(pl.Series([1, 2]).cast(pl.Decimal(9, 2)), id="decimal"),
        pytest.param(pl.Series([[1], [2]], dtype=pl.List(pl.Int32)), id="list of integers"),
    ],
)
def test_parquet_numbers_of_any_kind(column: pl.Series, tmp_path: Path) -> None:
    values = read_features(save_parquet(tmp_path / "x.parquet", item=["a", "b"], x=column)).values
    assert values.tolist() == [[1.0], [2.0]]


def test_the_id_column_can_be_named(tmp_path: Path) -> None:
    path = save_parquet(tmp_path / "x.parquet", price=[1.5, 2.5], sku=["a", "b"])
    table = read_features(path, id_column="sku")
    assert table.ids is not None
    assert table.ids.to_list() == ["a", "b"]
    assert table.values.tolist() == [[1.5], [2.5]]


ID_COLUMNS: dict[str, tuple[dict[str, Any], str]] = {
    "usual name": ({"n_photos": [3, 5], "item_id": [7, 8], "f0": [1.0, 2.0]}, "item_id"),
    "usual name of an array": ({"vector": [[1.0], [2.0]], "iid": [7, 8]}, "iid"),
    "only text": ({"n_photos": [3, 5], "sku": ["x", "y"], "f0": [1.0, 2.0]}, "sku"),
    "only text, as categories": ({"f0": [1.0, 2.0], "sku": pl.Series(["x", "y"], dtype=pl.Categorical)}, "sku"),
    "only text, as an enumeration": ({"f0": [1.0, 2.0], "sku": pl.Series(["x", "y"], dtype=pl.Enum("xy"))}, "sku"),
    "beside a list": ({"sku": [7, 8], "vector": [[1.0], [2.0]]}, "sku"),
    "after an array": ({"vector": np.ones((2, 3)), "sku": [7, 8]}, "sku"),
}


@pytest.mark.parametrize("name", ID_COLUMNS)
def test_the_id_column_is_found_by_what_it_is(name: str, tmp_path: Path) -> None:
    columns, wanted = ID_COLUMNS[name]
    ids = read_features(save_parquet(tmp_path / "x.parquet", **columns)).ids
    assert ids is not None
    assert ids.to_list() == list(columns[wanted])


def test_a_count_before_the_ids_is_a_feature(tmp_path: Path) -> None:
    path = save_parquet(tmp_path / "x.parquet", n_photos=[2, 1], item_id=[1, 2], f0=[0.5, 0.25])
    table = read_features(path)
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
    ids=["count first", "two numbers", "two texts", "two numbers beside a list", "lists alone"],
)
def test_ids_that_nothing_tells_from_features_are_not_guessed(
    columns: dict[str, Any], tmp_path: Path, refuses: Any
) -> None:
    path = save_parquet(tmp_path / "x.parquet", **columns)
    with refuses(path, "name it 'item_id'", ", ".join(map(repr, columns))):
        read_features(path)


def test_a_text_beside_the_ids_is_to_be_dropped(tmp_path: Path, refuses: Any) -> None:
    path = save_parquet(tmp_path / "x.parquet", item_id=[1, 2], title=["a", "b"], f0=[1.0, 2.0])
    with refuses(path, "Column 'title'", "no numbers but String: drop it", "(here 'item_id')"):
        read_features(path)


def test_a_path_is_never_a_pattern(tmp_path: Path) -> None:
    save_parquet(tmp_path / "x1.parquet", item=["other"], x=[9.0])
    table = read_features(save_parquet(tmp_path / "x[1].parquet", item=["own"], x=[1.0]))
    assert table.values.tolist() == [[1.0]]


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="reads the mappings of a Linux process")
@pytest.mark.parametrize("suffix", [".npy", ".pt"])
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_a_matrix_stays_in_its_file(suffix: str, dtype: type, tmp_path: Path) -> None:
    path = tmp_path / f"x{suffix}"
    matrix = MATRIX.astype(dtype)
    if suffix == ".npy":
        save_npy(path, matrix)
    else:
        save_pt(path, torch.from_numpy(matrix))
    before = path.read_bytes()
    values = read_features(path).values
    assert values.numpy().dtype == dtype
    assert mapped_file(values) == str(path)
    assert mapped_file(values.clone()) == ""
    values[0] = 7
    assert path.read_bytes() == before


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
    path = tmp_path / name
    write(path, payload)
    with refuses(path):
        read_features(path)


def test_the_payload_works_in_careless_hands(payload: Any) -> None:
    pickle.loads(pickle.dumps(payload)).close()
    assert payload.path.exists()
    payload.path.unlink()


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda content: b"",
    "cut in the middle": lambda content: content[: len(content) // 2],
    "last bytes missing": lambda content: content[:-5],
    "noise": lambda content: np.random.default_rng(0).bytes(300),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", [n for n in FORMATS if "Fortran" not in n and "old" not in n])
def test_damaged_files_are_refused(name: str, damage: str, tmp_path: Path, refuses: Any) -> None:
    path = FORMATS[name][0](tmp_path)
    path.write_bytes(DAMAGES[damage](path.read_bytes()))
    with refuses(path):
        read_features(path)


@given(st.data())
@pytest.mark.parametrize("name", ["npy", "npz with text IDs", "safetensors with IDs", "pt with text IDs"])
def test_flipped_bytes_raise_nothing_but_data_errors(
    name: str, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = FORMATS[name][0](tmp_path_factory.mktemp("flipped"))
    content = bytearray(path.read_bytes())
    # The beginnings of files, where their headers are, are hit most.
    for position in data.draw(st.lists(st.integers(0, len(content) - 1) | st.integers(0, 130), min_size=1, max_size=3)):
        content[position] = data.draw(st.integers(0, 255))
    path.write_bytes(bytes(content))
    try:
        table = read_features(path)
    except DataError:
        return
    assert table.values.dim() == 2


@pytest.mark.parametrize("shape", [(), (6,), (1, 2, 3), (0, 3), (3, 0)])
def test_anything_but_a_matrix_is_refused(shape: tuple[int, ...], tmp_path: Path, refuses: Any) -> None:
    path = save_npy(tmp_path / "x.npy", np.ones(shape, dtype=np.float32))
    with refuses(path, f"shape is {shape}"):
        read_features(path)


def duplicated(ids: list[Any]) -> list[Any]:
    return [ids[0], *ids[:-1]]


UNFIT: dict[str, tuple[Callable[[Path], Path], str]] = {
    "missing": (lambda d: d / "none.npy", "There is no feature file"),
    "a folder": (lambda d: d, "There is no feature file"),
    "unknown ending": (lambda d: save_npy(d / "x.npy").rename(d / "x.csv"), "unknown ending"),
    "text in npy": (lambda d: save_npy(d / "x.npy", [["a"]]), "not numbers"),
    "dates in npy": (lambda d: save_npy(d / "x.npy", np.array([["2024"]], dtype="M8[D]")), "not numbers"),
    "objects in npy": (lambda d: save_npy(d / "x.npy", MATRIX.astype(object)), "Python objects"),
    "records in npy": (lambda d: save_npy(d / "x.npy", np.zeros((2, 2), dtype=[("a", "f4")])), "not numbers"),
    "complex numbers in npy": (lambda d: save_npy(d / "x.npy", MATRIX.astype(complex)), "not numbers"),
    "npz named npy": (lambda d: save_npz(d / "x.npz", x=MATRIX).rename(d / "x.npy"), "not a readable .npy"),
    "npy named npz": (lambda d: save_npy(d / "x.npy").rename(d / "x.npz"), "not a readable .npz"),
    "two matrices in npz": (lambda d: save_npz(d / "x.npz", a=MATRIX, b=MATRIX), "['a', 'b']"),
    "IDs alone in npz": (lambda d: save_npz(d / "x.npz", ids=np.arange(5)), "name the matrix of features"),
    "nothing in npz": (lambda d: save_npz(d / "x.npz"), "name the matrix of features"),
    "objects for IDs in npz": (
        lambda d: save_npz(d / "x.npz", features=MATRIX, ids=np.array(IDS, dtype=object)),
        "IDs by astype(str)",
    ),
    "duplicate IDs in npz": (
        lambda d: save_npz(d / "x.npz", features=MATRIX, ids=np.array(duplicated(IDS))),
        "the ID 'a' more than once",
    ),
    "too few IDs in npz": (lambda d: save_npz(d / "x.npz", features=MATRIX, ids=np.array(["a"])), "1 item IDs for 5"),
    "float IDs in npz": (lambda d: save_npz(d / "x.npz", features=MATRIX, ids=np.arange(5.0)), "holds Float64"),
    "complex IDs in npz": (lambda d: save_npz(d / "x.npz", features=MATRIX, ids=np.ones(5) + 1j), "IDs"),
    "byte IDs in npz": (lambda d: save_npz(d / "x.npz", features=MATRIX, ids=np.array(IDS, dtype="S")), "Binary"),
    "matrix of IDs in npz": (lambda d: save_npz(d / "x.npz", features=MATRIX, ids=np.ones((5, 2))), "IDs have to be"),
    "list in pt": (lambda d: save_pt(d / "x.pt", [TENSOR]), "holds a list"),
    "list in the dictionary of a pt": (lambda d: save_pt(d / "x.pt", {"features": [1.0]}), "holds a list"),
    "no matrix in pt": (lambda d: save_pt(d / "x.pt", {1: TENSOR}), "name the matrix of features"),
    "two matrices in pt": (lambda d: save_pt(d / "x.pt", {"a": TENSOR, "b": TENSOR}), "['a', 'b']"),
    "sparse tensor in pt": (lambda d: save_pt(d / "x.pt", TENSOR.to_sparse()), "no plain matrix"),
    "complex tensor in pt": (lambda d: save_pt(d / "x.pt", TENSOR + 1j), "no plain matrix"),
    "tensor without data in pt": (lambda d: save_pt(d / "x.pt", TENSOR.to("meta")), "no plain matrix"),
    "mixed IDs in pt": (lambda d: save_pt(d / "x.pt", {"features": TENSOR, "ids": ["a", 1, 2, 3, 4]}), "item IDs"),
    "one number as IDs in pt": (lambda d: save_pt(d / "x.pt", {"features": TENSOR, "ids": 5}), "item IDs"),
    "set of IDs in pt": (lambda d: save_pt(d / "x.pt", {"features": TENSOR, "ids": set(IDS)}), "item IDs"),
    "bfloat16 IDs in pt": (
        lambda d: save_pt(d / "x.pt", {"features": TENSOR, "ids": torch.arange(5).bfloat16()}),
        "item IDs",
    ),
    "missing ID in pt": (
        lambda d: save_pt(d / "x.pt", {"features": TENSOR, "ids": ["a", None, "c", "d", "e"]}),
        "no ID in row 1",
    ),
    "empty ID in pt": (lambda d: save_pt(d / "x.pt", {"features": TENSOR, "ids": [*"abcd", ""]}), "no ID in row 4"),
    "two matrices in safetensors": (
        lambda d: save_safetensors(d / "x.safetensors", a=TENSOR, b=TENSOR.clone()),
        "['a', 'b']",
    ),
    "bfloat16 IDs in safetensors": (
        lambda d: save_safetensors(d / "x.safetensors", x=TENSOR, ids=torch.arange(5).bfloat16()),
        "item IDs",
    ),
    "IDs alone in parquet": (lambda d: save_parquet(d / "x.parquet", item=IDS), "at least one column of features"),
    "no rows in parquet": (
        lambda d: save_parquet(d / "x.parquet", item=pl.Series([], dtype=pl.String), x=[]),
        "no rows",
    ),
    "no number in parquet": (
        lambda d: save_parquet(d / "x.parquet", item=["a", "b"], x=[1.0, None]),
        "no value in column 'x', row 1",
    ),
    "no vector in parquet": (
        lambda d: save_parquet(d / "x.parquet", item=["a", "b"], x=[None, [1.0]]),
        "no value in column 'x', row 0",
    ),
    "text in parquet": (lambda d: save_parquet(d / "x.parquet", item=IDS, name=IDS), "Column 'name'"),
    "lists of text in parquet": (lambda d: save_parquet(d / "x.parquet", item=["a"], x=[["b"]]), "no numbers"),
    "lists of lists in parquet": (lambda d: save_parquet(d / "x.parquet", item=["a"], x=[[[1.0]]]), "no numbers"),
    "ragged lists in parquet": (
        lambda d: save_parquet(d / "x.parquet", item=["a", "b"], x=[[1.0], [1.0, 2.0]]),
        "not all of one length",
    ),
    "no ID in parquet": (lambda d: save_parquet(d / "x.parquet", item=["a", None], x=[1.0, 2.0]), "no ID in row 1"),
    "duplicate IDs in parquet": (
        lambda d: save_parquet(d / "x.parquet", item=[7, 7], x=[1.0, 2.0]),
        "the ID 7 more than once",
    ),
    "float IDs in parquet": (lambda d: save_parquet(d / "x.parquet", item=[1.0, 2.0], x=[1.0, 2.0]), "Float64"),
}


@pytest.mark.parametrize("name", UNFIT)
def test_unfit_contents_are_named(name: str, tmp_path: Path, refuses: Any) -> None:
    make, text = UNFIT[name]
    path = make(tmp_path)
    with refuses(path, text):
        read_features(path)


def test_a_missing_id_column_is_named(tmp_path: Path, refuses: Any) -> None:
    path = save_parquet(tmp_path / "x.parquet", item=["a"], x=[1.0])
    with refuses(path, "'sku'", "item, x"):
        read_features(path, id_column="sku")


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two rows of width 3 a block."""
    monkeypatch.setattr(module, "_BLOCK_BYTES", 24)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_check_names_the_place_of_a_value_that_is_no_number(value: float, dtype: torch.dtype, refuses: Any) -> None:
    x = TENSOR.to(dtype, copy=True)
    x[3, 1] = value
    with refuses("shop.npy", f"holds {value} in row 3, column 1"):
        check_features(x, "shop.npy")


@pytest.mark.usefixtures("small_blocks")
def test_check_names_a_row_of_zeros(refuses: Any) -> None:
    x = TENSOR.clone()
    x[4] = 0
    with refuses("shop.npy", "row 4", "--zero-features missing"):
        check_features(x, "shop.npy")
    assert blank_rows(x).tolist() == [False, False, False, False, True]


@pytest.mark.usefixtures("small_blocks")
def test_large_numbers_are_finite_though_their_sum_is_not() -> None:
    x = TENSOR.clone()
    x[2] = torch.finfo(torch.float32).max
    check_features(x, "shop.npy")
    x[3, 0], x[3, 1], x[4, 2] = np.inf, -np.inf, np.nan
    assert finite_rows(x).tolist() == [True, True, True, False, False]


@pytest.mark.usefixtures("small_blocks")
def test_check_names_a_row_of_nan(refuses: Any) -> None:
    x = TENSOR.clone()
    x[3] = np.nan
    with refuses("shop.npy", "all NaN in row 3", "--zero-features missing"):
        check_features(x, "shop.npy")
    x[4, 1] = np.nan
    assert blank_rows(x).tolist() == [False, False, False, True, False]


@pytest.mark.usefixtures("small_blocks")
def test_check_leaves_unused_rows_alone() -> None:
    x = TENSOR.clone()
    x[1], x[4, 0] = 0, np.nan
    check_features(x, "shop.npy", used=torch.tensor([True, False, True, True, False]))
    with pytest.raises(DataError, match="row 1"):
        check_features(x, "shop.npy", used=torch.tensor([True, True, True, True, False]))


@pytest.mark.parametrize("x", [torch.ones(3), torch.ones(3, 2, dtype=torch.long), torch.ones(3, 0), MATRIX])
def test_check_wants_a_float_matrix(x: Any, refuses: Any) -> None:
    with refuses("shop.npy"):
        check_features(x, "shop.npy")


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_missing_rows_become_the_mean_of_the_others(dtype: torch.dtype) -> None:
    x = torch.tensor([[1.0, 2.0], [9.0, torch.nan], [3.0, 6.0], [0.0, 0.0]], dtype=dtype)
    mask = torch.tensor([True, False, True, False])
    filled = fill_missing_rows(x, mask, "x_image")
    assert filled.dtype == dtype
    assert filled.tolist() == [[1, 2], [2, 4], [3, 6], [2, 4]]
    assert x[3].tolist() == [0, 0]


def test_nothing_is_copied_where_no_row_is_missing() -> None:
    assert fill_missing_rows(TENSOR, torch.ones(5, dtype=torch.bool), "x_image") is TENSOR


@pytest.mark.parametrize("mask", [torch.zeros(5).bool(), torch.ones(4).bool(), torch.ones(5, 1).bool()])
def test_masks_that_leave_nothing_or_do_not_fit_are_refused(mask: torch.Tensor, refuses: Any) -> None:
    with refuses("x_image"):
        fill_missing_rows(TENSOR, mask, "x_image")
