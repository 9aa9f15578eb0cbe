"""A client for servers that speak OpenAI's protocol: vLLM, llama.cpp, Ollama, hosted ones."""

import json
import math
import os
import re
import threading
import time
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Any, TypeVar
from urllib.parse import urlsplit

from lirdrec_pyg._version import __version__
from lirdrec_pyg.data.tables import first_line, shortened
from lirdrec_pyg.errors import ConfigError, LIRDRecError
from lirdrec_pyg.features.pretrained import check_installed

URL_VARIABLE, KEY_VARIABLE = "OPENAI_BASE_URL", "OPENAI_API_KEY"

# Far more than any caption, or the embeddings of a batch, take.
_MAX_ANSWER_BYTES = 64 * 2**20
_CONNECT_SECONDS = 10.0
_TRIES, _TRIES_TO_CONNECT = 6, 2
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 30.0
# A server that is busy is asked until this long has passed; one that asks for more than that is not waited for.
_BUSY_SECONDS = 900.0
_SHORTEST_SECRET = 8
# Of the times in which limits are told, such as 6m0s.
_UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
_TIME = re.compile(r"(\d+(?:\.\d+)?)(ms|[hms])")

Answer = TypeVar("Answer")


class ServerError(LIRDRecError):
    """A server that is down, refuses every request, or doesn't speak the protocol."""

    exit_code = 1


class RequestError(LIRDRecError):
    """A server that answers, but not this request.

    Attributes:
        refused: whether the server said so, and did not just fail.
        parameter: name of the entry of the request that it doesn't take, if it says so.
    """

    exit_code = 1

    def __init__(self, message: str, refused: bool = False, parameter: str | None = None) -> None:
        super().__init__(message)
        self.refused = refused
        self.parameter = parameter


class _PassingError(Exception):
    """What may be over at the next try.

    Attributes:
        pause: seconds that the server asks to wait.
        busy: whether it has too many requests, which is not the fault of this one.
        down: whether there is no connection.
    """

    def __init__(self, message: str, pause: float = 0.0, busy: bool = False, down: bool = False) -> None:
        super().__init__(message)
        self.pause = pause
        self.busy = busy
        self.down = down


def server_url(url: str | None) -> str:
    """The base address of a server: ``url``, else that in ``OPENAI_BASE_URL``.

    An address without a path gets ``/v1``, where all of these servers answer.

    Raises:
        ConfigError: if there is none, or it is no address, or holds a password or a query, which would be
            written down with it.
    """
    url = url or os.environ.get(URL_VARIABLE)
    if not url:
        raise ConfigError(f"There is no server to ask: give its URL, or set {URL_VARIABLE}.")
    try:
        parts = urlsplit(url.strip())
        _ = parts.port
    except ValueError:
        parts = urlsplit("")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError("The URL of the server has to be of the form http://host:port/v1 or https://host/v1.")
    if parts.username is not None or parts.query or parts.fragment:
        raise ConfigError(
            "The URL of the server holds a user, a password or a query: leave them out, the key is taken from the "
            "environment."
        )
    path = parts.path.rstrip("/") or "/v1"
    return f"{parts.scheme}://{parts.netloc}{path}"


class Server:
    """A server that speaks OpenAI's protocol.

    Requests that fail for a passing reason (no connection, a timeout, an answer that is cut off or no JSON, the
    statuses 408, 409, 425, 429 and 5xx) are repeated after pauses that double and vary at random. When the server
    says how long to wait (``Retry-After``, or with status 429 ``x-ratelimit-reset-requests`` and
    ``x-ratelimit-reset-tokens``), no request of any thread is sent before. May be used by many threads.

    Args:
        url: base address, see :func:`server_url`.
        key_variable: name of the environment variable that holds the key; if it isn't set, none is sent. The key is
            kept out of all messages, also if the server repeats it.
        concurrency: so many requests at a time, of all threads together.
        timeout: seconds that one request may take in all.

    Raises:
        ConfigError: if ``url`` or the key can't be used.
    """

    def __init__(
        self,
        url: str | None = None,
        key_variable: str = KEY_VARIABLE,
        concurrency: int = 4,
        timeout: float = 120.0,
    ) -> None:
        check_installed("requests", "tenacity")
        import requests
        from requests.adapters import HTTPAdapter

        self.url = server_url(url)
        self.concurrency = concurrency
        self.timeout = timeout
        self._key_variable = key_variable
        self._key = _key(key_variable)
        self._session = requests.Session()
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, HTTPAdapter(pool_maxsize=concurrency))
        self._places = threading.BoundedSemaphore(concurrency)
        self._stopped = threading.Event()
        self._not_before = 0.0
        self._answered = False

    def stop(self) -> None:
        """Has all threads that wait for the server give up; requests under way are finished."""
        self._stopped.set()

    def post(self, path: str, body: Mapping[str, Any], read: Callable[[dict[str, Any]], Answer]) -> Answer:
        """Sends one request, as often as it takes.

        Args:
            path: such as ``"chat/completions"``.
            body: of the request; its entry ``model`` is named in messages.
            read: takes what is needed from the answer; a :class:`ValueError`, :class:`TypeError` or
                :class:`LookupError` says that the answer is malformed.

        Returns:
            What ``read`` returned.

        Raises:
            RequestError: if this request is refused, or failed for good.
            ServerError: if no other request would fare better: no connection, no access, no such model.
        """
        from tenacity import RetryCallState, Retrying, retry_if_exception_type, wait_random_exponential

        start, backoff = time.monotonic(), wait_random_exponential(_FIRST_PAUSE, _LONGEST_PAUSE, min=_FIRST_PAUSE / 2)

        def failure(state: RetryCallState) -> _PassingError:
            error = state.outcome.exception() if state.outcome else None
            assert isinstance(error, _PassingError)
            return error

        def gives_up(state: RetryCallState) -> bool:
            error = failure(state)
            if error.busy:
                return self._stopped.is_set() or time.monotonic() + error.pause - start > _BUSY_SECONDS
            tries = _TRIES if self._answered or not error.down else _TRIES_TO_CONNECT
            return self._stopped.is_set() or state.attempt_number >= tries

        def sleep(seconds: float) -> None:
            self._stopped.wait(seconds)

        retrying = Retrying(
            retry=retry_if_exception_type(_PassingError),
            wait=lambda state: max(backoff(state), failure(state).pause),
            stop=gives_up,
            sleep=sleep,
            reraise=True,
        )
        data = json.dumps(body).encode()
        try:
            answer: Answer = retrying(self._once, path, data, str(body.get("model", "")), read)
        except _PassingError as error:
            if error.down:
                raise ServerError(f"{error}.") from None
            if error.busy:
                raise ServerError(
                    f"{self.url} takes no more requests for now ({error}): try again later, or with fewer at a time."
                ) from None
            tries = retrying.statistics.get("attempt_number", 1)
            raise RequestError(f"{self.url} failed {tries} times in a row: {error}.") from None
        self._answered = True
        return answer

    def _once(self, path: str, data: bytes, model: str, read: Callable[[dict[str, Any]], Answer]) -> Answer:
        with self._places:
            while (pause := self._not_before - time.monotonic()) > 0:
                if self._stopped.wait(pause):
                    break
            if self._stopped.is_set():
                raise _PassingError("it was told to stop")
            status, headers, content = self._send(f"{self.url}/{path}", data)
        if status == HTTPStatus.OK:
            try:
                answer = json.loads(content)
                if not isinstance(answer, dict):
                    raise ValueError("no JSON object")
                if answer.get("error"):  # some say so in place of a status
                    raise _PassingError(f"it answers with an error: {_error_of(content)[0]}")
                return read(answer)
            except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
                what = f"no entry {error}" if isinstance(error, KeyError) else first_line(error)
                raise _PassingError(f"its answer is malformed ({what})") from None
        raise self._refusal(status, headers, content, model)

    def _send(self, url: str, data: bytes) -> tuple[int, Mapping[str, str], bytes]:
        import requests
        from urllib3.exceptions import ConnectTimeoutError, HTTPError, NewConnectionError, ReadTimeoutError

        deadline = time.monotonic() + self.timeout
        try:
            with self._session.post(
                url,
                data=data,
                # Unpacked, so that what comes is no more than what is counted.
                headers={"Content-Type": "application/json", "Accept-Encoding": "identity"},
                auth=self._sign,
                timeout=(min(_CONNECT_SECONDS, self.timeout), self.timeout),
                allow_redirects=False,  # they would take the key elsewhere
                stream=True,
            ) as response:
                content = bytearray()
                # What has come so far, not a whole chunk, so that a server that drips doesn't get beyond the time.
                while chunk := response.raw.read1(2**16):
                    content += chunk
                    if len(content) > _MAX_ANSWER_BYTES:
                        raise RequestError(f"{self.url} answered with more than {_MAX_ANSWER_BYTES >> 20} MiB.")
                    if time.monotonic() > deadline:
                        raise _PassingError(f"no whole answer came within {self.timeout:g} s")
                return response.status_code, response.headers, self._without_key(bytes(content))
        except (requests.exceptions.Timeout, requests.exceptions.ConnectionError) as error:
            reason = _reason(error)
            if isinstance(error, (requests.exceptions.SSLError, requests.exceptions.ProxyError)) or isinstance(
                reason, (NewConnectionError, ConnectTimeoutError)
            ):
                raise _PassingError(
                    f"There is no connection to {self.url} ({_told(reason)}): start the server, or mend its URL",
                    down=True,
                ) from None
            if isinstance(error, requests.exceptions.Timeout):
                raise _PassingError(f"no whole answer came within {self.timeout:g} s") from None
            raise _PassingError(f"the connection broke ({_told(reason)})") from None
        except ReadTimeoutError:
            raise _PassingError(f"no whole answer came within {self.timeout:g} s") from None
        except (requests.exceptions.RequestException, HTTPError) as error:
            raise _PassingError(f"the answer was cut off or damaged ({_told(_reason(error))})") from None

    def _sign(self, request: Any) -> Any:
        # By this function and no header of the session, since a ~/.netrc would take the place of that one.
        request.headers["User-Agent"] = f"lirdrec-pyg/{__version__}"
        if self._key:
            request.headers["Authorization"] = f"Bearer {self._key}"
        return request

    def _refusal(self, status: int, headers: Mapping[str, str], content: bytes, model: str) -> Exception:
        message, code, parameter = _error_of(content)
        said = f"status {status}{f': {message}' if message else ''}"
        if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
            what = f"refuses the key in {self._key_variable}" if self._key else "asks for a key"
            return ServerError(f"{self.url} {what} ({said}): set {self._key_variable} to a key that it takes.")
        if status == HTTPStatus.NOT_FOUND:
            return ServerError(
                f"{self.url} knows no model {model!r}, or nothing answers at this URL, which usually ends with /v1 "
                f"({said})."
            )
        if status == HTTPStatus.PAYMENT_REQUIRED or code == "insufficient_quota":
            return ServerError(f"{self.url} asks for payment first ({said}).")
        if 300 <= status < 400:
            return ServerError(f"{self.url} sends to another address ({said}): give that one.")
        if status in (408, 409, 425, 429) or status >= 500:
            busy, pause = status in (429, 503) and (status == 429 or "Retry-After" in headers), _retry_after(headers)
            if status == 429 and "Retry-After" not in headers:
                pause = _limits_reset(headers)
            if pause > _BUSY_SECONDS:
                return ServerError(f"{self.url} asks to wait for {pause:,.0f} s ({said}): try again then.")
            self._not_before = max(self._not_before, time.monotonic() + pause)
            return _PassingError(said, pause, busy)
        return RequestError(f"{self.url} refuses the request ({said}).", True, parameter)

    def _without_key(self, content: bytes) -> bytes:
        # Before anything is read from it, so that not even a part of the key goes on. Short ones are words
        # such as "none", which some servers want to have set.
        return content.replace(self._key.encode(), b"***") if len(self._key) >= _SHORTEST_SECRET else content


def _key(variable: str) -> str:
    if not re.fullmatch(r"[A-Za-z_]\w*", variable):
        # Not shown, since it may be the key itself.
        raise ConfigError("--api-key-env has to be the name of an environment variable, not the key.")
    if variable != KEY_VARIABLE and variable not in os.environ:
        # Not shown either: some keys look like names.
        raise ConfigError("--api-key-env names an environment variable that is not set: set it to the server's key.")
    key = os.environ.get(variable, "").strip()
    if not key.isascii() or not key.isprintable() or " " in key:
        # Not shown, and not by the library either, which would show it whole.
        raise ConfigError(f"The key in {variable} holds spaces, line breaks or letters that no key has: set it anew.")
    return key


def _retry_after(headers: Mapping[str, str]) -> float:
    """Seconds that a server asks to wait, as a number or a date."""
    text = headers.get("Retry-After", "").strip()
    try:
        seconds = float(text)
    except ValueError:
        try:
            moment = parsedate_to_datetime(text)
        except (TypeError, ValueError):
            return 0.0
        moment = moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)
        seconds = (moment - datetime.now(timezone.utc)).total_seconds()
    return max(seconds, 0.0) if math.isfinite(seconds) else 0.0


def _limits_reset(headers: Mapping[str, str]) -> float:
    """Seconds until the limits that may have been reached are whole again, as OpenAI tells it."""
    limits = ["tokens"]  # some may be left, but fewer than a request takes
    if headers.get("x-ratelimit-remaining-requests", "0").strip() == "0":
        limits.append("requests")
    return max(_seconds(headers.get(f"x-ratelimit-reset-{limit}", "")) for limit in limits)


def _seconds(text: str) -> float:
    """Of a time such as ``1h2m3.5s`` or ``20ms``; 0 if it is none."""
    parts = _TIME.findall(text)
    if "".join(number + unit for number, unit in parts) != text.strip():
        return 0.0
    seconds = sum(float(number) * _UNITS[unit] for number, unit in parts)
    return seconds if math.isfinite(seconds) else 0.0


def _error_of(content: bytes) -> tuple[str, str | None, str | None]:
    """Message, code and parameter of a refusal; each server has a form of its own."""
    try:
        answer = json.loads(content)
    except (ValueError, RecursionError):
        return shortened(" ".join(content[:500].decode(errors="replace").split())), None, None
    error = answer.get("error", answer) if isinstance(answer, dict) else answer
    if not isinstance(error, dict):
        return shortened(str(error)), None, None
    message = error.get("message") or error.get("detail") or ""
    code, parameter = error.get("code"), error.get("param")
    return (
        shortened(str(message)),
        code if isinstance(code, str) else None,
        parameter if isinstance(parameter, str) else None,
    )


def _reason(error: Exception) -> BaseException:
    """What stands behind an error of requests, which wraps those of urllib3 in several layers."""
    cause = error.args[0] if error.args and isinstance(error.args[0], Exception) else error
    reason = getattr(cause, "reason", None)
    return reason if isinstance(reason, Exception) else cause


def _told(error: BaseException) -> str:
    return first_line(error).rpartition(">: ")[2]
