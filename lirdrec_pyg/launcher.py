"""The environment that ``torchrun`` and ``fabric run`` set for each process they start."""

import os


def num_processes() -> int:
    """Return the number of processes that train together, on all machines."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def process_index() -> int:
    """Return the index of this process among them."""
    return int(os.environ.get("RANK", "0"))


def is_first_process() -> bool:
    """Return whether this is the only process, or the one of several that prints and writes."""
    # As text: other programs may set a RANK of another kind.
    return os.environ.get("RANK", "0") == "0"
