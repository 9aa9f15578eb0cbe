import ssl
from collections.abc import Iterator
from functools import cache

import pytest
from openai_server import OpenAIServer, openai_server

_context = cache(ssl.create_default_context)


@pytest.fixture(autouse=True)
def _fast_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read the certificates once."""
    monkeypatch.setattr(ssl, "create_default_context", _context)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[OpenAIServer]:
    """A running server, with short pauses between retries."""
    monkeypatch.setattr("openai._base_client.INITIAL_RETRY_DELAY", 0.01)
    monkeypatch.setattr("openai._base_client.MAX_RETRY_DELAY", 0.02)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    with openai_server() as running:
        yield running
