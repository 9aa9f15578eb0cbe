from collections.abc import Iterator

import pytest
from guarded_reading import GuardedReader

# MiB that a reader may allocate, whatever a file claims.
MEMORY = 2048


@pytest.fixture(scope="session")
def reader() -> Iterator[GuardedReader]:
    """Read files in a child process."""
    guarded = GuardedReader(MEMORY)
    yield guarded
    guarded.close()
