"""Files that were made to harm: programs, bombs, paths that lead elsewhere, unexpected types.

Bound: beyond the size of the file, a reader needs at most 1 GiB for features and 2.5 GiB for tables, and
these only for files that decompress to real data; all of the files here need far less, and the child that reads
them may not allocate more than ``conftest.MEMORY``.

Known limits: polars decodes Parquet, and its native code ends the process if an allocation fails. The number of rows
that a file claims is checked against its size before it is read, but neither the lengths of its lists nor the claims
of its pages are: a run of definition levels whose length was hit by a flipped bit ("memory allocation of
2305843009213693952 bytes failed", polars 2.1, in decode_hybrid_rle_into_bitmap) ends the process with SIGABRT. It
occurred once in some 20,000 mutations of Parquet. Only a decoder of its own would notice, so test_mutated_files
accepts this end of the child, and no other. A named pipe as a list of IDs is waited for, as it may be a shell's
``<(...)``.
"""

import gzip
import io
import json
import os
import pickle
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from forms import FLAT, NAMES, NUM_ITEMS, X, mmrec, run_folder
from guarded_reading import GuardedReader, Outcome
from safetensors.torch import save_file

pytestmark = pytest.mark.fuzz

BLOCK = bytes(2**20)
TENSOR = torch.from_numpy(X)

# MiB, far below what the files claim, and above what it takes to refuse them.
SMALL = 200


def assert_sound(found: Outcome, label: object) -> None:
    """The file was read, or refused with one short message, and nothing else was done."""
    assert found.kind in ("read", "refused"), f"{label}: {found.kind}: {found.text}"
    assert not found.effects, label
    assert found.text.isprintable() or not found.text, label
    assert len(found.text) <= 1200, label


def assert_refused(reader: GuardedReader, name: str, path: Path, memory: int = SMALL, **options: Any) -> str:
    found = reader.read(name, path, **options)
    assert_sound(found, path)
    assert found.kind == "refused", path
    assert found.memory <= memory, path
    return found.text


def npy(shape: tuple[int, ...], descr: str = "<f4") -> bytes:
    """Return the header of an .npy file, which may claim anything."""
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(head, {"descr": descr, "fortran_order": False, "shape": shape})
    return head.getvalue()


def write(path: Path, *parts: bytes) -> Path:
    path.write_bytes(b"".join(parts))
    return path


def archive(path: Path, members: dict[str, Iterable[bytes]], packing: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", packing, compresslevel=1) as file:
        for name, parts in members.items():
            with file.open(name, "w", force_zip64=True) as member:
                for part in parts:
                    member.write(part)
    return path


def gz(path: Path, head: bytes, part: bytes, count: int) -> Path:
    # A gzip file may have many members, and the same one is compressed only once.
    return write(path, gzip.compress(head, 1), gzip.compress(part, 1) * count)


def claiming_npz(path: Path) -> Path:
    """Write an archive whose directory claims that its member decompresses to 1.1 GiB."""
    member = npy((1100 * 2**18, 1)) + BLOCK
    archive(path, {"x.npy": [member]})
    content = path.read_bytes()
    start = content.rindex(b"PK\x01\x02")
    size = struct.pack("<I", len(member))
    assert content.count(size, start) == 1
    return write(path, content[:start], content[start:].replace(size, struct.pack("<I", 1100 * 2**20)))


def pt(path: Path, content: Any, **options: Any) -> Path:
    torch.save(content, path, **options)
    return path


def packed_pt(path: Path) -> Path:
    pt(path, TENSOR)
    with zipfile.ZipFile(path) as file:
        members = {name: [file.read(name)] for name in file.namelist()}
    program = next(name for name in members if name.endswith("data.pkl"))
    return archive(path, {**members, program: [b"\x80\x02", *[b"N0" * 2**19] * 20]})


def claiming_pt(path: Path) -> Path:
    """Write the old format, whose storages hold their own sizes."""
    pt(path, torch.ones(4), _use_new_zipfile_serialization=False)
    content = path.read_bytes()
    size = struct.pack("<q", 4) + struct.pack("<4f", 1, 1, 1, 1)
    assert content.endswith(size)
    return write(path, content[: -len(size)], struct.pack("<q", 2**36), size[8:])


def safetensors(path: Path, shape: list[int], size: int, head: int | None = None) -> Path:
    text = json.dumps({"x": {"dtype": "F32", "shape": shape, "data_offsets": [0, size]}}).encode()
    return write(path, struct.pack("<Q", len(text) if head is None else head), text, bytes(64))


def constant_parquet(path: Path) -> Path:
    """Write millions of rows of one value, which take no space."""
    pl.DataFrame({"item": pl.repeat(1, 3 * 10**6, eager=True, dtype=pl.Int8)}).with_columns(
        *(pl.lit(True).alias(f"c{n}") for n in range(60))
    ).write_parquet(path, compression="zstd")
    return path


STORED = zipfile.ZIP_STORED

BOMBS: dict[str, tuple[str, Callable[[Path], Path]]] = {
    "npy of 10^12 rows": ("features", lambda d: write(d / "x.npy", npy((10**12, 4)), bytes(64))),
    "npy of 2^64 rows": ("features", lambda d: write(d / "x.npy", npy((2**64, 4)), bytes(64))),
    "npy of negative rows": ("features", lambda d: write(d / "x.npy", npy((-4, 4)), bytes(64))),
    "npy of 2^62 empty rows": ("features", lambda d: write(d / "x.npy", npy((2**62, 0)), bytes(64))),
    "npz of 1.1 GiB": ("features", lambda d: claiming_npz(d / "x.npz")),
    "npz of 10^12 rows": ("features", lambda d: archive(d / "x.npz", {"x.npy": [npy((10**12, 1)), BLOCK]})),
    "npz of 10^8 rows": ("features", lambda d: archive(d / "x.npz", {"x.npy": [npy((10**8, 4)), BLOCK]})),
    "npz of 10^9 empty IDs": (
        "features",
        lambda d: archive(
            d / "x.npz", {"features.npy": [npy((6, 3)), bytes(72)], "ids.npy": [npy((10**9,), "<U0")]}, STORED
        ),
    ),
    "pt that was compressed": ("features", lambda d: packed_pt(d / "x.pt")),
    "pt of a huge storage": ("features", lambda d: claiming_pt(d / "x.pt")),
    "pt that requests a long name": (
        "features",
        lambda d: archive(
            d / "x.pt", {"x/data.pkl": [b"\x80\x02c" + b"x" * 10**6 + b"\ny\n."], "x/version": [b"3"]}, STORED
        ),
    ),
    "old pt that requests a long name": (
        "features",
        lambda d: write(d / "x.pt", b"\x80\x02c" + b"x" * 10**6 + b"\ny\n."),
    ),
    "pt of one number 10^12 times": ("features", lambda d: pt(d / "x.pt", torch.ones(1).expand(10**6, 10**6))),
    "pt of one integer 10^12 times": (
        "features",
        lambda d: pt(d / "x.pt", torch.ones(1, dtype=torch.long).expand(10**6, 10**6)),
    ),
    "pt of one ID 10^9 times": (
        "features",
        lambda d: pt(d / "x.pt", {"features": TENSOR, "ids": torch.ones(1, dtype=torch.long).expand(10**9)}),
    ),
    "safetensors of 40 GB": ("features", lambda d: safetensors(d / "x.safetensors", [10**6, 10**4], 4 * 10**10)),
    "safetensors of an overflow": ("features", lambda d: safetensors(d / "x.safetensors", [2**62, 8], 64)),
    "safetensors of a huge head": ("features", lambda d: safetensors(d / "x.safetensors", [4, 4], 64, head=2**40)),
    "gz of lines": ("table", lambda d: gz(d / "x.csv.gz", b"user,item\n", b"1,2\n" * 2**18, 512)),
    "gz of one cell": ("table", lambda d: gz(d / "x.csv.gz", b"user,item\n1,", b"2" * 2**20, 512)),
    "zlib": ("table", lambda d: write(d / "x.csv", zlib.compress(b"user,item\n" + b"1,2\n" * 2**15))),
    "a million columns": ("table", lambda d: write(d / "x.tsv", b"\t" * 10**6)),
    "a header without end": ("table", lambda d: write(d / "x.csv", b"user" * 2**19)),
    "pickle of many objects": ("coo", lambda d: write(d / "x.pkl", b"\x80\x02Nr\xff\xff\xff\x7f.")),
    "pickle of many objects in text": ("coo", lambda d: write(d / "x.pkl", b"Np999999999\n.")),
    "pickle of a long array": ("coo", lambda d: write(d / "x.pkl", b"\x80\x05\x96" + struct.pack("<Q", 2**31) + b".")),
    "pickle of long bytes": ("coo", lambda d: write(d / "x.pkl", b"\x80\x05\x8e" + struct.pack("<Q", 2**31) + b".")),
    "pickle that copies": (
        "coo",
        lambda d: write(
            d / "x.pkl",
            *(b"\x80\x02c_codecs\nencode\nq\x00X", struct.pack("<I", 10**5), b"a" * 10**5, b"\x85q\x01"),
            *(b"h\x00h\x01R" * 20_000, b"."),
        ),
    ),
    "pickle of nested lists": ("coo", lambda d: write(d / "x.pkl", b"\x80\x02" + b"]" * 10**6 + b"a" * 10**6)),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_refused_within_the_bound(name: str, reader: GuardedReader, tmp_path: Path) -> None:
    kind, make = BOMBS[name]
    path = make(tmp_path)
    assert path.name in assert_refused(reader, kind, path)


def test_a_bomb_of_features_in_parquet_is_refused(reader: GuardedReader, tmp_path: Path) -> None:
    assert "decompresses" in assert_refused(reader, "features", constant_parquet(tmp_path / "x.parquet"))


class Payload:
    """Runs a program that creates a file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.marker}",)


PROGRAMS: dict[str, tuple[str, str, Callable[[Path, Payload], Any]]] = {
    "pickle": ("coo", "trnMat.pkl", lambda p, evil: p.write_bytes(pickle.dumps(evil))),
    "pickle, protocol 0": ("coo", "trnMat.pkl", lambda p, evil: p.write_bytes(pickle.dumps(evil, 0))),
    "pt": ("features", "x.pt", lambda p, evil: torch.save({"features": TENSOR, "ids": evil}, p)),
    "old pt": ("features", "x.pt", lambda p, evil: torch.save([evil], p, _use_new_zipfile_serialization=False)),
    "bare pickle as pt": ("features", "x.pt", lambda p, evil: p.write_bytes(pickle.dumps(evil))),
    "npy of objects": ("features", "x.npy", lambda p, evil: np.save(p, np.array([[evil]]), allow_pickle=True)),
    "bare pickle as npy": ("features", "x.npy", lambda p, evil: p.write_bytes(pickle.dumps(evil))),
    "npz of objects": ("features", "x.npz", lambda p, evil: np.savez(p, features=np.array([[evil]]))),
    "npz with object IDs": ("features", "x.npz", lambda p, evil: np.savez(p, features=X, ids=np.array([evil] * 6))),
    "pickle as safetensors": ("features", "x.safetensors", lambda p, evil: p.write_bytes(pickle.dumps(evil))),
    "pickle as parquet": ("features", "x.parquet", lambda p, evil: p.write_bytes(pickle.dumps(evil))),
    "pickle as a graph": ("graph", "graph.safetensors", lambda p, evil: p.write_bytes(pickle.dumps(evil))),
    "pickle as a checkpoint": ("checkpoint", "c.safetensors", lambda p, evil: torch.save(evil, p)),
    "YAML": (
        "config",
        "c.yaml",
        lambda p, evil: p.write_text(f"epochs: !!python/object/apply:os.system ['touch {evil.marker}']"),
    ),
    "YAML, new object": (
        "config",
        "c.yaml",
        lambda p, evil: p.write_text(
            f"!!python/object/new:type\nargs: [z, !!python/tuple [], {{extend: !!python/name:os.system }}]\n"
            f"listitems: 'touch {evil.marker}'"
        ),
    ),
}


def test_no_program_is_run(reader: GuardedReader, tmp_path: Path) -> None:
    for kind, file, make in PROGRAMS.values():
        marker, path = tmp_path / "was-run", tmp_path / file
        make(path, Payload(marker))
        assert file in assert_refused(reader, kind, path)
        assert not marker.exists()


def test_no_program_is_run_by_the_settings_of_a_run(reader: GuardedReader, tmp_path: Path) -> None:
    run_folder(tmp_path)
    marker = tmp_path / "was-run"
    (tmp_path / "run" / "config.yaml").write_text(f"!!python/object/apply:os.system ['touch {marker}']")
    assert "config.yaml" in assert_refused(reader, "run", tmp_path / "run")
    assert not marker.exists()


def test_a_payload_that_is_run_is_noticed(reader: GuardedReader, tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Payload(tmp_path / "was-run")))
    assert (tmp_path / "was-run").exists()
    (tmp_path / "x").write_bytes(b"")
    assert reader.read("careless", tmp_path / "x").effects


def test_paths_inside_of_an_archive_are_not_followed(reader: GuardedReader, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    matrix = io.BytesIO()
    np.save(matrix, X)
    for inside in ("../evil", "/tmp/evil-of-lirdrec", "a/../../evil", "features.npy/../../evil"):
        archive(folder / "x.npz", {"features.npy": [matrix.getvalue()], f"{inside}.npy": [matrix.getvalue()]})
        assert_refused(reader, "features", folder / "x.npz")
        archive(folder / "x.pt", {f"{inside}/data.pkl": [b"\x80\x02N."], f"{inside}/version": [b"3"]}, STORED)
        assert_refused(reader, "features", folder / "x.pt")
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["data", "x.npz", "x.pt"]
    assert not Path("/tmp/evil-of-lirdrec.npy").exists()


LINKS: dict[str, Callable[[Path], Any]] = {
    "to itself": lambda p: p.symlink_to(p),
    "to nowhere": lambda p: p.symlink_to(p.parent / "gone"),
    "to a folder": lambda p: p.symlink_to(p.parent),
    "a pipe": os.mkfifo,
    "a folder": lambda p: p.mkdir(),
}


@pytest.mark.parametrize("kind", LINKS)
def test_what_is_not_a_file_is_refused(kind: str, reader: GuardedReader, tmp_path: Path) -> None:
    for name in ("x.npy", "x.npz", "x.pt", "x.safetensors", "x.parquet", "x.csv", "trnMat.pkl"):
        path = tmp_path / name
        LINKS[kind](path)
        assert name in assert_refused(reader, {"x.csv": "table", "trnMat.pkl": "coo"}.get(name, "features"), path)


def test_names_that_no_file_can_have_are_refused(reader: GuardedReader) -> None:
    for kind in ("data", "table", "features", "coo", "ids", "vocabulary", "graph", "checkpoint"):
        # The last three read what a folder holds, which has no names with a null character.
        null = [] if kind in ("vocabulary", "graph", "checkpoint") else ["a\0b"]
        for name in ("a" * 300, "a/" * 3000, *null):
            assert_refused(reader, kind, Path(name))


def test_links_to_good_files_are_followed(reader: GuardedReader, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    mmrec(tmp_path / "real")
    (tmp_path / "linked").mkdir()
    for path in (tmp_path / "real").iterdir():
        (tmp_path / "linked" / path.name).symlink_to(path)
    assert reader.read("data", tmp_path / "linked").kind == "read"


def test_a_device_without_end_is_refused(reader: GuardedReader) -> None:
    assert "/dev/zero" in assert_refused(reader, "ids", Path("/dev/zero"), memory=600, timeout=30)


COLUMNS: dict[str, Any] = {
    "null": pl.Series([None] * 6),
    "bool": pl.Series([True] * 6),
    "int128": pl.Series([2**100] * 6, dtype=pl.Int128),
    "uint64": pl.Series([2**64 - 1] * 6, dtype=pl.UInt64),
    "float16 overflow": pl.Series([1e300, -1e300, 1e-300, 0.0, 1.0, 2.0]),
    "NaN": pl.Series([float("nan"), float("inf"), -float("inf"), 0.0, 1.0, 2.0]),
    "decimal": pl.Series(["1.5"] * 6).cast(pl.Decimal(38, 10)),
    "date": pl.Series([1] * 6).cast(pl.Date),
    "time": pl.Series([1] * 6).cast(pl.Time),
    "datetime": pl.Series([2**62] * 6).cast(pl.Datetime("ns", "UTC")),
    "duration": pl.Series([-(2**62)] * 6).cast(pl.Duration("ms")),
    "binary": pl.Series([b"\xff\x00"] * 6),
    "text": pl.Series(["\x1b[31m\u2028\u202e" * 999, "", "a", "b", "c", "\ud7ff"]),
    "categories": pl.Series(list("abcdef"), dtype=pl.Categorical),
    "enumeration": pl.Series(list("abcdef"), dtype=pl.Enum(list("abcdef"))),
    "lists": pl.Series([[1.0, 2.0]] * 6),
    "empty lists": pl.Series([[]] * 6, dtype=pl.List(pl.Float32)),
    "ragged lists": pl.Series([[1.0], [], [2.0, 3.0], [1.0], [1.0], [1.0]]),
    "lists with nothing": pl.Series([[None, 1.0]] * 6),
    "lists of lists": pl.Series([[[1.0]]] * 6),
    "lists of structs": pl.Series([[{"a": 1}]] * 6),
    "lists of decimals": pl.Series([["1.5"]] * 6).cast(pl.List(pl.Decimal(10, 2))),
    "lists of int128": pl.Series([[2**100]] * 6, dtype=pl.List(pl.Int128)),
    "arrays": pl.Series(X.tolist(), dtype=pl.Array(pl.Float32, 3)),
    "arrays of arrays": pl.Series([[[1.0]]] * 6, dtype=pl.Array(pl.Array(pl.Float32, 1), 1)),
    "empty arrays": pl.Series([[]] * 6, dtype=pl.Array(pl.Float32, 0)),
    "structs": pl.Series([{f"field {n}": n for n in range(400)}] * 6),
    "empty structs": pl.Series([{}] * 6, dtype=pl.Struct([])),
}


@pytest.mark.parametrize("name", COLUMNS)
def test_columns_of_any_type_are_read_or_refused(name: str, reader: GuardedReader, tmp_path: Path) -> None:
    column, names = COLUMNS[name], pl.Series(NAMES)
    frames = {
        "features": [{"item": names, "x": column}, {"item": column, "x": FLAT["c0"]}, {"x": column, "y": column}],
        "new_items": [{"item": names, "x": column, **FLAT}, {"item": column, **FLAT}],
        "vocabulary": [{"id": column}],
        "table": [
            *({"user": names, "item": names, role: column} for role in ("split", "time")),
            *({"user": column, "item": names}, {"user": names, "item": column}),
        ],
    }
    for kind, tables in frames.items():
        for table in tables:
            path = tmp_path / "x.parquet"
            try:
                pl.DataFrame(table).write_parquet(path)
            except (pl.exceptions.PolarsError, pl.exceptions.PanicException):
                continue  # a type that Parquet does not have
            assert_sound(reader.read(kind, path), (kind, list(table)))


MATRICES: dict[str, Any] = {
    **{dtype: np.ones((NUM_ITEMS, 3), dtype) for dtype in ("?", "u1", ">f8", "f2", "g", "c16", "S3", "U3", "V4")},
    **{dtype: np.ones((NUM_ITEMS, 3)).astype("i8").astype(dtype) for dtype in ("M8[D]", "m8[ns]")},
    "records": np.zeros((NUM_ITEMS, 3), [("a", "f4"), ("b", "O")]),
    "no axis": np.float32(1),
    "many axes": np.ones((1,) * 32, np.float32),
    "no rows": np.ones((0, 3), np.float32),
    "no columns": np.ones((3, 0), np.float32),
    "NaN": np.full((NUM_ITEMS, 3), np.nan),
    "infinity": np.full((NUM_ITEMS, 3), -np.inf),
    "overflow": np.full((NUM_ITEMS, 3), 1e300),
    "huge integers": np.full((NUM_ITEMS, 3), 2**64 - 1, np.uint64),
    "objects": np.array([[1, "a", None]] * NUM_ITEMS, dtype=object),
}


@pytest.mark.parametrize("name", MATRICES)
def test_arrays_of_any_type_are_read_or_refused(name: str, reader: GuardedReader, tmp_path: Path) -> None:
    array = MATRICES[name]
    (tmp_path / "own").mkdir()
    mmrec(tmp_path / "own")
    np.save(tmp_path / "own" / "image_feat.npy", array)
    np.savez(tmp_path / "x.npz", features=array, ids=np.array(NAMES))
    np.savez(tmp_path / "ids.npz", features=X, ids=array)
    for kind, path in (
        *(("data", tmp_path / "own"), ("features", tmp_path / "own" / "image_feat.npy")),
        *(("features", tmp_path / "x.npz"), ("features", tmp_path / "ids.npz")),
    ):
        found = reader.read(kind, path)
        assert_sound(found, path)
        if name in ("NaN", "infinity", "overflow") and kind == "data":
            assert found.kind == "refused"


TENSORS: dict[str, Callable[[], Any]] = {
    "sparse": lambda: TENSOR.to_sparse(),
    "CSR": lambda: TENSOR.to_sparse_csr(),
    "meta": lambda: TENSOR.to("meta"),
    "complex": lambda: TENSOR + 1j,
    "bool": lambda: TENSOR > 0,
    "float8": lambda: TENSOR.to(torch.float8_e5m2),
    "a view": lambda: torch.ones(3).expand(6, 3),
    "transposed": lambda: TENSOR.T.contiguous().T,
    "a slice": lambda: TENSOR[::2, 1:],
    "no axis": lambda: torch.tensor(1.0),
    "a list": lambda: [1, 2],
    "a dictionary": lambda: {"a": {"b": 1}},
    "nothing": lambda: None,
    "a text": lambda: "x" * 10**6,
    "nested": lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]),
}


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("name", TENSORS)
def test_tensors_of_any_kind_are_read_or_refused(name: str, reader: GuardedReader, tmp_path: Path) -> None:
    value = TENSORS[name]()
    contents = [value, {"features": value}, {"features": TENSOR, "ids": value}, {"features": value, "ids": NAMES}]
    for content in contents:
        assert_sound(reader.read("features", pt(tmp_path / "x.pt", content)), f"{content!r:.100}")


GRAPHS: dict[str, dict[str, str]] = {
    "numbers as text": {"num_nodes": '{"user": "9", "item": 6}'},
    "negative numbers": {"num_nodes": '{"user": -9, "item": -6}'},
    "infinite numbers": {"num_nodes": '{"user": Infinity, "item": NaN}'},
    "a boolean as a number": {"num_nodes": '{"user": true, "item": true}'},
    "a list of numbers": {"num_nodes": "[9, 6]"},
    "nested too deep": {"num_nodes": "[" * 100_000},
    "a number of 5000 digits": {"num_nodes": '{"user": ' + "9" * 5000 + "}"},
    "no order": {"order": "{}"},
    "an order of numbers": {"order": "[1, 2]"},
    "no colon": {"order": '["x"]'},
    "no such tensor": {"order": '["item:gone"]'},
    "strange types": {"order": '["a/b/c/d/e:x"]'},
    "two parts": {"order": '["a/b:x"]'},
    "no parts": {"order": '[":x"]'},
    "no key": {"order": '["item:"]'},
    "a name of Python": {"order": '["item:__class__"]'},
    "a part of PyG": {"order": '["item:_mapping"]'},
    "a method": {"order": '["item:keys"]'},
    "a tensor as a number": {"order": '["item:num_nodes", "user:num_nodes"]'},
}


def test_strange_graphs_are_refused(reader: GuardedReader, tmp_path: Path) -> None:
    valid = {"format": "lirdrec-pyg graph 1", "num_nodes": '{"user": 9, "item": 6}', "order": '["item:x_image"]'}
    for name, changes in GRAPHS.items():
        metadata = {**valid, **changes}
        names = ["item:x_image"]
        if metadata["order"].startswith("[") and name != "no such tensor":
            names += [n for n in json.loads(metadata["order"]) if isinstance(n, str)]
        path = tmp_path / f"{name}.safetensors"
        save_file({n: TENSOR.clone() for n in names}, path, metadata)
        assert_refused(reader, "graph", path)
