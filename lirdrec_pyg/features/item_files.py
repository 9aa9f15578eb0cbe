"""Files that a catalog names, perhaps by their paths on another computer."""

import os
import re
import unicodedata
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from posixpath import normpath
from urllib.parse import unquote

import polars as pl

from lirdrec_pyg.errors import DataError, shown


def locate_files(items: pl.DataFrame, root: Path, source: str) -> pl.Series:
    r"""Return the place of each item's file, which is always below ``root``.

    A path that does not exist there may be one of another computer, such as ``C:\shop\images\7.jpg`` or
    ``file:///shop/images/7.jpg``. Its file is that of the longest trailing part that exists below ``root``, such as
    ``images/7.jpg``, regardless of case, Unicode normalization and percent-encoding. A file to which parts of several
    paths lead is not used.

    Args:
        items: columns ``item_id`` and ``entry``, a path.
        root: folder that the paths are relative to.
        source: origin of the paths, for messages.

    Raises:
        DataError: if none of the files exists, or a path leads out of ``root``.
    """
    top = os.path.join(os.path.abspath(root), "")
    direct = {path: os.path.normpath(os.path.join(top, path)) for path in items["entry"].unique(maintain_order=True)}
    files = {path: place for path, place in direct.items() if place.startswith(top) and os.path.isfile(place)}
    others = {path: _names(path) for path in direct if path not in files}
    moved = _moved_files(top, others, files.values())
    outside = [path for path in others if "://" in path or not direct[path].startswith(top)]
    if outside and not any(path in moved for path in outside):
        path, is_url = outside[0], "://" in outside[0] and not outside[0].startswith("file:")
        item = items["item_id"].filter(items["entry"] == path)[0]
        fix = "Download the files into `root`" if is_url else "Pass the folder that contains the files as `root`"
        raise DataError(
            f"The path {_shown(path)} of item {shown(item)} in {source} leads out of {top}, and no trailing part of it "
            f"exists there. {fix}."
        )
    if not files and not moved:
        raise DataError(
            f"None of the files in {source} exists in {top}, such as {_shown(next(iter(others)))}, and no trailing "
            "part of a path leads to a file of its own. Pass the folder that contains the files as `root`."
        )
    if moved:
        path, file = next(iter(moved.items()))
        warnings.warn(
            f"{len(moved):,} of {len(direct):,} paths in {source} do not exist in {top}, such as {_shown(path)}. The "
            f"files at their trailing parts are used, such as {file.removeprefix(top)}.",
            stacklevel=2,
        )
    # The place of a missing file is below the root, too.
    missing = {path: os.path.join(top, *names) for path, names in others.items()}
    return items["entry"].replace_strict({**missing, **moved, **files})


def _names(path: str) -> tuple[str, ...]:
    """Return the names in a path of any system or a URL, without those that lead upwards."""
    path = re.split("[?#]", path)[0] if "://" in path else path
    return tuple(name for name in normpath(path.replace("\\", "/")).split("/") if name not in ("", ".", ".."))


def _moved_files(top: str, paths: Mapping[str, tuple[str, ...]], used: Iterable[str]) -> dict[str, str]:
    """Return the files of paths by their longest trailing parts, without files to which several paths lead."""

    @cache
    def listing(folder: str) -> tuple[set[str], dict[str, str]]:
        """Return the names in a folder, and those whose folded form is unique, by that form."""
        try:
            names = os.listdir(folder)
        except OSError:
            names = []
        counts = Counter(map(_folded, names))
        return set(names), {_folded(name): name for name in names if counts[_folded(name)] == 1}

    def below(names: tuple[str, ...]) -> str | None:
        place = top
        for name in names:
            exact, folded = listing(place)
            found = name if name in exact else folded.get(_folded(name))
            if found is None:
                return None
            place = os.path.join(place, found)
        return place if os.path.isfile(place) else None

    found: dict[tuple[str, ...], tuple[str, int]] = {}
    for names in dict.fromkeys(paths.values()):
        files = ((below(names[start:]), start) for start in range(len(names)))
        if first := next(((file, start) for file, start in files if file), None):
            found[names] = first
    claims = Counter([*used, *(file for file, _ in found.values())])
    is_sure = {names: start == 0 or claims[file] == 1 for names, (file, start) in found.items()}
    return {path: found[names][0] for path, names in paths.items() if is_sure.get(names)}


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", unquote(name)).casefold()


def _shown(path: str) -> str:
    return shown(path).replace("\\\\", "\\")
