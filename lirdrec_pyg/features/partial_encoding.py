import json
import os
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from lirdrec_pyg.errors import DataError, LIRDRecError, RunError, first_line
from lirdrec_pyg.features.catalog import Entries
from lirdrec_pyg.features.encoder import Encoder
from lirdrec_pyg.files import save_tensors, whole_file

# Texts of similar length are batched together within so many entries.
BLOCK_ROWS = 512

_SETTINGS, _SUFFIX = "settings.json", ".safetensors"
_MAX_LOADERS = 8

# Vector of an entry, or the reason why it has none.
Outcome: TypeAlias = np.ndarray | str


@dataclass(frozen=True)
class Source:
    """Entries of one modality, and their encoder."""

    modality: str
    entries: Entries
    encoder: Encoder


class PartialEncoding:
    """Folder with the outcomes of encoded entries: one file per batch, so that a killed program loses at most one.

    Entries are identified by their checksums.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def settings(self) -> dict[str, Any]:
        """Return the settings of the saved outcomes; empty if there are none."""
        try:
            settings: dict[str, Any] = json.loads((self.path / _SETTINGS).read_text("utf-8"))
        except (FileNotFoundError, ValueError):
            return {}
        return settings if any(self.path.glob(f"*{_SUFFIX}")) or "result" in settings else {}

    def add_settings(self, settings: Mapping[str, Any]) -> None:
        """Write settings, creating the folder if necessary."""
        self.path.mkdir(parents=True, exist_ok=True)
        with whole_file(self.path / _SETTINGS) as unfinished:
            unfinished.write_text(json.dumps({**self.settings(), **settings}), "utf-8")

    def clear(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self.path, ignore_errors=True)

    def append(self, outcomes: Mapping[str, Outcome]) -> None:
        """Save the outcomes of a batch by checksum."""
        vectors = {key: outcome for key, outcome in outcomes.items() if not isinstance(outcome, str)}
        texts = {"keys": [*vectors], "reasons": {key: reason for key, reason in outcomes.items() if key not in vectors}}
        x = torch.from_numpy(np.stack([*vectors.values()])) if vectors else torch.empty(0, 0)
        # Not flushed, since a batch that a power cut damages is encoded again.
        with whole_file(self.path / f"{time.time_ns()}{_SUFFIX}", flush=False) as unfinished:
            save_tensors({"vectors": x}, unfinished, {name: json.dumps(value) for name, value in texts.items()})

    def outcomes(self) -> dict[str, Outcome]:
        """Return all saved outcomes by checksum, without those of damaged files."""
        found: dict[str, Outcome] = {}
        for path in self.path.glob(f"*{_SUFFIX}"):
            with suppress(SafetensorError), safe_open(path, framework="np") as file:
                texts = file.metadata()
                found.update(zip(json.loads(texts["keys"]), file.get_tensor("vectors"), strict=True))
                found.update(json.loads(texts["reasons"]))
        return found


def encode_entries(
    source: Source, entries: Mapping[str, str], known: Mapping[str, Outcome]
) -> Iterator[dict[str, Outcome]]:
    """Yield the outcomes of ``entries`` by checksum, batch by batch; raise :class:`RunError` if the model fails.

    Entries that are ``known`` are skipped in batches that are formed with them, so that a resumed call returns the same
    vectors.
    """
    encoder, keys = source.encoder, [*entries]
    batches = []
    for start in range(0, len(keys), BLOCK_ROWS):
        block = keys[start : start + BLOCK_ROWS]
        if not source.entries.are_files:
            block.sort(key=lambda key: len(entries[key]))
        for first in range(0, len(block), encoder.batch_size):
            batches.append([key for key in block[first : first + encoder.batch_size] if key not in known])
    pool = ThreadPoolExecutor(min(_MAX_LOADERS, os.cpu_count() or 1))
    following: dict[str, Future[Any]] = {}
    try:
        for batch in (*filter(None, batches), ()):
            # Load a batch while the model processes the one before.
            loading, following = following, {key: pool.submit(encoder.load, entries[key]) for key in batch}
            if loading:
                yield _encode_batch(source, loading)
    finally:
        pool.shutdown(cancel_futures=True)


def _encode_batch(source: Source, loading: "Mapping[str, Future[Any]]") -> dict[str, Outcome]:
    outcomes: dict[str, Outcome] = {}
    loaded = {}
    for key, future in loading.items():
        try:
            loaded[key] = future.result()
        except DataError as error:
            outcomes[key] = str(error)
    if loaded:
        for key, x in zip(loaded, _run_encoder(source, [*loaded.values()]), strict=True):
            if isinstance(x, str):
                outcomes[key] = x
            elif x.isfinite().all() and x.any():
                outcomes[key] = x.numpy()
            else:
                outcomes[key] = "the model returns a vector of zeros, or one with NaN or infinity"
    return outcomes


def _run_encoder(source: Source, batch: Sequence[Any]) -> Iterable[Tensor | str]:
    try:
        x = source.encoder.encode(batch)
    except torch.OutOfMemoryError as error:
        raise RunError(
            f"The device has too little memory for {len(batch)} entries of {source.modality}. Resume with a smaller "
            "`batch_size`."
        ) from error
    except LIRDRecError:
        raise
    except Exception as error:  # a model of another kind may raise anything
        raise RunError(
            f"The model of {source.modality} fails ({first_line(error)}). Pass a model that is made for this modality."
        ) from error
    if isinstance(x, Tensor) and (x.shape[:1] != (len(batch),) or x.dim() != 2):
        raise RunError(
            f"The model of {source.modality} returned the shape {tuple(x.shape)} for {len(batch)} entries. Pass one "
            "that returns a vector per entry."
        )
    return x
