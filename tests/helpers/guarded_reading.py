"""Read files that may do anything, in a child process, so that neither a crash nor a hang stops the tests."""

import json
import tempfile
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from commands import CONTEXT, started
from reading_child import serve

_START_SECONDS = 120.0


@dataclass(frozen=True)
class Outcome:
    """The outcome of reading a file.

    Attributes:
        kind: ``read``, ``refused`` (with a LIRDRecError), ``fault`` (any other error), ``died`` or ``hung``.
        text: message of the error, or the last output of the child.
        memory: additional resident MiB.
        effects: started programs, written files and connections.
    """

    kind: str
    text: str
    memory: int = 0
    effects: tuple[str, ...] = ()


class GuardedReader:
    """Reads files in a child process, which is restarted when it ends.

    Args:
        memory: MiB that the child may allocate or map after its start. The kernel refuses more.
        timeout: seconds after which a reader counts as hung.
    """

    def __init__(self, memory: int, timeout: float = 10.0) -> None:
        self.memory, self.timeout = memory, timeout
        self._child: tuple[Any, Connection] | None = None
        self._said = tempfile.NamedTemporaryFile("w+")  # noqa: SIM115 - it lives as long as this does

    def read(self, reader: str, path: Path, timeout: float | None = None, **options: Any) -> Outcome:
        """Let the child read ``path``.

        Args:
            reader: name of a function of ``reading_child``.
            path: file or folder.
            timeout: replaces the usual one.
            options: options of the reader.
        """
        timeout = timeout or self.timeout
        process, connection = self._child or self._start()
        job = {"reader": reader, "path": str(path), "options": options, "timeout": 0.9 * timeout}
        found = self._ask(connection, job, timeout)
        if isinstance(found, dict):
            return Outcome(found["outcome"], found["text"], found["memory"], tuple(found["effects"]))
        self.close()
        self._said.seek(0)
        return Outcome(found, f"{self._said.read()[-3000:]} (exit code {process.exitcode})")

    def _start(self) -> tuple[Any, Connection]:
        self._said.truncate(0)
        connection, other = CONTEXT.Pipe()
        self._child = started(serve, other, self._said.name), connection
        other.close()
        if self._ask(connection, {"bound": self.memory}, _START_SECONDS) != {}:
            raise RuntimeError("The child process did not start.")
        return self._child

    def _ask(self, connection: Connection, job: dict[str, Any], timeout: float) -> dict[str, Any] | str:
        try:
            connection.send_bytes(json.dumps(job).encode())
            return json.loads(connection.recv_bytes()) if connection.poll(timeout) else "hung"
        except (EOFError, ConnectionError):
            return "died"

    def close(self) -> None:
        """End the child."""
        if self._child is not None:
            process, connection = self._child
            process.kill()
            process.join()
            connection.close()
            self._child = None
