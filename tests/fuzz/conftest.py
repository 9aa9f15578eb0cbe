from collections.abc import Iterator

import pytest
from guarded_reading import GuardedReader

# MiB beyond what the child takes when it has started: what a reader may ask for, whatever a file claims.
MEMORY = 2048


@pytest.fixture(scope="session")
def reader() -> Iterator[GuardedReader]:
    """Reads files in a child process."""
    guarded = GuardedReader(MEMORY)
    yield guarded
    guarded.close()
