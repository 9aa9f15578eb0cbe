"""Encoding in blocks of rows, of which each batch is kept as soon as it is done: a program that is killed loses at
most one."""

import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl
import torch
from torch import Tensor

from lirdrec_pyg.data.files import whole_file
from lirdrec_pyg.data.tables import first_line, shown
from lirdrec_pyg.errors import DataError, LIRDRecError, RunError
from lirdrec_pyg.features.catalogue import Entries
from lirdrec_pyg.features.encoder import Encoder, UnusableEntries

# Few enough for bounded memory, many enough for texts of like lengths to go together.
BLOCK_ROWS = 512

_SETTINGS = "settings.json"
_MAX_LOADERS = 8


@dataclass(frozen=True)
class Source:
    """What one modality is made of.

    Attributes:
        modality: its name.
        entries: what the items have of it.
        encoder: what makes vectors of them.
    """

    modality: str
    entries: Entries
    encoder: Encoder

    def settings(self) -> dict[str, Any]:
        """All that decides the vectors, but for rounding."""
        return {"encoder": self.encoder.describe(), "catalogue": self.entries.facts}


class OtherWidth(RunError):
    """Vectors of another width than those that are there, as of a server that has changed its model."""


class Blocks:
    """The vectors of one modality in the making: a folder of Parquet files, each of some rows in their order.

    A file has the columns ``item_id``, ``features`` (a list of float32, null if the entry can't be used), ``sha256``
    (of the entry) and ``reason`` (why it can't be used). It is written beside its place, flushed, and then moved there.
    The block that is being made has a file for each batch instead, with ``row`` in place of ``item_id``.

    Args:
        path: folder, which need not be there.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def settings(self) -> dict[str, Any] | None:
        """What was being made here, ``None`` if nothing was begun."""
        try:
            return json.loads((self.path / _SETTINGS).read_text("utf-8"))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise RunError(f"{self.path / _SETTINGS} can't be read ({error}): begin anew with --overwrite.") from error

    def begin(
        self,
        settings: dict[str, Any],
        known: Iterable[pl.DataFrame] = (),
        of_known: Mapping[str, Any] | None = None,
    ) -> None:
        """Makes the folder anew, beside its place, so that ``known`` may come from what is there.

        Args:
            settings: what is made, and how.
            known: rows that are there from the beginning, with ``row`` (among all), ``features`` and ``sha256``. Their
                number becomes the entry ``taken_over`` of the settings.
            of_known: more entries of the settings if there are such rows.
        """
        new, old = Blocks(self._beside("new")), self._beside("old")
        shutil.rmtree(new.path, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)
        new.path.mkdir(parents=True)
        count = 0
        for rows in known:
            count += len(rows)
            row, block = pl.col("row") % BLOCK_ROWS, pl.col("row") // BLOCK_ROWS
            rows = rows.select(row, "features", "sha256", reason=pl.lit(None, pl.String), block=block)
            for (number, *_), batch in rows.group_by("block"):
                write_parquet(batch.drop("block"), new._batch(number, batch))
        if count:
            settings = {**settings, **(of_known or {}), "taken_over": count}
        # At last, since what has settings is gone on with.
        write_whole(new.path / _SETTINGS, lambda file: file.write_text(json.dumps(settings), "utf-8"))
        if self.path.exists():
            self.path.rename(old)
        new.path.rename(self.path)
        shutil.rmtree(old, ignore_errors=True)

    def clear(self) -> None:
        """Removes the folder and all in it."""
        for path in (self.path, self._beside("new"), self._beside("old")):
            shutil.rmtree(path, ignore_errors=True)

    def _beside(self, ending: str) -> Path:
        return self.path.with_name(f"{self.path.name}.{ending}")

    def encode(self, source: Source, on_rows: Callable[[int], None] = lambda count: None) -> None:
        """Makes the blocks that are not there yet, and of one that was begun the rows that it lacks.

        Args:
            source: whose settings these blocks were begun with.
            on_rows: called with the number of rows that are done anew.

        Raises:
            RunError: if a block can't be written, or the device has too little memory.
            OtherWidth: if the vectors have another width than those that are there; of these nothing is lost.
        """
        width = self.width()
        pool = ThreadPoolExecutor(min(_MAX_LOADERS, os.cpu_count() or 1))
        try:
            for number, part in enumerate(source.entries.frame.iter_slices(BLOCK_ROWS)):
                if (path := self._block(number)).exists():
                    continue
                batches = [*self._batches(number)]
                done = {row for batch in batches for row in batch["row"]}
                for batch in _encoded(source, part["entry"].to_list(), done, pool):
                    width = _checked_width(batch, width, source.modality)
                    write_whole(self._batch(number, batch), partial(write_parquet, batch), flush=False)
                    batches.append(batch)
                    on_rows(len(batch))
                block = part.select("item_id").with_row_index("row").cast({"row": pl.Int64})
                block = block.join(pl.concat(batches), on="row", how="left").sort("row").drop("row")
                write_whole(path, partial(write_parquet, block))
                for file in self._batch_files(number):
                    file.unlink()
        finally:
            pool.shutdown(cancel_futures=True)

    def width(self) -> int | None:
        """Length of the vectors that are there, ``None`` if there are none."""
        vectors = (rows["features"].drop_nulls() for rows in self.rows())
        return next((len(features[0]) for features in vectors if len(features)), None)

    def rows(self) -> Iterator[pl.DataFrame]:
        """``features`` and ``sha256`` of all rows that are there, a file at a time."""
        for file in (*self.files(), *sorted(self.path.glob("*.batch"))):
            with suppress(pl.exceptions.PolarsError):  # as in a batch that is not flushed
                yield pl.read_parquet(file, columns=["features", "sha256"], glob=False)

    def checksums(self) -> pl.DataFrame:
        """``item_id`` and ``sha256`` of the rows that have vectors, in their order."""
        blocks = pl.scan_parquet(self.files(), glob=False).filter(pl.col("features").is_not_null())
        return blocks.select("item_id", "sha256").collect()

    def num_done(self, total: int) -> int:
        """How many of ``total`` rows are in blocks that are there."""
        done = 0
        for number in range(-(-total // BLOCK_ROWS)):
            if self._block(number).exists():
                done += min(BLOCK_ROWS, total - number * BLOCK_ROWS)
            else:
                done += sum(map(len, self._batches(number)))
        return done

    def _block(self, number: int) -> Path:
        return self.path / f"{number:08}.parquet"

    def _batch(self, number: int, batch: pl.DataFrame) -> Path:
        return self.path / f"{number:08}-{int(batch['row'][0]):03}.batch"

    def _batch_files(self, number: int) -> list[Path]:
        return sorted(self.path.glob(f"{number:08}-*.batch"))

    def _batches(self, number: int) -> Iterator[pl.DataFrame]:
        """What is there of a block that was begun."""
        for file in self._batch_files(number):
            # They are not flushed, and the power may have been cut.
            with suppress(pl.exceptions.PolarsError):
                yield pl.read_parquet(file, glob=False)

    def files(self) -> list[Path]:
        """The blocks that are there, in the order of their rows."""
        return sorted(self.path.glob("*.parquet"))

    def vectors(self) -> Iterator[Tensor]:
        """The vectors of one block after the other."""
        for file in self.files():
            features = pl.read_parquet(file, columns=["features"], glob=False)["features"].drop_nulls()
            if len(features):
                yield torch.tensor(features.list.to_array(len(features[0])).to_numpy())

    def failures(self) -> pl.DataFrame:
        """``item_id`` and ``reason`` of the entries that can't be used."""
        return (
            pl.scan_parquet(self.files(), glob=False)
            .select("item_id", "reason")
            .filter(pl.col("reason").is_not_null())
            .collect()
        )

    def mapped(self, function: Callable[[Tensor], Tensor], path: Path) -> "Blocks":
        """The same blocks with ``function`` of their vectors, in another folder."""
        other = Blocks(path)
        other.clear()
        path.mkdir(parents=True)
        for file in self.files():
            frame = pl.read_parquet(file, glob=False)
            good = frame.filter(pl.col("reason").is_null())
            if len(good):
                x = torch.tensor(good["features"].list.to_array(len(good["features"][0])).to_numpy())
                good = good.with_columns(features=_lists(function(x)))
            write_parquet(good, path / file.name)
        return other

    def join(self, path: Path, width: int) -> None:
        """Writes all vectors to one file, holding only a part of them at a time.

        Args:
            path: Parquet file to make, with the columns ``item_id`` and ``features`` (an array of float32) and
                ``sha256`` (of what a vector was made of).
            width: length of a vector.
        """
        (
            pl.scan_parquet(self.files(), glob=False)
            .filter(pl.col("features").is_not_null())
            .select("item_id", pl.col("features").list.to_array(width), "sha256")
            # Numbers such as these can't be packed. Groups of a set size, so that equal vectors make equal files.
            .sink_parquet(path, compression="uncompressed", statistics=False, row_group_size=16 * BLOCK_ROWS)
        )


def _encoded(source: Source, entries: list[Any], done: set[int], pool: ThreadPoolExecutor) -> Iterator[pl.DataFrame]:
    """Batches of a block: ``row``, and ``features`` or the ``reason`` why there are none.

    Args:
        source: of the modality.
        entries: of the block.
        done: rows that are left out.
        pool: reads the entries.
    """
    encoder = source.encoder
    order = sorted(set(range(len(entries))) - done, key=lambda row: (encoder.length(entries[row]), row))
    batches = [order[start : start + encoder.batch_size] for start in range(0, len(order), encoder.batch_size)]

    def load(batch: Sequence[int]) -> dict[int, "Future[Any]"]:
        return {row: pool.submit(_loaded, source, entries[row]) for row in batch}

    following = load(batches[0]) if batches else {}
    for next_batch in [*batches[1:], []] if batches else []:
        # While one batch goes through the model, the next is read.
        loading, following = following, load(next_batch)
        yield _encoded_batch(source, loading)


def _loaded(source: Source, entry: Any) -> tuple[str | None, Any]:
    # In this order: if a file is replaced in between, its vector is not taken for one of the earlier file.
    return source.entries.checksum(entry), source.encoder.load(entry)


def _encoded_batch(source: Source, loading: "dict[int, Future[Any]]") -> pl.DataFrame:
    checksums, loaded, reasons = {}, {}, {}
    for row, future in loading.items():
        try:
            checksums[row], loaded[row] = future.result()
        except DataError as error:
            reasons[row] = str(error)
    features = pl.Series("features", [], dtype=pl.List(pl.Float32))
    if loaded:
        x, refused = _vectors(source, list(loaded.values()))
        usable = x.isfinite().all(dim=1) & x.any(dim=1)
        usable[list(refused)] = False
        for place, (row, good) in enumerate(zip(loaded, usable.tolist(), strict=True)):
            if not good:
                reasons[row] = refused.get(place, "the model makes of it no vector of finite numbers, or one of zeros")
        features = _lists(x[usable])
    rows = [row for row in loaded if row not in reasons]
    sha256 = pl.Series([checksums[row] for row in rows], dtype=pl.String)
    good = pl.DataFrame({"row": pl.Series(rows, dtype=pl.Int64), "features": features, "sha256": sha256})
    bad = pl.DataFrame({"row": list(reasons), "reason": list(reasons.values())}, schema_overrides=_REASONS)
    return pl.concat([good, bad], how="diagonal")


def _checked_width(batch: pl.DataFrame, width: int | None, modality: str) -> int | None:
    """``width``, or that of the vectors of ``batch`` if it is the first that has any."""
    for found in batch["features"].list.len().drop_nulls().unique().to_list():
        if found != (width := width or found):
            raise OtherWidth(
                f"The model of {modality} makes vectors of width {found}, where those that are there have {width}: it "
                "is another one now; make them anew with --overwrite."
            )
    return width


_REASONS = {"row": pl.Int64, "reason": pl.String}


def _lists(x: Tensor) -> pl.Series:
    return pl.Series("features", x.numpy(), dtype=pl.Array(pl.Float32, x.size(1))).cast(pl.List(pl.Float32))


def _vectors(source: Source, batch: Sequence[Any]) -> tuple[Tensor, Mapping[int, str]]:
    """A row for each entry, and for those that the encoder can't use the reason."""
    reasons: Mapping[int, str] = {}
    try:
        x = source.encoder.encode(batch)
    except UnusableEntries as error:
        x, reasons = error.vectors, error.reasons
    except torch.OutOfMemoryError as error:
        raise RunError(
            f"The device has too little memory for {len(batch)} entries of {source.modality} at once: go on with a "
            "smaller --batch-size."
        ) from error
    except LIRDRecError:
        raise
    except Exception as error:  # of a model of another kind
        raise RunError(
            f"The model of {source.modality} fails ({first_line(error)}): name one that is made for this."
        ) from error
    if x.shape[:1] != (len(batch),) or x.dim() != 2:
        raise RunError(f"The model of {source.modality} made {tuple(x.shape)} of {len(batch)} entries, not a row each.")
    return x, reasons


def write_parquet(frame: pl.DataFrame, path: Path) -> None:
    """Writes a frame of vectors, which can't be packed."""
    frame.write_parquet(path, compression="uncompressed", statistics=False)


def write_whole(path: Path, write: Callable[[Path], Any], flush: bool = True) -> None:
    """Writes a file beside its place, and moves it there once it is on the disk.

    Args:
        path: of the file.
        write: takes the path to write to.
        flush: whether the file has to outlive a power cut, and not only a kill.

    Raises:
        RunError: if it can't be written.
    """
    # Always by the same name, so that the next run overwrites what a kill leaves, which may be large.
    with whole_file(path, path.with_name(f".{path.name}.partial"), flush) as unfinished:
        write(unfinished)


def no_vectors(source: Source, failures: pl.DataFrame) -> DataError:
    """The error of a modality of which no entry can be used."""
    item, reason = failures.row(0)
    return DataError(
        f"None of the {len(failures)} entries of {source.modality} can be used; that of item {shown(item)}: {reason}."
    )
