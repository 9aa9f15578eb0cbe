"""TikTok's published raw form: pickled sparse matrices of SciPy.

A pickle is a program, and loading it may run anything. It is parsed here instead: each object that it would create
becomes an inert record of a name, arguments and state. Whatever is not part of a COO, CSR or CSC matrix is refused.
"""

import pickletools
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from lirdrec_pyg.data.splits import TEST, TRAIN, VAL
from lirdrec_pyg.data.tables import is_file
from lirdrec_pyg.errors import DataError, first_line

MATRIX_FILES = {"trnMat.pkl": TRAIN, "valMat.pkl": VAL, "tstMat.pkl": TEST}

# A pickled matrix takes 126 to 194 instructions, depending on the protocol.
_MAX_INSTRUCTIONS = 1000

# Names in old and new SciPy and NumPy, and of bytes in protocol 2.
_NAMES = re.compile(
    r"scipy\.sparse\._?(coo|csr|csc)\.\1_(?:matrix|array)|numpy\.(?:ndarray|dtype)|_codecs\.encode|__builtin__\.bytes|"
    r"numpy\._?core\.(?:multiarray\._reconstruct|numeric\._frombuffer)"
)
# Constants are pushed as None: nothing depends on them.
_VALUES = re.compile("(SHORT_)?BIN(BYTES|UNICODE|INT)[128]?|BYTEARRAY8|LONG1|NONE|NEWTRUE|NEWFALSE")
_LENGTHS = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


@dataclass(eq=False)
class _Object:
    name: str
    args: tuple[Any, ...]
    state: Any = None


def is_tiktok_raw(folder: Path) -> bool:
    """Return whether ``folder`` holds TikTok's raw form."""
    return is_file(folder / "trnMat.pkl")


def read_tiktok_raw(folder: Path) -> pl.DataFrame:
    """Read the interactions: ``user``, ``item`` and ``label``.

    Raises:
        DataError: if a file is missing, damaged, or not a pickled sparse matrix.
    """
    frames, shapes = [], set()
    for name, label in MATRIX_FILES.items():
        user, item, shape = read_pickled_matrix(folder / name)
        shapes.add(shape)
        frames.append(pl.DataFrame({"user": user, "item": item}).with_columns(label=pl.lit(label, pl.Int8)))
    if len(shapes) > 1:
        raise DataError(f"The matrices in {folder} differ in shape: {sorted(shapes)}.")
    return pl.concat(frames)


def read_pickled_matrix(path: Path) -> tuple[np.ndarray, np.ndarray, tuple[int, int]]:
    """Return row and column of each nonzero entry, and the shape, of a pickled COO, CSR or CSC matrix.

    Raises:
        DataError: if the file holds anything else.
    """
    if not is_file(path):
        raise DataError(f"{path} does not exist.")
    try:
        row, col, entry, shape = _matrix(_parse(path.read_bytes()))
        for index, size in ((row, shape[0]), (col, shape[1])):
            if index.dtype.kind != "i" or not index.shape == entry.shape == (len(entry),):
                raise ValueError("its indices do not match its entries")
            if len(index) and not 0 <= index.min() <= index.max() < size:
                raise ValueError("its indices are outside of its shape")
    except Exception as error:  # a damaged pickle raises nearly anything
        raise DataError(
            f"{path} is not a plain pickled SciPy matrix ({first_line(error)}). If you trust its origin, load it and "
            "pickle scipy.sparse.coo_matrix(matrix)."
        ) from error
    stored = entry != 0  # a stored zero is not an interaction
    return row[stored].astype(np.int64), col[stored].astype(np.int64), shape


def _parse(content: bytes) -> Any:
    """Follow the instructions of a pickle without importing or calling anything."""
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[int, Any] = {}
    argument: Any
    for step, (opcode, argument, _) in enumerate(pickletools.genops(content)):
        if step >= _MAX_INSTRUCTIONS:
            raise ValueError("it has more parts than a matrix")
        match opcode.name:
            case "PROTO" | "FRAME" | "STOP":
                pass
            case "MARK":
                marks.append(len(stack))
            case "BINPUT" | "LONG_BINPUT" | "MEMOIZE":
                memo[len(memo) if argument is None else argument] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(memo[argument])
            case "GLOBAL" | "STACK_GLOBAL" as name:
                full_name = ".".join(argument.split(" ") if name == "GLOBAL" else [stack.pop(-2), stack.pop()])
                if not _NAMES.fullmatch(full_name):
                    raise ValueError(f"it requests {full_name}")
                stack.append(full_name)
            case "REDUCE" | "NEWOBJ":
                stack[-2:] = [_Object(*stack[-2:])]
            case "BUILD":
                state = stack.pop()
                stack[-1].state = state
            case "EMPTY_TUPLE" | "TUPLE1" | "TUPLE2" | "TUPLE3" | "TUPLE" as name:
                start = marks.pop() if name == "TUPLE" else len(stack) - _LENGTHS[name]
                stack[start:] = [tuple(stack[start:])]
            case "EMPTY_DICT":
                stack.append({})
            case "SETITEMS":
                start = marks.pop()
                # Only text as keys: the hash of nested tuples may take forever.
                stack[start - 1].update(zip(map(str.__str__, stack[start::2]), stack[start + 1 :: 2]))
                del stack[start:]
            case name if _VALUES.fullmatch(name):
                stack.append(argument)
            case name:
                raise ValueError(f"it has the instruction {name}")
    return stack.pop()


def _matrix(matrix: _Object) -> tuple[np.ndarray, np.ndarray, np.ndarray, tuple[int, int]]:
    """Return row, column and value of each entry, and the shape."""
    found, state = _NAMES.fullmatch(matrix.name), matrix.state
    if found is None or found[1] is None:
        raise ValueError("it is not a matrix")
    num_rows, num_cols = map(int, state["_shape"])
    entry, shape = _array(state["data"]), (num_rows, num_cols)
    if found[1] == "coo":
        row, col = map(_array, state["coords"] if "coords" in state else (state["row"], state["col"]))
        return row, col, entry, shape
    start, index, size = _array(state["indptr"]), _array(state["indices"]), shape[found[1] == "csc"]
    # The bounds come first: differences of other numbers might overflow, and NumPy write beyond its memory.
    if (
        start.dtype.kind != "i"
        or (len(start), start[0], start[-1]) != (size + 1, 0, len(index))
        or not 0 <= start.min() <= start.max() <= len(index)
        or (count := np.diff(start)).min(initial=0) < 0
    ):
        raise ValueError("its pointers do not match its shape and indices")
    group = np.repeat(np.arange(size), count)
    return (group, index, entry, shape) if found[1] == "csr" else (index, group, entry, shape)


def _array(value: _Object) -> np.ndarray:
    if value.name.endswith("_frombuffer"):  # protocol 5
        raw, dtype, array_shape, *_ = value.args
    else:
        _, array_shape, dtype, _, raw = value.state
    if isinstance(raw, _Object):  # protocol 2 writes bytes as text to be encoded
        raw = "".join(raw.args[:1]).encode("latin1")
    code, byteorder = dtype.args[0], dtype.state[1].replace("|", "=")
    if not re.fullmatch("[biuf][1248]", code) or byteorder not in ("<", ">", "="):
        raise ValueError("an array in it does not hold plain numbers")
    return np.frombuffer(raw, dtype=byteorder + code).reshape(array_shape)
