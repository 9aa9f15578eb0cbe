import builtins
import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import scipy.sparse
from hypothesis import given
from hypothesis import strategies as st

from lirdrec_pyg.data.tiktok_raw import is_tiktok_raw, read_pickled_matrix, read_tiktok_raw
from lirdrec_pyg.errors import DataError

ROW, COLUMN, SHAPE = [0, 2, 2, 1], [1, 0, 3, 3], (3, 4)


def coo(dtype: Any = np.float64, index: Any = np.int32, shape: tuple[int, int] = SHAPE) -> scipy.sparse.coo_matrix:
    pairs = (np.array(ROW, dtype=index), np.array(COLUMN, dtype=index))
    return scipy.sparse.coo_matrix((np.ones(4, dtype=dtype), pairs), shape=shape)


def empty(shape: tuple[int, int] = SHAPE) -> scipy.sparse.coo_matrix:
    return scipy.sparse.coo_matrix(shape)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "trnMat.pkl"


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.int64, np.uint8, np.bool_])
def test_matrices_of_scipy_are_read(protocol: int, dtype: type, path: Path) -> None:
    path.write_bytes(pickle.dumps(coo(dtype), protocol))
    row, column, shape = read_pickled_matrix(path)
    assert row.dtype == column.dtype == np.int64
    assert (row.tolist(), column.tolist(), shape) == (ROW, COLUMN, SHAPE)


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("form", ["matrix", "array"])
@pytest.mark.parametrize("kind", ["coo", "csr", "csc"])
def test_every_plain_form_of_a_sparse_matrix_is_read(kind: str, form: str, protocol: int, path: Path) -> None:
    path.write_bytes(pickle.dumps(getattr(scipy.sparse, f"{kind}_{form}")(coo()), protocol))
    row, column, shape = read_pickled_matrix(path)
    assert row.dtype == column.dtype == np.int64
    assert (sorted(zip(row.tolist(), column.tolist())), shape) == (sorted(zip(ROW, COLUMN)), SHAPE)


@pytest.mark.parametrize("kind", ["coo", "csr", "csc"])
def test_a_stored_zero_is_no_interaction(kind: str, path: Path) -> None:
    matrix = coo().asformat(kind)
    matrix.data[1] = 0
    path.write_bytes(pickle.dumps(matrix))
    row, column, _ = read_pickled_matrix(path)
    assert sorted(zip(row.tolist(), column.tolist())) == sorted(zip(*(i.tolist() for i in matrix.nonzero())))
    assert len(row) == 3


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_an_empty_matrix_is_read(protocol: int, path: Path) -> None:
    path.write_bytes(pickle.dumps(empty(), protocol))
    row, column, shape = read_pickled_matrix(path)
    assert (row.tolist(), column.tolist(), shape) == ([], [], SHAPE)


@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize("size", [4, 8])
def test_the_layout_of_old_scipy_and_numpy_is_read(byteorder: str, size: int, path: Path) -> None:
    matrix = coo()
    state = vars(matrix)
    row, column = (a.astype(f"{byteorder}i{size}") for a in state.pop("coords"))
    state.update(row=row, col=column)
    text = pickle.dumps(matrix, 3)
    for new, old in {b"scipy.sparse._coo": b"scipy.sparse.coo", b"numpy._core": b"numpy.core"}.items():
        assert new in text
        text = text.replace(new, old)
    path.write_bytes(text)
    assert [a.tolist() for a in read_pickled_matrix(path)[:2]] == [ROW, COLUMN]


class Calls:
    """Pickles to a call of ``function``."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return self.call


def with_state(**changes: Any) -> scipy.sparse.coo_matrix:
    matrix = coo()
    vars(matrix).update(changes)
    return matrix


def csr_with(**changes: Any) -> scipy.sparse.csr_matrix:
    matrix = coo().tocsr()
    vars(matrix).update(changes)
    return matrix


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("place", ["alone", "in a list", "in the state", "in an array", "as indices"])
def test_a_payload_is_not_run(protocol: int, place: str, path: Path, payload: Any, refuses: Any) -> None:
    content = {
        "alone": payload,
        "in a list": [coo(), payload],
        "in the state": with_state(maxprint=payload),
        "in an array": with_state(data=np.array([payload] * 4, dtype=object)),
        "as indices": with_state(coords=(payload, payload)),
    }[place]
    path.write_bytes(pickle.dumps(content, protocol))
    with refuses(path, "is refused"):
        read_pickled_matrix(path)


@pytest.mark.parametrize(
    "function", [eval, exec, getattr, print, open, __import__, np.load, np.frombuffer, np.array, pickle.loads]
)
@pytest.mark.parametrize("protocol", [2, 4])
def test_other_functions_are_refused_by_name(function: Any, protocol: int, path: Path, refuses: Any) -> None:
    path.write_bytes(pickle.dumps(Calls(function, "1"), protocol))
    with refuses(path, "it asks for ", function.__name__):
        read_pickled_matrix(path)


@pytest.mark.parametrize("name", ["os\nsystem", "posix\nsystem", "subprocess\nPopen", "numpy\nload", "builtins\neval"])
def test_functions_reached_by_hand_are_refused(name: str, path: Path, payload: Any, refuses: Any) -> None:
    path.write_bytes(f"c{name}\n(S'touch {payload.path}'\ntR.".encode())
    with refuses(path, "it asks for", name.replace("\n", ".")):
        read_pickled_matrix(path)


@pytest.mark.parametrize("name", ["coo_matrix.__init__", "coo_matrix.tocsr", "ndarray.tofile"])
def test_attributes_of_known_names_are_refused(name: str, path: Path, refuses: Any) -> None:
    module = b"numpy" if "ndarray" in name else b"scipy.sparse._coo"
    parts = [b"\x8c" + struct.pack("B", len(text)) + text for text in (module, name.encode())]
    path.write_bytes(b"\x80\x04" + b"".join(parts) + b"\x93.")
    with refuses(path, "it asks for"):
        read_pickled_matrix(path)


@pytest.mark.parametrize(
    "matrix",
    [
        pytest.param({"row": [0], "col": [0]}, id="dictionary"),
        pytest.param([1, 2], id="list"),
        pytest.param(None, id="nothing"),
        pytest.param(np.ones(3), id="array"),
        pytest.param(coo().tolil(), id="LIL"),
        pytest.param(coo().todok(), id="DOK"),
        pytest.param(with_state(data=np.ones(3)), id="too few entries"),
        pytest.param(csr_with(indptr=np.array([0, 1, 2])), id="too few pointers"),
        pytest.param(csr_with(indptr=np.array([0, 1, 2, 3])), id="pointers to too few indices"),
        pytest.param(csr_with(indptr=np.array([1, 1, 2, 4])), id="pointers that start late"),
        pytest.param(csr_with(indptr=np.array([0, 3, 2, 4])), id="pointers that go back"),
        pytest.param(csr_with(indptr=np.array([0, -2, 2, 4])), id="negative pointers"),
        pytest.param(
            csr_with(_shape=(4, 4), indptr=np.array([0, 2**31 - 1, -(2**31), -1, 4], np.int32)), id="pointers that wrap"
        ),
        pytest.param(
            csr_with(_shape=(4, 4), indptr=np.array([0, 5, -(2**63), -1, 4])), id="pointers whose differences wrap"
        ),
        pytest.param(csr_with(indptr=np.array([0, 1, 2, 4.0])), id="floats for pointers"),
        pytest.param(csr_with(data=np.ones((4, 2))), id="entries in two dimensions"),
        pytest.param(csr_with(indices=np.array([1, 3, 0, 4])), id="index of CSR too large"),
        pytest.param(with_state(coords=(np.array(ROW), np.array(COLUMN, dtype=object))), id="objects for indices"),
        pytest.param(with_state(coords=(np.array(ROW), np.array(list("abcd")))), id="texts for indices"),
        pytest.param(with_state(coords=(np.array(ROW), np.array(COLUMN, dtype=float))), id="floats for indices"),
        pytest.param(with_state(coords=(np.array(ROW), np.array([COLUMN]))), id="matrix of indices"),
        pytest.param(with_state(coords=(np.array(ROW), np.array(COLUMN[:3]))), id="too few indices"),
        pytest.param(with_state(coords=(np.array(ROW), np.array([0, 1, 2, 4]))), id="index too large"),
        pytest.param(with_state(coords=(np.array(ROW), np.array([0, 1, 2, -1]))), id="negative index"),
        pytest.param(with_state(coords=(np.array(ROW),)), id="one list of indices"),
        pytest.param(with_state(coords=None), id="no indices"),
        pytest.param(with_state(_shape=(3, 4, 5)), id="three axes"),
        pytest.param(with_state(_shape=("a", "b")), id="words for a shape"),
        pytest.param(with_state(_shape=None), id="no shape"),
    ],
)
@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_anything_but_a_plain_matrix_is_refused(matrix: Any, protocol: int, path: Path, refuses: Any) -> None:
    path.write_bytes(pickle.dumps(matrix, protocol))
    with refuses(path, "is refused"):
        read_pickled_matrix(path)


def test_a_huge_shape_takes_no_memory(path: Path) -> None:
    path.write_bytes(pickle.dumps(coo(shape=(10**15, 10**15), index=np.int64)))
    row, _, shape = read_pickled_matrix(path)
    assert shape == (10**15, 10**15)
    assert row.tolist() == ROW


@pytest.mark.parametrize("claim", [5, 2**31 - 1])
def test_an_array_larger_than_its_bytes_is_refused(claim: int, path: Path, refuses: Any) -> None:
    text = pickle.dumps(coo(), 3)
    four = b"K\x01K\x04\x85"  # version 1, shape (4,)
    assert text.count(four) >= 3
    path.write_bytes(text.replace(four, b"K\x01J" + struct.pack("<i", claim) + b"\x85"))
    with refuses(path, "is refused"):
        read_pickled_matrix(path)


@pytest.mark.parametrize("code", [b"O8", b"V8", b"M8", b"U2", b"i3"])
def test_arrays_of_anything_but_numbers_are_refused(code: bytes, path: Path, refuses: Any) -> None:
    text = pickle.dumps(coo(), 3)
    assert b"i4" in text
    path.write_bytes(text.replace(b"i4", code))
    with refuses(path, "no plain numbers"):
        read_pickled_matrix(path)


@pytest.mark.parametrize("target", ["scipy.sparse._coo\ncoo_matrix", "numpy\ndtype", "numpy\nndarray"])
def test_a_file_leaves_nothing_behind_for_the_next(target: str, path: Path, refuses: Any) -> None:
    # BUILD with a state (None, {...}) sets attributes, here on a class.
    path.write_bytes(f"c{target}\n(N(dS'__setstate__'\nc{target}\nstb.".encode())
    with refuses(path, "is refused"):
        read_pickled_matrix(path)
    path.write_bytes(pickle.dumps(coo()))
    assert read_pickled_matrix(path)[0].tolist() == ROW


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_every_cut_is_refused(protocol: int, path: Path) -> None:
    text = pickle.dumps(coo(), protocol)
    for end in range(len(text)):
        path.write_bytes(text[:end])
        with pytest.raises(DataError, match="is refused"):
            read_pickled_matrix(path)


@given(st.binary(max_size=60))
def test_noise_is_refused(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.mktemp("noise") / "trnMat.pkl"
    # 'r' and 'p' make C code allocate as much as four bytes of noise say.
    path.write_bytes(content.translate(None, b"rp"))
    with pytest.raises(DataError, match="is refused"):
        read_pickled_matrix(path)


def test_the_originals_are_never_touched(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading works without SciPy: none of its code, nor the pickled names of NumPy, are called."""
    text = pickle.dumps(coo())
    original = builtins.__import__

    def guarded(name: str, *arguments: Any) -> Any:
        assert not name.startswith("scipy")
        return original(name, *arguments)

    monkeypatch.setattr(builtins, "__import__", guarded)
    path.write_bytes(text)
    assert read_pickled_matrix(path)[1].tolist() == COLUMN


# --- The folder ------------------------------------------------------------------------------------------------------

SPLITS = {"trnMat.pkl": [(0, 1), (2, 0)], "valMat.pkl": [(2, 3)], "tstMat.pkl": [(1, 3)]}


def write_splits(folder: Path, shapes: list[tuple[int, int]]) -> None:
    for (name, pairs), shape in zip(SPLITS.items(), shapes):
        matrix = scipy.sparse.coo_matrix((np.ones(len(pairs)), tuple(zip(*pairs))), shape=shape)
        (folder / name).write_bytes(pickle.dumps(matrix))


def test_the_three_files_are_the_three_splits(tmp_path: Path) -> None:
    assert not is_tiktok_raw(tmp_path)
    write_splits(tmp_path, [SHAPE] * 3)
    assert is_tiktok_raw(tmp_path)
    frame = read_tiktok_raw(tmp_path)
    assert frame.schema == {"user": pl.Int64, "item": pl.Int64, "label": pl.Int8}
    assert frame.rows() == [(0, 1, 0), (2, 0, 0), (2, 3, 1), (1, 3, 2)]


def test_matrices_of_different_shapes_are_refused(tmp_path: Path, refuses: Any) -> None:
    write_splits(tmp_path, [SHAPE, SHAPE, (3, 5)])
    with refuses(tmp_path, "(3, 4)", "(3, 5)"):
        read_tiktok_raw(tmp_path)


@pytest.mark.parametrize("name", SPLITS)
def test_a_missing_file_is_named(name: str, tmp_path: Path, refuses: Any) -> None:
    write_splits(tmp_path, [SHAPE] * 3)
    (tmp_path / name).unlink()
    with refuses("There is no file", name):
        read_tiktok_raw(tmp_path)
