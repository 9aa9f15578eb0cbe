import pytest

from lirdrec_pyg.launcher import is_first_process


def test_first_process_has_rank_0_or_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    assert is_first_process()
    for rank, first in {"0": True, "1": False, "gold": False}.items():
        monkeypatch.setenv("RANK", rank)
        assert is_first_process() is first
