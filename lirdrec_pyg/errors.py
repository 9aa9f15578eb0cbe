"""Errors that a user can fix, and how values look in their messages.

A message names a Python parameter in backticks, alone or with a value: `` `out` ``, `` `split='cold-items'` ``. The
command line shows these as options: ``--out``, ``--split cold-items``.
"""

import re
from collections.abc import Iterable
from importlib.util import find_spec

# Entries of files get into messages and tables.
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\xad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ud800-\udfff]")
_HEAD, _TAIL = 600, 400


class LIRDRecError(Exception):
    """Base of all errors that this package raises on purpose.

    Args:
        message: one or two sentences with the problem, the culprit and the fix; the middle of a very long one is left
            out.

    Attributes:
        exit_code: exit code of the command line; 2 if the input is at fault.
        is_for_each_process: whether each of several processes prints it, not only the first one.
    """

    exit_code = 2
    is_for_each_process = False

    def __init__(self, message: str) -> None:
        if len(message) > _HEAD + _TAIL:  # the fix stands at the end
            message = f"{message[:_HEAD]} ... {message[-_TAIL:]}"
        super().__init__(escaped(message))


class DataError(LIRDRecError, ValueError):
    """Invalid file, table, feature matrix or graph."""


class ConfigError(LIRDRecError, ValueError):
    """Invalid parameter, option or configuration file."""


class RunError(LIRDRecError, ValueError):
    """Missing, incomplete or damaged run folder, or a file that cannot be written."""


def check_extra(extra: str, *modules: str, purpose: str) -> None:
    """Raise :class:`ConfigError` unless the packages of an extra are installed."""
    if not all(map(find_spec, modules)):
        raise ConfigError(f"{purpose} needs the extra {extra!r}: pip install 'lirdrec-pyg[{extra}]'.")


def escaped(text: str) -> str:
    """Escape what would break a line, control a terminal or cannot be printed."""
    return _UNPRINTABLE.sub(lambda found: ascii(found[0])[1:-1], text)


def first_line(error: BaseException) -> str:
    """Return the message of ``error`` without the context that libraries print below it."""
    return shortened(str(error).strip().split("\n", 1)[0]) or type(error).__name__


def shortened(text: str, length: int = 200) -> str:
    """Cut ``text`` after ``length`` characters: an entry of a file may be of any length."""
    return text if len(text) <= length else f"{text[:length]}..."


def shown(value: object) -> str:
    """Format an entry of a file for a message."""
    return shortened(repr(value), 80)


def listed(names: Iterable[str]) -> str:
    """Format the first of ``names`` for a message."""
    names = list(names)
    return ", ".join(map(shown, names[:10])) + (f", ... ({len(names)} in total)" if len(names) > 10 else "")
