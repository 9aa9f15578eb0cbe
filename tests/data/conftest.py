from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
from torch import Tensor

from lirdrec_pyg.data import features
from lirdrec_pyg.errors import DataError

Refuses = Callable[..., AbstractContextManager[None]]


@pytest.fixture(scope="session")
def refuses() -> Refuses:
    """Return a context manager: ``with refuses("a", "b"):`` expects a DataError of one line with ``a`` and ``b``."""

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
    """Creates the file ``path`` when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return open, (str(self.path), "w")


@pytest.fixture
def payload(tmp_path: Path) -> Iterator[Payload]:
    """Return a malicious object; fail the test if it was run."""
    marker = tmp_path / "payload-was-run"
    yield Payload(marker)
    assert not marker.exists()


@pytest.fixture
def scans(monkeypatch: pytest.MonkeyPatch) -> Counter[int]:
    """Count how often each matrix is read in blocks, by its width."""
    count: Counter[int] = Counter()
    original = features.row_blocks

    def counted(x: Tensor) -> Iterator[tuple[int, Tensor]]:
        count[x.size(1)] += 1
        return original(x)

    monkeypatch.setattr(features, "row_blocks", counted)
    return count
