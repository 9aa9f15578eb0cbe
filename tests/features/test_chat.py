import logging
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime
from typing import Any

import pytest
from openai_server import Fault, OpenAIServer, embedding_of, error, openai_server

from lirdrec_pyg.errors import ConfigError
from lirdrec_pyg.features import chat
from lirdrec_pyg.features.chat import RequestError, Server, ServerError, server_url

KEY = "sk-proj-0123456789abcdef"
TOKENS = {"x-ratelimit-reset-tokens": "700ms", "x-ratelimit-remaining-tokens": "12"}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[OpenAIServer]:
    monkeypatch.setattr(chat, "_FIRST_PAUSE", 0.01)
    monkeypatch.setattr(chat, "_LONGEST_PAUSE", 0.02)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    with openai_server() as running:
        yield running


def ask(client: Server, text: str = "hello", model: str = "tiny-vision") -> list[float]:
    def read(answer: dict[str, Any]) -> list[float]:
        (row,) = answer["data"]
        return row["embedding"]

    return client.post("embeddings", {"model": model, "input": [text]}, read)


def test_an_answer_is_read(server: OpenAIServer) -> None:
    assert ask(Server(server.url)) == pytest.approx(embedding_of("hello"))
    (seen,) = server.seen
    assert seen.path == "/v1/embeddings"
    assert seen.authorization is None


def test_the_address_comes_from_the_environment_too(server: OpenAIServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", server.url)
    ask(Server())
    assert len(server.seen) == 1


def test_an_answer_in_chunks_is_read(server: OpenAIServer) -> None:
    server.faults = lambda seen, before: Fault(body=b'{"data": [{"embedding": [1, 2]}]}', chunked=True)
    assert ask(Server(server.url)) == [1, 2]


@pytest.mark.parametrize(
    ("given", "taken"),
    [
        ("http://localhost:8000", "http://localhost:8000/v1"),
        ("http://localhost:8000/", "http://localhost:8000/v1"),
        ("https://api.example.com/v1/", "https://api.example.com/v1"),
        ("https://example.com/openai/v3", "https://example.com/openai/v3"),
        ("http://[::1]:8080/v1", "http://[::1]:8080/v1"),
    ],
)
def test_an_address_without_a_path_gets_the_usual_one(given: str, taken: str) -> None:
    assert server_url(given) == taken


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://host/v1", "http://", "http://host:port", "no address", "//"])
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="http://host:port/v1"):
        server_url(url)


def test_no_address_at_all_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    with pytest.raises(ConfigError, match="OPENAI_BASE_URL"):
        server_url(None)


@pytest.mark.parametrize("url", [f"http://user:{KEY}@host/v1", f"http://host/v1?api_key={KEY}", f"http://host/#{KEY}"])
def test_an_address_with_a_secret_is_refused_without_showing_it(url: str) -> None:
    with pytest.raises(ConfigError, match="environment") as refused:
        server_url(url)
    assert KEY not in str(refused.value)


@pytest.mark.parametrize("variable", ["OPENAI_API_KEY", "OTHER_KEY"])
def test_the_key_comes_from_the_environment(
    variable: str, server: OpenAIServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, f" {KEY}\n")
    server.key = KEY
    ask(Server(server.url, variable))
    assert server.seen[0].authorization == f"Bearer {KEY}"


@pytest.mark.parametrize("key", [f"{KEY}\nX-Other: 1", f"{KEY} and more", f"{KEY}\N{EM DASH}"])
def test_a_key_that_no_header_takes_is_refused_without_showing_it(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", key)
    with pytest.raises(ConfigError, match="OPENAI_API_KEY") as refused:
        Server("http://localhost:1")
    assert KEY not in str(refused.value)


@pytest.mark.parametrize("status", [401, 403, 404, 400, 500])
def test_a_key_that_the_server_repeats_is_not_shown(
    status: int, server: OpenAIServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    # The second message is so long that only a part of the key would be left of it.
    for message in (f"Incorrect API key provided: {KEY}. Find yours", "x" * 190 + KEY):
        server.faults = lambda seen, before, message=message: error(status, message)
        with caplog.at_level(logging.DEBUG), pytest.raises((ServerError, RequestError)) as refused:
            ask(Server(server.url))
        shown = str(refused.value) + repr(refused.value) + caplog.text
        assert KEY[:8] not in shown


def test_a_key_that_the_server_puts_into_its_answer_is_taken_out(
    server: OpenAIServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    server.embeddings = lambda texts: [{"embedding": f"your key is {KEY}"}]
    assert ask(Server(server.url)) == "your key is ***"


@pytest.mark.parametrize(
    ("fault", "named"),
    [
        (error(401, "no"), "asks for a key (status 401: no): set OPENAI_API_KEY"),
        (error(403, "no"), "status 403"),
        (error(404, "no such model"), "knows no model 'tiny-vision'"),
        (error(402, "pay"), "payment"),
        (error(429, "quota", code="insufficient_quota"), "payment"),
        (error(429, "tomorrow", {"Retry-After": "86400"}), "asks to wait for 86,400 s"),
        (error(429, "no", {"x-ratelimit-reset-requests": "24h0m0s"}), "asks to wait for 86,400 s"),
        (Fault(307, b"", {"Location": "http://elsewhere.example/v1"}), "another address"),
    ],
)
def test_what_no_other_request_would_survive_ends_at_once(fault: Fault, named: str, server: OpenAIServer) -> None:
    server.faults = lambda seen, before: fault
    with pytest.raises(ServerError) as refused:
        ask(Server(server.url))
    assert named in str(refused.value)
    assert len(server.seen) == 1


@pytest.mark.parametrize(
    "fault", [error(400, "a bad picture"), error(413, "too large"), error(422, "no"), Fault(418, b"<html>no</html>")]
)
def test_a_request_that_is_refused_is_not_sent_again(fault: Fault, server: OpenAIServer) -> None:
    server.faults = lambda seen, before: fault
    with pytest.raises(RequestError, match=str(fault.status)):
        ask(Server(server.url))
    assert len(server.seen) == 1


PASSING = {
    "500": error(500),
    "503": error(503),
    "429": error(429),
    "408": error(408),
    "timeout": Fault(seconds=1.0),
    "dripping": Fault(body=b"{" + b" " * 40, seconds=0.05, drip=True),
    "cut off": Fault(body=b'{"data": [', cut=True),
    "cut off between chunks": Fault(body=b'{"data": [{"embedding": [1]}]}', cut=True, chunked=True),
    "dropped": Fault(drop=True),
    "no JSON": Fault(body=b"<html>Bad gateway</html>"),
    "half JSON": Fault(body=b'{"data": [{"embedding": [0.1, '),
    "nothing": Fault(body=b""),
    "a list": Fault(body=b"[]"),
    "no text": Fault(body=b"\xff\xfe\x00"),
    "deep": Fault(body=b"[" * 100_000),
    "an empty object": Fault(body=b"{}"),
    "an error": Fault(body=b'{"error": {"message": "upstream is down"}}'),
    "wrong types": Fault(body=b'{"data": [null]}'),
    "a long number": Fault(body=b'{"data": ' + b"9" * 5000 + b"}"),
}


@pytest.mark.parametrize("name", PASSING)
def test_a_fault_that_passes_is_survived(name: str, server: OpenAIServer) -> None:
    server.faults = lambda seen, before: PASSING[name] if before < 2 else None
    assert ask(Server(server.url, timeout=0.4)) == pytest.approx(embedding_of("hello"))
    assert len(server.seen) == 3


@pytest.mark.parametrize("name", ["500", "cut off", "no JSON", "an empty object", "an error"])
def test_a_fault_that_stays_is_named_after_some_tries(name: str, server: OpenAIServer) -> None:
    server.faults = lambda seen, before: PASSING[name]
    told = {"500": "status 500: as told", "an error": "upstream is down", "an empty object": "no entry 'data'"}
    with pytest.raises(RequestError, match="failed 6 times in a row") as refused:
        ask(Server(server.url))
    assert told.get(name, "") in str(refused.value)
    assert len(server.seen) == 6


def test_there_are_pauses_between_the_tries(server: OpenAIServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat, "_FIRST_PAUSE", 0.1)
    monkeypatch.setattr(chat, "_LONGEST_PAUSE", 1.0)
    server.faults = lambda seen, before: error(500) if before < 3 else None
    ask(Server(server.url))
    # Each is drawn between half the first and a bound that doubles.
    assert all(later.moment - sooner.moment >= 0.05 for sooner, later in zip(server.seen, server.seen[1:]))


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("form", ["seconds", "date"])
def test_no_request_of_any_thread_comes_before_the_moment_the_server_names(
    status: int, form: str, server: OpenAIServer
) -> None:
    told = threading.Event()
    moments: list[float] = []

    def faults(seen: Any, before: int) -> Fault | None:
        if told.is_set():
            return None
        told.set()
        moments.append(time.monotonic())
        when = "1" if form == "seconds" else format_datetime(datetime.now(timezone.utc) + timedelta(seconds=2), True)
        return error(status, headers={"Retry-After": when})

    server.faults = faults
    client = Server(server.url, concurrency=3)
    ask_first = threading.Thread(target=ask, args=(client, "first"))
    ask_first.start()
    told.wait(5)
    time.sleep(0.1)
    with ThreadPoolExecutor(3) as threads:
        list(threads.map(lambda text: ask(client, text), "abcde"))
    ask_first.join()
    assert len(server.seen) == 7
    # A date has whole seconds, so that between one and two are left.
    assert min(seen.moment for seen in server.seen[1:]) - moments[0] >= 0.95


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1s", 1),
        ("6m0s", 360),
        ("20ms", 0.02),
        ("1h2m3.5s", 3723.5),
        (" 1m30s ", 90),
        ("0s", 0),
        ("", 0),
        ("12", 0),
        ("soon", 0),
        ("1s?", 0),
        ("-1s", 0),
        ("1.2.3s", 0),
        (f"{'9' * 400}s", 0),
    ],
)
def test_times_in_which_limits_are_told(text: str, seconds: float) -> None:
    assert chat._seconds(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"x-ratelimit-reset-requests": "700ms"}, 0.7),
        ({"X-RateLimit-Reset-Tokens": "700ms", "x-ratelimit-reset-requests": "20ms"}, 0.7),
        ({"x-ratelimit-reset-requests": "700ms", "x-ratelimit-remaining-requests": "0"}, 0.7),
        # Requests are left, so it is the tokens that were used up, and Retry-After goes before all.
        ({"x-ratelimit-reset-requests": "8h0m", "x-ratelimit-remaining-requests": "9", **TOKENS}, 0.7),
        ({"x-ratelimit-reset-requests": "8h0m", "Retry-After": "0.7"}, 0.7),
    ],
)
def test_no_request_of_any_thread_comes_before_the_limits_are_whole_again(
    headers: dict[str, str], seconds: float, server: OpenAIServer
) -> None:
    server.faults = lambda seen, before: error(429, headers=headers) if len(server.seen) == 1 else None
    client = Server(server.url, concurrency=3)
    first = threading.Thread(target=ask, args=(client, "first"))
    first.start()
    while not client._not_before:
        time.sleep(0.005)
    with ThreadPoolExecutor(3) as threads:
        list(threads.map(lambda text: ask(client, text), "abc"))
    first.join()
    assert len(server.seen) == 5
    assert min(seen.moment for seen in server.seen[1:]) - server.seen[0].moment >= seconds


def test_limits_that_are_told_with_another_status_are_not_waited_for(server: OpenAIServer) -> None:
    server.faults = lambda seen, before: (
        error(500, headers={"x-ratelimit-reset-requests": "1h"}) if not before else None
    )
    ask(Server(server.url))
    assert len(server.seen) == 2


def test_a_server_that_stays_busy_is_asked_for_long_but_not_for_ever(
    server: OpenAIServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chat, "_BUSY_SECONDS", 0.5)
    monkeypatch.setattr(chat, "_LONGEST_PAUSE", 0.05)
    server.faults = lambda seen, before: error(429, "slow down")
    with pytest.raises(ServerError, match=r"no more requests for now \(status 429: slow down\)"):
        ask(Server(server.url))
    assert len(server.seen) > 6


def test_a_server_that_is_down_is_named_at_once() -> None:
    with openai_server() as server:
        url = server.url
    start = time.monotonic()
    with pytest.raises(ServerError) as refused:
        ask(Server(url))
    assert url in str(refused.value)
    assert "Connection refused" in str(refused.value)
    assert time.monotonic() - start < 10


def test_an_answer_without_end_is_refused(server: OpenAIServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat, "_MAX_ANSWER_BYTES", 2**20)
    server.faults = lambda seen, before: Fault(body=b" " * 2**22)
    with pytest.raises(RequestError, match="more than 1 MiB"):
        ask(Server(server.url))
    assert len(server.seen) == 1


def test_no_more_requests_at_a_time_than_allowed(server: OpenAIServer) -> None:
    server.seconds = 0.05
    client = Server(server.url, concurrency=3)
    with ThreadPoolExecutor(10) as threads:
        list(threads.map(lambda number: ask(client, str(number)), range(12)))
    assert server.most_at_once == 3


def test_waiting_ends_when_told(server: OpenAIServer) -> None:
    server.faults = lambda seen, before: error(429, headers={"Retry-After": "60"})
    client = Server(server.url)
    threading.Timer(0.2, client.stop).start()
    start = time.monotonic()
    with pytest.raises((ServerError, RequestError)):
        ask(client)
    assert time.monotonic() - start < 10
