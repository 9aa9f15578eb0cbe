"""Pickled sparse matrices are read without running anything in the file."""

import builtins
import itertools
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

from lirdrec_pyg.data.pickled_matrices import is_tiktok_raw, read_pickled_matrix, read_tiktok_raw
from lirdrec_pyg.errors import DataError

ROW, COLUMN, SHAPE = [0, 2, 2, 1], [1, 0, 3, 3], (3, 4)
PROTOCOLS = range(2, pickle.HIGHEST_PROTOCOL + 1)
REFUSED = "is not a plain pickled SciPy matrix"


def coo(dtype: Any = np.float64, index: Any = np.int32, shape: tuple[int, int] = SHAPE) -> scipy.sparse.coo_matrix:
    pairs = (np.array(ROW, dtype=index), np.array(COLUMN, dtype=index))
    return scipy.sparse.coo_matrix((np.ones(4, dtype=dtype), pairs), shape=shape)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "trnMat.pkl"


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_every_plain_form_of_a_sparse_matrix_is_read(protocol: int, path: Path) -> None:
    def read(matrix: Any) -> tuple[list[tuple[int, int]], tuple[int, int]]:
        path.write_bytes(pickle.dumps(matrix, protocol))
        row, column, shape = read_pickled_matrix(path)
        assert row.dtype == column.dtype == np.int64
        return sorted(zip(row.tolist(), column.tolist())), shape

    wanted = sorted(zip(ROW, COLUMN)), SHAPE
    for dtype in (np.float64, np.float32, np.int64, np.uint8, np.bool_):
        assert read(coo(dtype)) == wanted
    for kind, form in itertools.product(["coo", "csr", "csc"], ["matrix", "array"]):
        matrix = getattr(scipy.sparse, f"{kind}_{form}")(coo())
        assert read(matrix) == wanted
        matrix.data[1] = 0  # a stored zero is not an interaction
        assert read(matrix) == (sorted(zip(*(i.tolist() for i in matrix.nonzero()))), SHAPE)
        assert len(read(matrix)[0]) == 3
        assert read(getattr(scipy.sparse, f"{kind}_{form}")(SHAPE)) == ([], SHAPE)
    huge = (10**15, 10**15)  # takes no memory
    assert read(coo(shape=huge, index=np.int64)) == (wanted[0], huge)


def test_the_layout_of_old_scipy_and_numpy_is_read(path: Path) -> None:
    for byteorder, size in itertools.product("<>", (4, 8)):
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
def test_a_payload_is_not_run(protocol: int, path: Path, payload: Any, refuses: Any) -> None:
    for content in (
        payload,
        [coo(), payload],
        with_state(maxprint=payload),
        with_state(data=np.array([payload] * 4, dtype=object)),
        with_state(coords=(payload, payload)),
    ):
        path.write_bytes(pickle.dumps(content, protocol))
        with refuses(path, REFUSED):
            read_pickled_matrix(path)
        assert not payload.path.exists()


def test_other_names_are_refused(path: Path, payload: Any, refuses: Any) -> None:
    functions = [eval, exec, getattr, print, open, __import__, np.load, np.frombuffer, np.array, pickle.loads]
    for function, protocol in itertools.product(functions, [2, 4]):
        path.write_bytes(pickle.dumps(Calls(function, "1"), protocol))
        with refuses(path, "it requests ", function.__name__):
            read_pickled_matrix(path)
    for name in ["os\nsystem", "posix\nsystem", "subprocess\nPopen", "numpy\nload", "builtins\neval"]:
        path.write_bytes(f"c{name}\n(S'touch {payload.path}'\ntR.".encode())
        with refuses(path, "it requests", name.replace("\n", ".")):
            read_pickled_matrix(path)
    # Attributes of known names.
    for name in ["coo_matrix.__init__", "coo_matrix.tocsr", "ndarray.tofile"]:
        module = b"numpy" if "ndarray" in name else b"scipy.sparse._coo"
        parts = [b"\x8c" + struct.pack("B", len(text)) + text for text in (module, name.encode())]
        path.write_bytes(b"\x80\x04" + b"".join(parts) + b"\x93.")
        with refuses(path, "it requests"):
            read_pickled_matrix(path)


WRONG: dict[str, Any] = {
    "dictionary": {"row": [0], "col": [0]},
    "list": [1, 2],
    "nothing": None,
    "array": np.ones(3),
    "LIL": coo().tolil(),
    "DOK": coo().todok(),
    "too few entries": with_state(data=np.ones(3)),
    "too few pointers": csr_with(indptr=np.array([0, 1, 2])),
    "pointers to too few indices": csr_with(indptr=np.array([0, 1, 2, 3])),
    "pointers that start late": csr_with(indptr=np.array([1, 1, 2, 4])),
    "pointers that decrease": csr_with(indptr=np.array([0, 3, 2, 4])),
    "negative pointers": csr_with(indptr=np.array([0, -2, 2, 4])),
    # NumPy once crashed the interpreter on these two.
    "pointers that overflow": csr_with(_shape=(4, 4), indptr=np.array([0, 2**31 - 1, -(2**31), -1, 4], np.int32)),
    "pointers whose differences overflow": csr_with(_shape=(4, 4), indptr=np.array([0, 5, -(2**63), -1, 4])),
    "floats as pointers": csr_with(indptr=np.array([0, 1, 2, 4.0])),
    "entries in two dimensions": csr_with(data=np.ones((4, 2))),
    "index of CSR too large": csr_with(indices=np.array([1, 3, 0, 4])),
    "objects as indices": with_state(coords=(np.array(ROW), np.array(COLUMN, dtype=object))),
    "text as indices": with_state(coords=(np.array(ROW), np.array(list("abcd")))),
    "floats as indices": with_state(coords=(np.array(ROW), np.array(COLUMN, dtype=float))),
    "matrix of indices": with_state(coords=(np.array(ROW), np.array([COLUMN]))),
    "too few indices": with_state(coords=(np.array(ROW), np.array(COLUMN[:3]))),
    "index too large": with_state(coords=(np.array(ROW), np.array([0, 1, 2, 4]))),
    "negative index": with_state(coords=(np.array(ROW), np.array([0, 1, 2, -1]))),
    "one list of indices": with_state(coords=(np.array(ROW),)),
    "no indices": with_state(coords=None),
    "three axes": with_state(_shape=(3, 4, 5)),
    "words as shape": with_state(_shape=("a", "b")),
    "no shape": with_state(_shape=None),
}


@pytest.mark.parametrize("name", WRONG)
def test_anything_but_a_plain_matrix_is_refused(name: str, path: Path, refuses: Any) -> None:
    for protocol in (2, 4, 5):
        path.write_bytes(pickle.dumps(WRONG[name], protocol))
        with refuses(path, REFUSED):
            read_pickled_matrix(path)


def test_wrong_arrays_are_refused(path: Path, refuses: Any) -> None:
    text = pickle.dumps(coo(), 3)
    four = b"K\x01K\x04\x85"  # version 1, shape (4,)
    assert text.count(four) >= 3
    for claim in (5, 2**31 - 1):
        path.write_bytes(text.replace(four, b"K\x01J" + struct.pack("<i", claim) + b"\x85"))
        with refuses(path, REFUSED):
            read_pickled_matrix(path)
    assert b"i4" in text
    for code in (b"O8", b"V8", b"M8", b"U2", b"i3"):
        path.write_bytes(text.replace(b"i4", code))
        with refuses(path, "plain numbers"):
            read_pickled_matrix(path)


def test_keys_that_take_forever_to_hash_are_refused(path: Path, refuses: Any) -> None:
    # A pair of a pair of a pair, 100 times.
    pairs = b"".join(bytes([*b"h", n, *b"h", n, *b"\x86q", n + 1]) for n in range(100))
    path.write_bytes(b"\x80\x02)q\x00" + pairs + b"}(h\x64Nu.")
    with refuses(path, REFUSED):
        read_pickled_matrix(path)


def test_a_file_leaves_nothing_behind_for_the_next(path: Path, refuses: Any) -> None:
    for target in ["scipy.sparse._coo\ncoo_matrix", "numpy\ndtype", "numpy\nndarray"]:
        # BUILD with a state (None, {...}) sets attributes, here on a class.
        path.write_bytes(f"c{target}\n(N(dS'__setstate__'\nc{target}\nstb.".encode())
        with refuses(path, REFUSED):
            read_pickled_matrix(path)
        path.write_bytes(pickle.dumps(coo()))
        assert read_pickled_matrix(path)[0].tolist() == ROW


@pytest.mark.parametrize("protocol", [2, 5])
def test_every_cut_is_refused(protocol: int, path: Path) -> None:
    text = pickle.dumps(coo(), protocol)
    for end in range(len(text)):
        path.write_bytes(text[:end])
        with pytest.raises(DataError, match=REFUSED):
            read_pickled_matrix(path)


@given(st.binary(max_size=60))
def test_noise_is_refused(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.mktemp("noise") / "trnMat.pkl"
    path.write_bytes(content)
    with pytest.raises(DataError, match=REFUSED):
        read_pickled_matrix(path)


def test_neither_scipy_nor_pickle_is_used(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path.write_bytes(pickle.dumps(coo()))
    original = builtins.__import__

    def guarded(name: str, *arguments: Any) -> Any:
        assert not name.startswith("scipy")
        return original(name, *arguments)

    monkeypatch.setattr(builtins, "__import__", guarded)
    for name in ("load", "loads", "Unpickler"):
        monkeypatch.setattr(pickle, name, None)
    assert read_pickled_matrix(path)[1].tolist() == COLUMN


# --- The folder ------------------------------------------------------------------------------------------------------

SPLITS = {"trnMat.pkl": [(0, 1), (2, 0)], "valMat.pkl": [(2, 3)], "tstMat.pkl": [(1, 3)]}


def write_splits(folder: Path, shapes: list[tuple[int, int]]) -> None:
    for (name, pairs), shape in zip(SPLITS.items(), shapes):
        matrix = scipy.sparse.coo_matrix((np.ones(len(pairs)), tuple(zip(*pairs))), shape=shape)
        (folder / name).write_bytes(pickle.dumps(matrix))


def test_the_three_files_are_the_three_splits(tmp_path: Path, refuses: Any) -> None:
    assert not is_tiktok_raw(tmp_path)
    write_splits(tmp_path, [SHAPE] * 3)
    assert is_tiktok_raw(tmp_path)
    frame = read_tiktok_raw(tmp_path)
    assert frame.schema == {"user": pl.Int64, "item": pl.Int64, "label": pl.Int8}
    assert frame.rows() == [(0, 1, 0), (2, 0, 0), (2, 3, 1), (1, 3, 2)]
    write_splits(tmp_path, [SHAPE, SHAPE, (3, 5)])
    with refuses(tmp_path, "(3, 4)", "(3, 5)"):
        read_tiktok_raw(tmp_path)
    for name in SPLITS:
        write_splits(tmp_path, [SHAPE] * 3)
        (tmp_path / name).unlink()
        with refuses(tmp_path / name, "does not exist"):
            read_tiktok_raw(tmp_path)
