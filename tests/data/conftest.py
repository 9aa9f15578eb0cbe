from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from lirdrec_pyg.errors import DataError

Refuses = Callable[..., AbstractContextManager[None]]


@pytest.fixture(scope="session")
def refuses() -> Refuses:
    """``with refuses("a", "b"):`` expects a DataError of one sentence that names ``a`` and ``b``."""

    @contextmanager
    def check(*named: object) -> Iterator[None]:
        with pytest.raises(DataError) as caught:
            yield
        text = str(caught.value)
        assert text.endswith(".")
        assert "\n" not in text
        for name in named:
            assert str(name) in text

    return check


class Payload:
    """Creates the file ``path`` when a careless unpickler loads it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return open, (str(self.path), "w")


@pytest.fixture
def payload(tmp_path: Path) -> Iterator[Payload]:
    """A malicious object; fails the test if it was run."""
    marker = tmp_path / "payload-was-run"
    yield Payload(marker)
    assert not marker.exists()
