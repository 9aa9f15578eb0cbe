"""Typed settings: each is a dataclass field with its meaning, default and bounds.

The command line makes its options from these fields (``num_layers`` is ``--num-layers``), and a configuration file uses
their names as keys. A configuration class stands beside what it configures.
"""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from types import UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints

import numpy as np

from lirdrec_pyg.errors import ConfigError


def field(default: Any, doc: str, *, min: float | None = None, max: float | None = None, min_open: bool = False) -> Any:
    """Declare a setting.

    Args:
        default: default value; an empty dictionary stands for a new one each time.
        doc: help text of the option.
        min: lower bound.
        max: upper bound.
        min_open: whether the lower bound itself is excluded.
    """
    metadata = {"doc": doc, "min": min, "max": max, "min_open": min_open}
    if isinstance(default, dict):
        return dataclasses.field(default_factory=dict, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


@dataclass(frozen=True)
class Config:
    """Base of all configuration classes; checks types, choices and bounds.

    Raises:
        ConfigError: naming the first field with an invalid value.
    """

    def __post_init__(self) -> None:
        hints = _type_hints(type(self))  # type: ignore[arg-type]  # mypy takes a class for an instance
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            object.__setattr__(self, field.name, value := _plain(value))
            check_choice(field.name, value, hints[field.name])
            _check_type(field.name, value, hints[field.name])
            _check_bounds(field.name, value, field.metadata)

    @classmethod
    def doc(cls, name: str) -> str:
        """Help text of the field ``name``."""
        return cls.__dataclass_fields__[name].metadata["doc"]


def _plain(value: Any) -> Any:
    """Return numbers of NumPy, which YAML cannot hold, as those of Python."""
    if isinstance(value, dict):
        return {name: _plain(entry) for name, entry in value.items()}
    return value.item() if isinstance(value, np.generic) else value


@cache
def _type_hints(config: type) -> dict[str, Any]:
    return get_type_hints(config)  # takes .1 milliseconds


def check_choice(name: str, value: object, literal: Any) -> None:
    """Raise :class:`ConfigError` if ``value`` is not one of a ``Literal`` type's values; any other type passes."""
    if get_origin(literal) is Literal and value not in get_args(literal):
        raise ConfigError(f"`{name}` is {value!r}. Choose one of {', '.join(map(str, get_args(literal)))}.")


def _check_type(name: str, value: Any, hint: Any) -> None:
    if get_origin(hint) is Literal:
        return
    kinds = tuple(get_origin(kind) or kind for kind in (get_args(hint) if get_origin(hint) is UnionType else (hint,)))
    if float in kinds:
        kinds += (int,)
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        raise ConfigError(f"`{name}` is {value!r}. It must be of type {' or '.join(k.__name__ for k in kinds)}.")


def _check_bounds(name: str, value: Any, metadata: Mapping[str, Any]) -> None:
    low, high = metadata["min"], metadata["max"]
    if value is None or isinstance(value, (str, dict)):
        return
    if isinstance(value, int) and abs(value) >= 2**63:
        raise ConfigError(f"`{name}` is an integer of more than 64 bits. Pass a smaller one.")
    if not math.isfinite(value):
        raise ConfigError(f"`{name}` is {value}. It must be finite.")
    if low is not None and (value <= low if metadata["min_open"] else value < low):
        raise ConfigError(
            f"`{name}` is {value}. It must be {'greater than' if metadata['min_open'] else 'at least'} {low}."
        )
    if high is not None and value > high:
        raise ConfigError(f"`{name}` is {value}. It must be at most {high}.")
