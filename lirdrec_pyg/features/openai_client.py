"""Client for servers that speak OpenAI's protocol: vLLM, llama.cpp, Ollama, hosted ones."""

import os
import re
from collections.abc import Callable, Mapping
from typing import Any, TypeVar
from urllib.parse import urlsplit

from lirdrec_pyg.errors import ConfigError, LIRDRecError, shortened
from lirdrec_pyg.features.pretrained import check_installed

URL_VARIABLE, KEY_VARIABLE = "OPENAI_BASE_URL", "OPENAI_API_KEY"
# After so many failures in a row, the server or model is to blame and not the entries.
MAX_FAILURES = 20

# With the pauses of the library, some 25 seconds, or as long as the server asks for.
_MAX_RETRIES = 6
_NO_KEY = "none"  # the library requires one, but a local server does not

Answer = TypeVar("Answer")


class ServerError(LIRDRecError):
    """A server that is down, refuses every request, or does not speak the protocol."""

    exit_code = 1


class RequestError(LIRDRecError):
    """A request that the server refused (maybe due to a ``parameter`` that it names), or failed to answer."""

    exit_code = 1

    def __init__(self, message: str, refused: bool = False, parameter: str | None = None) -> None:
        super().__init__(message)
        self.refused, self.parameter = refused, parameter


class OpenAIClient:
    """Thread-safe client of a server that speaks OpenAI's protocol; transient failures are retried.

    Args:
        url: base URL; by default that in ``OPENAI_BASE_URL``. Without a path, ``/v1`` is appended.
        key_variable: environment variable of the key, which appears in no message, even if the server repeats it.
        concurrency: number of simultaneous requests that callers may send.
        timeout: seconds to wait for a response.

    Raises:
        ConfigError: if the URL or the key cannot be used.
    """

    def __init__(
        self, url: str | None = None, key_variable: str = KEY_VARIABLE, concurrency: int = 4, timeout: float = 120.0
    ) -> None:
        check_installed("openai")
        from openai import OpenAI

        self.url, self.concurrency, self.timeout = _base_url(url), concurrency, timeout
        self._key_variable, self._key = key_variable, _read_key(key_variable)
        self._api = OpenAI(base_url=self.url, api_key=self._key or _NO_KEY, timeout=timeout, max_retries=_MAX_RETRIES)

    def post(self, path: str, body: Mapping[str, Any], read: Callable[[Any], Answer]) -> Answer:
        """Send ``body`` to the endpoint ``path``, and return what ``read`` extracts from the response.

        Raises:
            RequestError: if this request is refused, or failed for good.
            ServerError: if no other request can succeed: no connection, no access, no such model.
        """
        import openai

        try:
            answer = self._api.post(f"/{path}", body=dict(body), cast_to=object)
            if isinstance(answer, dict) and answer.get("error"):  # some servers send errors with status 200
                raise ValueError(answer["error"])
            return read(answer)
        except openai.APIStatusError as error:
            raise self._refusal(error, str(body.get("model"))) from None
        except openai.APITimeoutError:
            raise RequestError(f"{self.url} sent no response within {self.timeout:g} s.") from None
        except openai.APIConnectionError as error:
            reason = self._shown(error.__cause__ or error)
            raise ServerError(f"No connection to {self.url} ({reason}). Start the server, or fix its URL.") from None
        except (openai.OpenAIError, ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
            reason = self._shown(f"no key {error}" if isinstance(error, KeyError) else error)
            raise RequestError(f"The response of {self.url} is malformed ({reason}).") from None

    def _refusal(self, error: Any, model: str) -> LIRDRecError:
        """Return what to raise for a response with an error status."""
        status, answer = error.status_code, error.body if isinstance(error.body, dict) else {}
        reason = f"status {status}: {self._shown(answer.get('message') or answer.get('detail') or error.message)}"
        if status in (401, 403):
            problem = f"refuses the key in {self._key_variable}" if self._key else "requires a key"
            return ServerError(f"{self.url} {problem} ({reason}). Set {self._key_variable} to a valid key.")
        if status == 404:
            return ServerError(f"{self.url} has no model {model!r} ({reason}). The URL usually ends with /v1.")
        if status == 402 or error.code == "insufficient_quota":
            return ServerError(f"{self.url} requires payment ({reason}).")
        if status == 429:
            fix = "Try again later, or with a smaller `caption_concurrency`."
            return ServerError(f"{self.url} accepts no more requests for now ({reason}). {fix}")
        if status >= 500 or status in (408, 409):
            return RequestError(f"{self.url} failed {_MAX_RETRIES + 1} times in a row ({reason}).")
        return RequestError(f"{self.url} refuses the request ({reason}).", refused=True, parameter=error.param)

    def _shown(self, text: object) -> str:
        """Return the first line of an error without the key."""
        shown = str(text).replace(self._key, "***") if self._key else str(text)
        return shortened(shown.strip().split("\n", 1)[0])


def _base_url(url: str | None) -> str:
    url = url or os.environ.get(URL_VARIABLE)
    if not url:
        raise ConfigError(f"No server. Pass `caption_url` or `embed_url`, or set {URL_VARIABLE}.")
    try:
        parts = urlsplit(url.strip())
        _ = parts.port
    except ValueError:
        parts = urlsplit("")
    # Not shown, since it may hold a key.
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError("The server's URL is invalid. Pass one such as http://host:port/v1 or https://host/v1.")
    if parts.username is not None or parts.query or parts.fragment:
        raise ConfigError("The server's URL has a user, password or query. Set the key in the environment instead.")
    return f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/') or '/v1'}"


def _read_key(variable: str) -> str:
    # The name is not shown, since it may be the key itself.
    if not re.fullmatch(r"[A-Za-z_]\w*", variable):
        raise ConfigError("`api_key_env` is not the name of an environment variable. Pass the name, not the key.")
    if variable != KEY_VARIABLE and variable not in os.environ:
        raise ConfigError("`api_key_env` names an environment variable that is not set. Set it to the server's key.")
    key = os.environ.get(variable, "").strip()
    if not key.isascii() or not key.isprintable() or " " in key:
        # The HTTP library would show an invalid header.
        raise ConfigError(f"The key in {variable} has spaces, line breaks or special characters. Set it again.")
    return key
