"""A local server that speaks OpenAI's protocol and simulates faults."""

import base64
import hashlib
import io
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from PIL import Image


@dataclass(frozen=True)
class Fault:
    """A simulated fault.

    Attributes:
        status: status of the response.
        body: raw body of the response.
        headers: further headers.
        seconds: delay of the response.
        cut: whether the connection ends within the body.
        drop: whether it ends before the response.
    """

    status: int = 200
    body: bytes = b"{}"
    headers: Mapping[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    cut: bool = False
    drop: bool = False


def error(status: int, message: str = "simulated", headers: Mapping[str, str] | None = None, **entries: str) -> Fault:
    """A refusal in OpenAI's format."""
    return Fault(status, json.dumps({"error": {"message": message, **entries}}).encode(), headers or {})


@dataclass(frozen=True)
class Seen:
    """A request as it was received."""

    path: str
    body: dict[str, Any]
    authorization: str | None
    moment: float

    @property
    def prompt(self) -> str:
        (text,) = [part["text"] for part in self.body["messages"][-1]["content"] if part["type"] == "text"]
        return str(text)

    @property
    def image(self) -> Image.Image:
        (url,) = [part["image_url"]["url"] for part in self.body["messages"][-1]["content"] if "image_url" in part]
        head, _, data = url.partition(",")
        assert head == "data:image/jpeg;base64"
        return Image.open(io.BytesIO(base64.b64decode(data, validate=True)))


def color_of(image: Image.Image) -> str:
    """The strongest channel of an image, which the server's captions name."""
    means = image.convert("RGB").resize((1, 1)).getpixel((0, 0))
    assert isinstance(means, tuple)
    return ("red", "green", "blue")[means.index(max(means))]


def embedding_of(text: str, width: int = 6) -> list[float]:
    """A vector that depends only on the text."""
    digest = hashlib.sha256(text.encode()).digest()
    return [byte / 255 - 0.5 for byte in digest[:width]]


class OpenAIServer:
    """Behavior of the server, and the requests it has received.

    Attributes:
        url: base URL.
        model: name of its only model.
        key: key that requests need, if any.
        faults: called with each request and the number of earlier ones with the same content.
        seconds: duration of a response.
        seen: all requests.
        most_at_once: maximum number of simultaneous requests.
    """

    def __init__(self) -> None:
        self.url = ""
        self.model = "tiny-vision"
        self.key: str | None = None
        self.faults: Callable[[Seen, int], Fault | None] = lambda seen, before: None
        self.embeddings: Callable[[list[str]], Any] = lambda texts: [
            {"object": "embedding", "index": index, "embedding": embedding_of(text)}
            for index, text in reversed(list(enumerate(texts)))
        ]
        self.caption: Callable[[Seen], Any] = lambda seen: f"A {color_of(seen.image)} thing."
        self.finish_reason = "stop"
        self.seconds = 0.0
        self.seen: list[Seen] = []
        self.most_at_once = 0
        self._now = 0
        self._lock = threading.Lock()

    def answer(self, seen: Seen) -> tuple[int, Any]:
        if self.key is not None and seen.authorization != f"Bearer {self.key}":
            return 401, {"error": {"message": f"Incorrect API key provided: {seen.authorization}"}}
        if seen.body.get("model") != self.model:
            return 404, {"error": {"message": f"The model {seen.body.get('model')!r} does not exist"}}
        if seen.path.endswith("/chat/completions"):
            message = {"role": "assistant", "content": self.caption(seen)}
            choice = {"index": 0, "message": message, "finish_reason": self.finish_reason}
            return 200, {"object": "chat.completion", "choices": [choice]}
        if seen.path.endswith("/embeddings"):
            return 200, {"object": "list", "data": self.embeddings(seen.body["input"])}
        return 404, {"error": {"message": "no such path"}}

    def enter(self, seen: Seen) -> int:
        with self._lock:
            before = sum(other.body == seen.body for other in self.seen)
            self.seen.append(seen)
            self._now += 1
            self.most_at_once = max(self.most_at_once, self._now)
            return before

    def leave(self) -> None:
        with self._lock:
            self._now -= 1


def _handler(server: OpenAIServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = 30
        disable_nagle_algorithm = True

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            seen = Seen(self.path, body, self.headers.get("Authorization"), time.monotonic())
            before = server.enter(seen)
            try:
                fault = server.faults(seen, before)
                if fault is not None:
                    self._fail(fault)
                    return
                time.sleep(server.seconds)
                status, answer = server.answer(seen)
                self._write(status, json.dumps(answer).encode(), {"Content-Type": "application/json"})
            except (BrokenPipeError, ConnectionResetError):
                self.close_connection = True  # the client has gone
            finally:
                server.leave()

        def _write(self, status: int, content: bytes, headers: Mapping[str, str]) -> None:
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(content))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        def _fail(self, fault: Fault) -> None:
            time.sleep(fault.seconds)
            if fault.drop:
                self.close_connection = True
                self.connection.shutdown(socket.SHUT_RDWR)
                return
            if not fault.cut:
                self._write(fault.status, fault.body, fault.headers)
                return
            self.send_response(fault.status)
            self.send_header("Content-Length", str(len(fault.body) + 10))
            self.end_headers()
            self.wfile.write(fault.body)
            self.close_connection = True

        def log_message(self, *_: object) -> None:
            pass

    return Handler


@contextmanager
def openai_server() -> Iterator[OpenAIServer]:
    """Run a server inside a context."""
    server = OpenAIServer()
    http = ThreadingHTTPServer(("127.0.0.1", 0), _handler(server))
    http.daemon_threads = True
    server.url = f"http://127.0.0.1:{http.server_address[1]}/v1"
    thread = threading.Thread(target=http.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        http.shutdown()
        http.server_close()
        thread.join()
