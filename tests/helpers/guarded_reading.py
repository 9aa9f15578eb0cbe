"""Read files that may do anything, in a child process, so that neither a crash nor a hang stops the tests."""

import contextlib
import json
import os
import select
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_CHILD = Path(__file__).parent / "reading_child.py"
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
        self._child: subprocess.Popen[str] | None = None
        self._said = tempfile.TemporaryFile("w+")  # noqa: SIM115 - it lives as long as this does

    def read(self, reader: str, path: Path, timeout: float | None = None, **options: Any) -> Outcome:
        """Let the child read ``path``.

        Args:
            reader: name of a function of ``reading_child``.
            path: file or folder.
            timeout: replaces the usual one.
            options: options of the reader.
        """
        timeout = timeout or self.timeout
        child = self._child or self._start()
        job = {"reader": reader, "path": str(path), "options": options, "timeout": 0.9 * timeout}
        found = self._ask(child, job, timeout)
        if isinstance(found, dict):
            return Outcome(found["outcome"], found["text"], found["memory"], tuple(found["effects"]))
        self.close()
        self._said.seek(0)
        return Outcome(found, f"{self._said.read()[-3000:]} (exit code {child.returncode})")

    def _start(self) -> "subprocess.Popen[str]":
        self._said.seek(0)
        self._said.truncate()
        environment = {**os.environ, "POLARS_MAX_THREADS": "1", "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
        self._child = subprocess.Popen(
            [sys.executable, str(_CHILD)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            text=True,
            env=environment,
        )
        if self._ask(self._child, {"bound": self.memory}, _START_SECONDS) != {}:
            raise RuntimeError("The child process did not start.")
        return self._child

    def _ask(self, child: "subprocess.Popen[str]", job: dict[str, Any], timeout: float) -> dict[str, Any] | str:
        assert child.stdin is not None
        assert child.stdout is not None
        try:
            child.stdin.write(json.dumps(job) + "\n")
            child.stdin.flush()
        except BrokenPipeError:
            return "died"
        if not select.select([child.stdout], [], [], timeout)[0]:
            return "hung"
        line = child.stdout.readline()
        return json.loads(line) if line else "died"

    def close(self) -> None:
        """End the child."""
        if self._child is not None:
            self._child.kill()
            self._child.wait()
            for pipe in (self._child.stdin, self._child.stdout):
                assert pipe is not None
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()
            self._child = None
