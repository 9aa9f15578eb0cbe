"""Tables as JSON."""

import json
from collections.abc import Mapping
from functools import cache
from typing import Any

import polars as pl

from lirdrec_pyg.errors import ConfigError


def as_json(content: Mapping[str, Any]) -> bytes:
    """Return ``content``, whose values may be tables, as JSON.

    Raises:
        ConfigError: if a column of a table has no form in JSON.
    """
    parts = (
        f'"{name}":{_frame_json(x) if isinstance(x, pl.DataFrame) else json.dumps(x)}' for name, x in content.items()
    )
    return f"{{{','.join(parts)}}}".encode()


def _frame_json(frame: pl.DataFrame) -> str:
    for name, dtype in zip(frame.columns, frame.dtypes):
        if not has_json(dtype):
            raise ConfigError(f"`columns` has {name!r}, whose type {dtype} has no form in JSON.")
    return frame.write_json()


@cache
def has_json(dtype: pl.DataType) -> bool:
    """Return whether values of a type can be written as JSON."""
    return "Binary" not in str(dtype) and "Object" not in str(dtype)
