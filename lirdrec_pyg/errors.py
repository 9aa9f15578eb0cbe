"""Errors a user can mend. The text of each is one sentence that names the culprit and the way out."""


class LIRDRecError(Exception):
    """Base of all errors this package raises on purpose.

    Attributes:
        exit_code: with which the command line ends: 2 if the input is at fault.
    """

    exit_code = 2


class DataError(LIRDRecError, ValueError):
    """A file, a table, a feature matrix or a graph that can't be used as it is."""


class ConfigError(LIRDRecError, ValueError):
    """An option or a configuration file that can't be used as it is."""


class RunError(LIRDRecError, ValueError):
    """A run folder that is missing, incomplete or of another format."""
