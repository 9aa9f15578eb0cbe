import pytest

from lirdrec_pyg.environment import is_first_process


@pytest.mark.parametrize(("rank", "first"), [(None, True), ("0", True), ("1", False), ("gold", False)])
def test_the_first_process_is_of_rank_0_or_the_only_one(
    rank: str | None, first: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RANK", raising=False)
    if rank is not None:
        monkeypatch.setenv("RANK", rank)
    assert is_first_process() is first
