"""Token, body size, errors and measurements of every request."""

import hmac
import json
import logging
import time
from collections.abc import Awaitable, Callable, Collection, MutableMapping
from typing import Any

from lirdrec_pyg.errors import first_line

_log = logging.getLogger(__name__)

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]
Direct = Callable[[Message, bytes], Awaitable[App | None]]

FAILED = "The service failed to answer. Its log has the reason."

# They show nothing of the data.
OPEN_PATHS = ("/health", "/docs", "/openapi.json", "/", "/page.css", "/page.js")


class Guard:
    """ASGI middleware that refuses requests without the token or with a large body, and turns a bug into an error 500.

    Args:
        app: what answers the others.
        direct: gets the request and its body first; it returns the answer, or ``None`` to leave it to ``app``.
        paths: paths of the endpoints.
        token: the token, ``None`` if there is none.
        max_body: largest size of a body, in bytes.
        answered: is called with path, status and seconds of each request.
    """

    def __init__(
        self,
        app: App,
        direct: Direct,
        paths: Collection[str],
        token: str | None,
        max_body: int,
        answered: Callable[[str, int, float], None],
    ) -> None:
        self._app, self._direct, self._paths = app, direct, paths
        self._authorization = None if token is None else f"Bearer {token}".encode()
        self._max_body = max_body
        self._answered = answered

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start, status = time.perf_counter(), 0

        async def noting_status(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._answer(scope, receive, noting_status)
        except Exception as error:
            _log.error("%s failed: %s: %s", scope["path"], type(error).__name__, first_line(error))
            if not status:
                await _refuse(noting_status, 500, FAILED)
        finally:
            path = scope["path"] if scope["path"] in self._paths else "other"
            self._answered(path, status, time.perf_counter() - start)

    async def _answer(self, scope: Message, receive: Receive, send: Send) -> None:
        if self._authorization is not None and scope["path"] not in OPEN_PATHS:
            given = dict(scope["headers"]).get(b"authorization", b"")
            if not hmac.compare_digest(given, self._authorization):
                await _refuse(
                    send, 401, "The token is missing or wrong. Send the header 'Authorization: Bearer TOKEN'."
                )
                return
        body, more = b"", True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body, more = body + message.get("body", b""), message.get("more_body", False)
            if len(body) > self._max_body:
                await _refuse(send, 413, f"The body is larger than {self._max_body // 1024} KiB.")
                return
        if (direct := await self._direct(scope, body)) is not None:
            await direct(scope, receive, send)
            return
        unread = [{"type": "http.request", "body": body}]

        async def received() -> Message:
            return unread.pop() if unread else await receive()

        await self._app(scope, received, send)


async def _refuse(send: Send, status: int, error: str) -> None:
    headers = [(b"content-type", b"application/json"), *([(b"www-authenticate", b"Bearer")] if status == 401 else [])]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": json.dumps({"error": error}).encode()})
