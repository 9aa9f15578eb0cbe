"""Errors a user can mend. The text of each is one sentence that names the culprit and the way out."""

import re

# Entries of files find their way into messages: whatever would break the line, steer a terminal or can't be printed.
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\xad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ud800-\udfff]")
_HEAD, _TAIL = 600, 400


def _in_one_line(message: str) -> str:
    # The way out stands at the end.
    short = message if len(message) <= _HEAD + _TAIL else f"{message[:_HEAD]} ... {message[-_TAIL:]}"
    return _UNPRINTABLE.sub(lambda found: ascii(found[0])[1:-1], short)


class LIRDRecError(Exception):
    """Base of all errors this package raises on purpose.

    Args:
        message: the sentence; the middle of a very long one is left out.

    Attributes:
        exit_code: with which the command line ends: 2 if the input is at fault.
    """

    exit_code = 2

    def __init__(self, message: str) -> None:
        super().__init__(_in_one_line(message))


class DataError(LIRDRecError, ValueError):
    """A file, a table, a feature matrix or a graph that can't be used as it is."""


class ConfigError(LIRDRecError, ValueError):
    """An option or a configuration file that can't be used as it is."""


class RunError(LIRDRecError, ValueError):
    """A run folder that is missing, incomplete or of another format."""
