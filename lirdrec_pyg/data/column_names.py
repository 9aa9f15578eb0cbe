"""The usual names of columns."""

import re
from collections.abc import Iterable
from pathlib import Path

from lirdrec_pyg.errors import DataError

# Lowercase names of columns that are recognized, most common first.
USUAL_NAMES = {
    "user": ("user_id", "userid", "user", "uid", "reviewerid"),
    "item": ("item_id", "itemid", "item", "iid", "parent_asin", "asin"),
    "label": ("x_label", "split"),
    "time": ("timestamp", "time", "date", "datetime", "unixreviewtime"),
}
# RecBole's atomic files append the type to the name.
_TYPE = re.compile(":(token|float)$")
_NUMBER = re.compile(r"-?[\d.]+$")
# Polars and pandas number columns of one name, and a comment mark may stand before the first name.
_BESIDE_NAME = re.compile(r"^[#%]\s*|(_duplicated_|\.)\d+$")


def usual_columns(role: str, columns: Iterable[str]) -> list[str]:
    """Return the columns with the most common of the usual names for ``role``, ignoring case and types."""
    found: dict[str, list[str]] = {}
    for name in columns:
        found.setdefault(_TYPE.sub("", _BESIDE_NAME.sub("", name.strip().lower())), []).append(name)
    return next((found[name] for name in USUAL_NAMES[role] if name in found), [])


def find_column(role: str, columns: Iterable[str]) -> str | None:
    """Return the column with the most common of the usual names for ``role``.

    Raises:
        DataError: if two columns have that name.
    """
    names = usual_columns(role, columns)
    if len(names) > 1:
        raise DataError(f"Columns {names[0]!r} and {names[1]!r} have one name. Rename the one without the {role}s.")
    return names[0] if names else None


def check_names(names: Iterable[str], path: Path) -> None:
    """Raise :class:`DataError` if two columns have one name, apart from types.

    Missing names and numbers, which are data, may occur twice.
    """
    seen: set[str] = set()
    for name in (_TYPE.sub("", name.strip()) for name in names):
        if name in seen:
            raise DataError(f"Two columns of {path} have the name {name!r}. Rename one.")
        if name and not _NUMBER.match(name):
            seen.add(name)
