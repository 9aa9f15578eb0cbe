"""What ``torchrun`` and ``fabric run`` tell each of the processes that they start."""

import os


def num_processes() -> int:
    """How many work together, on all machines."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_first_process() -> bool:
    """Whether this process is the only one, or the one of several that speaks and writes."""
    # As a text: other programs may have a RANK of another kind.
    return os.environ.get("RANK", "0") == "0"
