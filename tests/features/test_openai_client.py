import logging
from typing import Any

import pytest
from openai_server import Fault, OpenAIServer, embedding_of, error, openai_server

from lirdrec_pyg.errors import ConfigError
from lirdrec_pyg.features.openai_client import OpenAIClient, RequestError, ServerError

KEY = "sk-proj-0123456789abcdef"


def ask(client: OpenAIClient, text: str = "hello") -> list[float]:
    def read(answer: dict[str, Any]) -> list[float]:
        (row,) = answer["data"]
        return row["embedding"]

    return client.post("embeddings", {"model": "tiny-vision", "input": [text]}, read)


def test_a_response_is_read(server: OpenAIServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", server.url)
    assert ask(OpenAIClient()) == pytest.approx(embedding_of("hello"))
    (seen,) = server.seen
    assert (seen.path, seen.authorization) == ("/v1/embeddings", "Bearer none")


def test_urls(monkeypatch: pytest.MonkeyPatch) -> None:
    for given, expected in {
        "http://localhost:8000": "http://localhost:8000/v1",
        "http://localhost:8000/": "http://localhost:8000/v1",
        "https://api.example.com/v1/": "https://api.example.com/v1",
        "https://example.com/openai/v3": "https://example.com/openai/v3",
        "http://[::1]:8080/v1": "http://[::1]:8080/v1",
    }.items():
        assert OpenAIClient(given).url == expected
    for url in ("localhost:8000", "ftp://host/v1", "http://", "http://host:port", "no address", "//"):
        with pytest.raises(ConfigError, match="http://host:port/v1"):
            OpenAIClient(url)
    # A key in a URL is not shown.
    for url in (f"http://user:{KEY}@host/v1", f"http://host/v1?api_key={KEY}", f"http://host/#{KEY}"):
        with pytest.raises(ConfigError, match="environment") as refused:
            OpenAIClient(url)
        assert KEY not in str(refused.value)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    with pytest.raises(ConfigError, match="OPENAI_BASE_URL"):
        OpenAIClient()


@pytest.mark.parametrize("variable", ["OPENAI_API_KEY", "OTHER_KEY"])
def test_the_key_is_read_from_the_environment(
    variable: str, server: OpenAIServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, f" {KEY}\n")
    server.key = KEY
    ask(OpenAIClient(server.url, variable))
    assert server.seen[0].authorization == f"Bearer {KEY}"
    for key in (f"{KEY}\nX-Other: 1", f"{KEY} and more", f"{KEY}\N{EM DASH}"):
        monkeypatch.setenv(variable, key)
        with pytest.raises(ConfigError, match=variable) as refused:
            OpenAIClient(server.url, variable)
        assert KEY not in str(refused.value)


def test_a_key_that_the_server_repeats_is_not_shown(
    server: OpenAIServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    client = OpenAIClient(server.url)
    for status in (401, 403, 404, 400, 500):
        # The second message is so long that only a part of the key would be left of it.
        for message in (f"Incorrect API key provided: {KEY}. Find yours", "x" * 190 + KEY):
            server.faults = lambda seen, before, status=status, message=message: error(status, message)
            with caplog.at_level(logging.DEBUG), pytest.raises((ServerError, RequestError)) as refused:
                ask(client)
            assert KEY[:8] not in str(refused.value) + repr(refused.value) + caplog.text


@pytest.mark.parametrize(
    ("fault", "kind", "named"),
    [
        (error(401, "no"), ServerError, "requires a key (status 401: no). Set OPENAI_API_KEY"),
        (error(403, "no"), ServerError, "status 403"),
        (error(404, "no such model"), ServerError, "no model 'tiny-vision'"),
        (error(402, "pay"), ServerError, "payment"),
        (
            error(429, "tomorrow", {"Retry-After": "86400"}),
            ServerError,
            "no more requests for now (status 429: tomorrow)",
        ),
        (error(400, "a bad image"), RequestError, "status 400: a bad image"),
        (error(413, "too large"), RequestError, "413"),
        (Fault(418, b"<html>no</html>"), RequestError, "418"),
    ],
)
def test_a_refusal_is_not_retried(fault: Fault, kind: type, named: str, server: OpenAIServer) -> None:
    server.faults = lambda seen, before: fault
    with pytest.raises(kind) as refused:
        ask(OpenAIClient(server.url))
    assert named in str(refused.value)
    assert len(server.seen) == 1


def test_a_transient_fault_is_survived(server: OpenAIServer) -> None:
    client = OpenAIClient(server.url, timeout=0.4)
    for fault in (
        *(error(status) for status in (500, 503, 429, 408)),
        error(429, headers={"Retry-After": "0.1"}),
        Fault(seconds=1.0),
        Fault(drop=True),
        Fault(body=b'{"data": [', cut=True),
    ):
        server.seen.clear()
        server.faults = lambda seen, before, fault=fault: fault if before < 2 else None
        assert ask(client) == pytest.approx(embedding_of("hello")), fault
        assert len(server.seen) == 3, fault
        pause = float(fault.headers.get("Retry-After", 0))
        assert all(later.moment - sooner.moment >= pause for sooner, later in zip(server.seen, server.seen[1:]))


def test_a_permanent_fault_is_named(server: OpenAIServer) -> None:
    client = OpenAIClient(server.url)
    for fault, kind, named in (
        (error(500), RequestError, "failed 7 times in a row (status 500: simulated)"),
        (error(429, "slow down"), ServerError, "no more requests for now (status 429: slow down)"),
        (error(429, "quota", code="insufficient_quota"), ServerError, "payment"),
        (Fault(drop=True), ServerError, "No connection to"),
        *(
            (Fault(body=body, headers={"Content-Type": kind}), RequestError, "malformed")
            for body in (
                b"<html>",
                b'{"data": [',
                b"",
                b"[]",
                b"\xff\xfe\x00",
                b"[" * 100_000,
                b"{}",
                b'{"data": [null]}',
            )
            for kind in ("application/json", "text/html")
        ),
        (Fault(body=b'{"error": "upstream is down"}'), RequestError, "malformed"),
    ):
        server.faults = lambda seen, before, fault=fault: fault
        with pytest.raises(kind) as refused:
            ask(client)
        assert named in str(refused.value), fault


@pytest.mark.usefixtures("server")  # short pauses
def test_a_server_that_is_down_is_named() -> None:
    with openai_server() as other:
        url = other.url
    with pytest.raises(ServerError, match="Connection refused") as refused:
        ask(OpenAIClient(url))
    assert url in str(refused.value)
