"""TikTok's published raw form: pickled sparse matrices of SciPy.

A pickle is a program. It is run here by an unpickler that knows the names a COO, CSR or CSC matrix consists of, puts
an inert class of its own in the place of each, and refuses everything else.
"""

import io
import pickle
import pickletools
import re
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import polars as pl

from lirdrec_pyg.data.interactions import TEST, TRAIN, VAL
from lirdrec_pyg.data.tables import first_line, is_file
from lirdrec_pyg.errors import DataError

# A pickled matrix takes 126 to 194, by protocol.
_MAX_STEPS = 1000

MATRIX_FILES = {"trnMat.pkl": TRAIN, "valMat.pkl": VAL, "tstMat.pkl": TEST}


def is_tiktok_raw(folder: Path) -> bool:
    """Whether ``folder`` holds TikTok's raw form."""
    return is_file(folder / "trnMat.pkl")


def read_tiktok_raw(folder: Path) -> pl.DataFrame:
    """Reads the interactions: ``user``, ``item`` and ``label``.

    Raises:
        DataError: if a file is missing, damaged, or a pickle asks for anything but a sparse matrix.
    """
    frames, shapes = [], set()
    for name, label in MATRIX_FILES.items():
        user, item, shape = read_pickled_matrix(folder / name)
        shapes.add(shape)
        frames.append(pl.DataFrame({"user": user, "item": item}).with_columns(label=pl.lit(label, pl.Int8)))
    if len(shapes) > 1:
        raise DataError(f"The matrices in {folder} differ in shape: {sorted(shapes)}.")
    return pl.concat(frames)


class _Sealed(type):
    """A class that a pickle can make instances of, but can't change for the next file."""

    def __setattr__(cls, name: str, value: object) -> None:
        raise pickle.UnpicklingError(f"it changes {cls.__name__}.{name}")


class _Matrix(metaclass=_Sealed):
    """Takes the place of ``scipy.sparse.coo_matrix``: keeps the pickled state and does nothing."""

    def places(self) -> tuple[np.ndarray, np.ndarray]:
        """Row and column of each entry."""
        state = vars(self)
        row, col = state["coords"] if "coords" in state else (state["row"], state["col"])
        return row.values, col.values


class _CSRMatrix(_Matrix):
    """Takes the place of ``scipy.sparse.csr_matrix``."""

    def places(self) -> tuple[np.ndarray, np.ndarray]:
        """Row and column of each entry."""
        return self._compressed(vars(self)["_shape"][0])

    def _compressed(self, size: int) -> tuple[np.ndarray, np.ndarray]:
        """The index by which the entries are grouped, and the other, of each entry."""
        start, index = vars(self)["indptr"].values, vars(self)["indices"].values
        # The bounds come first: differences of other numbers might wrap around, and NumPy write beyond its memory.
        if (
            start.dtype.kind != "i"
            or (len(start), start[0], start[-1]) != (size + 1, 0, len(index))
            or not 0 <= start.min() <= start.max() <= len(index)
            or (count := np.diff(start)).min(initial=0) < 0
        ):
            raise pickle.UnpicklingError("its pointers don't fit its shape and indices")
        return np.repeat(np.arange(size), count), index


class _CSCMatrix(_CSRMatrix):
    """Takes the place of ``scipy.sparse.csc_matrix``."""

    def places(self) -> tuple[np.ndarray, np.ndarray]:
        """Row and column of each entry."""
        col, row = self._compressed(vars(self)["_shape"][1])
        return row, col


class _DType(metaclass=_Sealed):
    """Takes the place of ``numpy.dtype``."""

    def __init__(self, code: str, *_: object) -> None:
        self.code, self.byteorder = code, "="

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.byteorder = state[1].replace("|", "=")


class _Bytes(metaclass=_Sealed):
    """Takes the place of ``bytes``, which protocol 2 writes as text to be encoded."""

    def __init__(self, text: str = "", *_: object) -> None:
        self.raw = text.encode("latin1")


class _Array(metaclass=_Sealed):
    """Takes the place of ``numpy.ndarray``: no state of unknown origin reaches NumPy's own code."""

    def __init__(self, *_: object) -> None:
        self.values = np.empty(0)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, _, raw = state
        if isinstance(raw, _Bytes):
            raw = raw.raw
        if not (
            isinstance(dtype, _DType)
            and re.fullmatch("[biuf][1248]", dtype.code)
            and dtype.byteorder in ("<", ">", "=")
            and isinstance(raw, (bytes, bytearray))
        ):
            raise pickle.UnpicklingError("an array in it holds no plain numbers")
        self.values = np.frombuffer(raw, dtype=dtype.byteorder + dtype.code).reshape(shape)


class _FlatArray(_Array):
    """Takes the place of the function by which protocol 5 makes an array of a buffer."""

    def __init__(self, raw: bytes, dtype: _DType, shape: tuple[int, ...], *_: object) -> None:
        self.__setstate__((1, shape, dtype, False, raw))


class _MatrixUnpickler(pickle.Unpickler):
    _KNOWN: ClassVar[dict[tuple[str, str], type]] = {
        **{
            (f"scipy.sparse.{mark}{kind}", f"{kind}_{form}"): matrix
            for kind, matrix in (("coo", _Matrix), ("csr", _CSRMatrix), ("csc", _CSCMatrix))
            for mark in ("", "_")  # of SciPy before 1.8, and since
            for form in ("matrix", "array")
        },
        ("numpy.core.multiarray", "_reconstruct"): _Array,
        ("numpy._core.multiarray", "_reconstruct"): _Array,
        ("numpy.core.numeric", "_frombuffer"): _FlatArray,
        ("numpy._core.numeric", "_frombuffer"): _FlatArray,
        ("numpy", "ndarray"): _Array,
        ("numpy", "dtype"): _DType,
        ("_codecs", "encode"): _Bytes,
        ("__builtin__", "bytes"): _Bytes,
    }

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._KNOWN:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return self._KNOWN[module, name]


def _check_size(content: bytes) -> None:
    """Refuses a pickle that takes more memory than it has bytes, before any of it is loaded.

    The number that it gives to an object, of four bytes, makes the unpickler keep room for as many objects.
    """
    for step, (opcode, argument, _) in enumerate(pickletools.genops(content)):
        if step >= _MAX_STEPS:
            raise pickle.UnpicklingError("it has more parts than a matrix")
        if opcode.name.endswith("PUT") and int(argument or 0) > _MAX_STEPS:
            raise pickle.UnpicklingError(f"it numbers an object {argument}")


def read_pickled_matrix(path: Path) -> tuple[np.ndarray, np.ndarray, tuple[int, int]]:
    """Rows and columns of the entries other than zero, and shape, of a pickled COO, CSR or CSC matrix of SciPy.

    Raises:
        DataError: if the file is anything else; nothing it asks for is executed.
    """
    if not is_file(path):
        raise DataError(f"There is no file {path}.")
    try:
        content = path.read_bytes()
        _check_size(content)
        matrix = _MatrixUnpickler(io.BytesIO(content)).load()
        if not isinstance(matrix, _Matrix):
            raise pickle.UnpicklingError("it holds no matrix")
        entry, (num_rows, num_cols) = vars(matrix)["data"].values, (int(n) for n in vars(matrix)["_shape"])
        row, col = matrix.places()
        for index, size in ((row, num_rows), (col, num_cols)):
            if index.ndim != 1 or index.dtype.kind != "i":
                raise pickle.UnpicklingError("its indices are no integers")
            if len(index) and not 0 <= index.min() <= index.max() < size:
                raise pickle.UnpicklingError("its indices lie outside of its shape")
        if not row.shape == col.shape == entry.shape:
            raise pickle.UnpicklingError("its lists of rows, columns and entries differ in length")
    except Exception as error:  # a damaged pickle raises nearly anything
        raise DataError(
            f"{path} is refused, it is not a plain pickled SciPy matrix ({first_line(error)}): if you trust where it "
            "comes from, load it and pickle scipy.sparse.coo_matrix(matrix)."
        ) from error
    stored = entry != 0  # a stored zero is no interaction
    return row[stored].astype(np.int64), col[stored].astype(np.int64), (num_rows, num_cols)
