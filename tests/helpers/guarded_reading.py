"""Reading files that may do anything: in a child, so that neither a crash nor a hang takes the tests along."""

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
    """What came of reading a file.

    Attributes:
        kind: ``read``, ``refused`` (by a LIRDRecError), ``fault`` (any other error), ``died`` or ``hung``.
        text: of the error, or what the child wrote last.
        memory: MiB that became resident beyond what was before.
        deeds: programs that were started, files that were written, connections.
    """

    kind: str
    text: str
    memory: int = 0
    deeds: tuple[str, ...] = ()


class GuardedReader:
    """Reads files in a child process that is started anew whenever it ended.

    Args:
        memory: MiB that the child can ask for beyond what it takes when it has started, mapped files among
            them. More is refused by the kernel.
        timeout: seconds after which a reader counts as hung.
    """

    def __init__(self, memory: int, timeout: float = 10.0) -> None:
        self.memory, self.timeout = memory, timeout
        self._child: subprocess.Popen[str] | None = None
        self._said = tempfile.TemporaryFile("w+")  # noqa: SIM115 - it lives as long as this does

    def read(self, reader: str, path: Path, timeout: float | None = None, **options: Any) -> Outcome:
        """Has the child read ``path``.

        Args:
            reader: name of a function of ``reading_child``.
            path: what it reads.
            timeout: in place of the usual one.
            options: of the reader.
        """
        timeout = timeout or self.timeout
        child = self._child or self._start()
        job = {"reader": reader, "path": str(path), "options": options, "timeout": 0.9 * timeout}
        found = self._ask(child, job, timeout)
        if isinstance(found, dict):
            return Outcome(found["outcome"], found["text"], found["memory"], tuple(found["deeds"]))
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
            raise RuntimeError("The child that reads files didn't start.")
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
        """Ends the child."""
        if self._child is not None:
            self._child.kill()
            self._child.wait()
            for pipe in (self._child.stdin, self._child.stdout):
                assert pipe is not None
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()
            self._child = None
