"""Reads files in a process of its own whose memory, time and side effects are watched; see ``guarded_reading``.

Receives messages of JSON, ``{"reader": ..., "path": ..., "options": {...}}``, and answers each with one.
"""

import contextlib
import faulthandler
import json
import os
import resource
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import click

from lirdrec_pyg.cli import main
from lirdrec_pyg.data import (
    Dataset,
    FeatureTable,
    Vocabulary,
    check_graph,
    load_graph,
    read_features,
    read_ids,
    read_interactions,
    read_new_items,
)
from lirdrec_pyg.data.dataset import DataConfig
from lirdrec_pyg.data.features import row_blocks
from lirdrec_pyg.data.pickled_matrices import read_pickled_matrix
from lirdrec_pyg.errors import LIRDRecError
from lirdrec_pyg.recommender.run import Run
from lirdrec_pyg.training import Checkpoint

# Audit events of programs, connections and changed files, none of which a reader may cause.
SIDE_EFFECTS = {
    "os.system",
    "os.exec",
    "os.fork",
    "os.posix_spawn",
    "os.spawn",
    "pty.spawn",
    "subprocess.Popen",
    "os.remove",
}
SIDE_EFFECTS |= {
    "os.rename",
    "os.mkdir",
    "os.symlink",
    "os.chmod",
    "socket.connect",
    "shutil.unpack_archive",
    "os.putenv",
}

recorded: list[str] | None = None


def audit(event: str, arguments: tuple[Any, ...]) -> None:
    """Record programs, connections and written files."""
    if recorded is None:
        return
    writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
    if writes or event in SIDE_EFFECTS:
        recorded.append(f"{event}{arguments!r:.200}")


def table(path: Path, **options: Any) -> None:
    frame = read_interactions(path, DataConfig(data=str(path), **options))
    assert {"user", "item"} <= set(frame.columns)
    assert not frame["user"].null_count() + frame["item"].null_count()


def data(path: Path, **options: Any) -> None:
    found = Dataset.from_path(path, **options)
    check_graph(found.graph)
    assert found.graph["user"].num_nodes == len(found.users)
    assert found.graph["item"].num_nodes == len(found.items)


def features(path: Path) -> None:
    found = read_features(path)
    assert isinstance(found, FeatureTable)
    assert found.values.dim() == 2
    assert found.values.is_floating_point()
    assert found.ids is None or len(found.ids) == len(found) == found.ids.n_unique()
    for _, rows in row_blocks(found.values):  # a mapped file is only read here
        rows.sum()


def new_items(path: Path, modality: str = "image", width: int = 3, **options: Any) -> None:
    found = read_new_items({modality: path}, {modality: width}, **options)
    assert found.features[modality].shape == (len(found.ids), width)


def ids(path: Path) -> None:
    assert not read_ids(path, "ids").null_count()


def coo(path: Path) -> None:
    row, column, (num_rows, num_columns) = read_pickled_matrix(path)
    assert len(row) == len(column)
    assert not len(row) or (0 <= row.min() <= row.max() < num_rows and 0 <= column.min() <= column.max() < num_columns)


def vocabulary(path: Path) -> None:
    found = Vocabulary.load(path, "user")
    assert found.positions(found.ids).tolist() == list(range(len(found)))


def graph(path: Path) -> None:
    check_graph(load_graph(path))


def run(path: Path) -> None:
    found = Run.open(path)
    found.metrics(), found.settings(), found.data_config(), found.training_config(), found.model_config()
    own = found.dataset().graph
    check_graph(own)
    found.vectors(), found.regression(), found.model(own)


def verify(path: Path) -> None:
    Run.open(path).verify()


def checkpoint(path: Path) -> None:
    Checkpoint.load(path)


def careless(path: Path) -> None:
    """Do what no reader may do, to see that it is noticed."""
    os.system("true")
    path.write_text("")


def config(path: Path) -> None:
    # Options are parsed, and nothing is trained.
    command = main.get_command(click.Context(main), "fit")
    with contextlib.suppress(click.UsageError):  # names the option
        command.make_context("fit", ["--data", "synthetic", "--config", str(path)])


_READERS = (table, data, features, new_items, ids, coo, vocabulary, graph, run, verify, checkpoint, config, careless)
READERS: dict[str, Callable[..., None]] = {reader.__name__: reader for reader in _READERS}


def memory(name: str) -> int:
    """Return a size of this process in MiB, such as VmSize, VmRSS or VmHWM, the peak of the resident size."""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(f"{name}:")]
    return int(line.split()[1]) // 1024


@contextlib.contextmanager
def watched(timeout: float) -> Iterator[list[str]]:
    global recorded
    faulthandler.dump_traceback_later(timeout, exit=False)
    recorded = effects = []
    try:
        yield effects
    finally:
        recorded = None
        faulthandler.cancel_dump_traceback_later()


def answer(job: dict[str, Any]) -> dict[str, Any]:
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # VmHWM counts from here
    before = memory("VmRSS")
    result = {"outcome": "read", "text": ""}
    with watched(job["timeout"]) as effects:
        try:
            READERS[job["reader"]](Path(job["path"]), **job["options"])
        except LIRDRecError as error:
            result = {"outcome": "refused", "text": str(error)}
        except BaseException:
            result = {"outcome": "fault", "text": traceback.format_exc()}
    return {**result, "memory": memory("VmHWM") - before, "effects": effects}


def serve(connection: Connection, output: str) -> None:
    """Answer until the end, with all that is printed in the file ``output``."""
    descriptor = os.open(output, os.O_WRONLY)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.environ["POLARS_MAX_THREADS"] = "1"
    sys.dont_write_bytecode = True
    warnings.simplefilter("ignore")
    sys.addaudithook(audit)
    while True:
        job = json.loads(connection.recv_bytes())
        if bound := job.get("bound"):
            size = (memory("VmSize") + bound) * 2**20
            resource.setrlimit(resource.RLIMIT_AS, (size, resource.RLIM_INFINITY))
            result: dict[str, Any] = {}
        else:
            result = answer(job)
        connection.send_bytes(json.dumps(result).encode())
