"""The run that a service answers from, which another run can replace at any time."""

import hashlib
import logging
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from lirdrec_pyg.data import NewItems
from lirdrec_pyg.errors import LIRDRecError, RunError
from lirdrec_pyg.files import CHECKSUMS, format_checksums
from lirdrec_pyg.recommender import Recommender
from lirdrec_pyg.recommender.columns import title_column

_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Served:
    """A run in memory. A request is answered from one, from the beginning to the end.

    Attributes:
        recommender: the run, with the items that were added to it since.
        version: name of its folder and start of the checksum of all of its files.
        num_added: how many items were added.
        loaded_at: when it was loaded, in seconds since 1970.
    """

    recommender: Recommender
    version: str
    num_added: int = 0
    loaded_at: float = field(default_factory=time.time)

    @property
    def name(self) -> str:
        """Version of the run and number of added items, such as ``shop@1f0c5a9be2d3+2``."""
        return f"{self.version}+{self.num_added}" if self.num_added else self.version


class LiveRun:
    """A run that follows its path: a symbolic link that is pointed elsewhere, or a folder that is written again.

    Args:
        path: run folder, or a link to one.
        device: where to rank.

    Attributes:
        current: the run to answer the next request from. Threads may read it while it is replaced.

    Raises:
        RunError: if ``path`` is not a finished run, or is damaged.
    """

    def __init__(self, path: Path, device: str = "cpu") -> None:
        self._path, self._device = path, device
        self._added: list[NewItems] = []
        self._replacing = threading.Lock()
        self._state = self._found()
        self.current = self._load(self._state[0])

    def refresh(self) -> bool:
        """Load the run if it has changed, and return whether it was.

        Raises:
            RunError: if the new run cannot be loaded. The current one stays, until there is another change.
        """
        state = self._found()
        if state == self._state:
            return False
        self._state = state
        loaded = self._load(state[0])
        if self._found() != state:
            # Replaced meanwhile, so that its files may be of two runs.
            self._state = (Path(), ())
            return False
        with self._replacing:
            self._added = [more for new in self._added if (more := new.without(loaded.recommender.items))]
            try:
                for new in self._added:
                    loaded = _with_items(loaded, new)
            except LIRDRecError as error:  # of other modalities, for example
                _log.warning("Items that were added by requests do not fit %s: %s", loaded.version, error)
                self._added.clear()
            self.current = loaded
        return True

    def add(self, new: NewItems) -> Served:
        """Add items to the current run, and to those that will replace it without knowing them.

        Raises:
            DataError: if an ID is known already, or features do not fit.
            ConfigError: if the model does not support new items.
        """
        with self._replacing:
            self.current = _with_items(self.current, new)
            self._added.append(new)
            return self.current

    def _found(self) -> tuple[Path, tuple[int, ...]]:
        """Return where the path leads, and what changes with the list of checksums there, written last."""
        folder = self._path.resolve()
        with suppress(OSError):
            stat = (folder / CHECKSUMS).stat()
            return folder, (stat.st_ino, stat.st_mtime_ns)
        return folder, ()

    def _load(self, folder: Path) -> Served:
        recommender = Recommender.load(folder, self._device)
        if recommender.checksums is None:
            raise RunError(f"The training of {folder} is unfinished. Serve a finished run.")
        digest = hashlib.sha256(format_checksums(recommender.checksums).encode()).hexdigest()
        return Served(_warmed_up(recommender), f"{folder.name}@{digest[:12]}")


def _with_items(served: Served, new: NewItems) -> Served:
    grown = _warmed_up(served.recommender.add_items(new))
    return Served(grown, served.version, served.num_added + len(new.ids), served.loaded_at)


def _warmed_up(recommender: Recommender) -> Recommender:
    """Compute what the first request would otherwise wait for."""
    trained = int(recommender.has_history.argmax())
    recommender.recommend(recommender.users.ids[trained : trained + 1], k=1, columns=title_column(recommender))
    return recommender
