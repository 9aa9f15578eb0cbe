"""Load `lirdrec-pyg serve` on the loopback interface, and compare it with a loop over `Recommender.recommend`.

    python benchmarks/serve.py [--run FOLDER] [--clients 1,4,16,64] [--reloads 20] [--soak 100000]

Each client sends its next request when it has the answer to the last one, over one connection. Loop and clients take
turns. The clients are a single thread of this process; they share the machine with the service.
"""

import json
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import cycle, islice, takewhile
from pathlib import Path
from typing import Any

import click
import numpy as np
import polars as pl
from harness import Row, json_option, report, resident_gib

from lirdrec_pyg import LIRDRecConfig, Recommender, TrainingConfig, fit
from lirdrec_pyg.datasets import synthetic_data
from lirdrec_pyg.recommender.columns import title_column
from lirdrec_pyg.recommender.update import promote

K = 20
_HEAD_END = b"\r\n\r\n"


@dataclass
class _Client:
    """A connection with at most one request under way."""

    connection: socket.socket
    user: Any = None
    start: float = 0.0
    answer: bytes = b""

    def ask(self, user: Any) -> None:
        body = json.dumps({"users": [user], "k": K}).encode()
        head = "POST /recommend HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\n"
        self.user, self.answer, self.start = user, b"", time.perf_counter()
        self.connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)

    def received(self) -> bytes | None:
        """Read what has arrived, and return the body once it is complete."""
        part = self.connection.recv(2**16)
        if not part:
            raise click.ClickException("The service closed a connection.")
        self.answer += part
        head, end, body = self.answer.partition(_HEAD_END)
        if not end:
            return None
        length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
        if len(body) < length:
            return None
        if not head.startswith(b"HTTP/1.1 200"):
            raise click.ClickException(f"The service answered {head.splitlines()[0].decode()} {body.decode()}")
        return body


def load(
    port: int, users: Iterable[Any], num_clients: int, check: Callable[[Any, bytes], None] = lambda user, body: None
) -> tuple[float, list[float]]:
    """Send a request for each of the users, and return the seconds in total and of each."""
    waiting, times = iter(users), []
    start = time.perf_counter()
    with selectors.DefaultSelector() as selector:
        for user in islice(waiting, num_clients):
            client = _Client(socket.create_connection(("127.0.0.1", port)))
            client.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            selector.register(client.connection, selectors.EVENT_READ, client)
            client.ask(user)
        while selector.get_map():
            for key, _ in selector.select():
                client = key.data
                if (body := client.received()) is None:
                    continue
                times.append(time.perf_counter() - client.start)
                check(client.user, body)
                if (user := next(waiting, None)) is not None:
                    client.ask(user)
                else:
                    selector.unregister(client.connection)
                    client.connection.close()
    return time.perf_counter() - start, times


@contextmanager
def service(run: Path, *options: str) -> Iterator[tuple[int, int]]:
    """Start the service in a process of its own, and yield its port and process ID."""
    with socket.create_server(("127.0.0.1", 0)) as found:
        port = found.getsockname()[1]
    command = [sys.executable, "-m", "lirdrec_pyg", "serve", str(run), "--port", str(port), *options]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        while True:
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except ConnectionRefusedError:
                if process.poll() is not None:
                    raise click.ClickException("The service did not start.") from None
                time.sleep(0.1)
        yield port, process.pid
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


def loop(recommender: Recommender, users: Sequence[Any]) -> float:
    """Return the seconds that requests take one after another, without a service, with titles as in its answers."""
    columns, start = title_column(recommender), time.perf_counter()
    for user in users:
        recommender.recommend([user], k=K, columns=columns)
    return time.perf_counter() - start


def throughput(
    run: Path, recommender: Recommender, users: Sequence[Any], clients: Sequence[int], rounds: int
) -> list[Row]:
    """Measure loop and clients in turns."""
    rates: dict[int, list[float]] = {number: [] for number in (0, *clients)}
    times: dict[int, list[float]] = {number: [] for number in clients}
    with service(run) as (port, _):
        load(port, users[:200], max(clients))
        loop(recommender, users[:200])
        for _ in range(rounds):
            rates[0].append(len(users) / loop(recommender, users))
            for number in clients:
                seconds, each = load(port, users, number)
                rates[number].append(len(users) / seconds)
                times[number] += each
    rows: list[Row] = [{"clients": "none: loop", "requests/s": float(np.median(rates[0])), "ratio": 1.0}]
    for number in clients:
        p50, p99 = 1000 * np.quantile(times[number], [0.5, 0.99])
        ratio = np.median(np.divide(rates[number], rates[0]))
        rate = np.median(rates[number])
        rows.append({"clients": str(number), "requests/s": rate, "p50 ms": p50, "p99 ms": p99, "ratio": ratio})
    return rows


def opposite(recommender: Recommender, out: Path) -> Recommender:
    """Write a run that recommends the worst items."""
    vectors = replace(recommender.vectors, user=-recommender.vectors.user)
    return replace(recommender, vectors=vectors, checksums=None).save(out)


def reloads(run: Path, recommender: Recommender, users: Sequence[Any], number: int, folder: Path) -> list[Row]:
    """Point a link to another run again and again while clients ask, and check every answer."""
    runs, link = [run.resolve(), folder / "opposite"], folder / "current"
    expected = {}
    for path, served in zip(runs, (recommender, opposite(recommender, runs[1]))):
        scores = served.recommend(users, k=K).group_by("user").agg("score")
        expected[path.name] = dict(zip(*scores.get_columns()))
    latest, finished = "", threading.Event()

    def check(user: Any, body: bytes) -> None:
        nonlocal latest
        answer = json.loads(body)
        latest = answer["run"].split("@")[0]
        found = [row["score"] for row in answer["recommendations"]]
        if not np.allclose(found, expected[latest][user], atol=1e-4):
            raise click.ClickException(f"{answer['run']} has a wrong answer for {user}.")

    def reload() -> None:
        for turn in range(number):
            target = runs[(turn + 1) % 2]
            promote(target, link)
            while latest != target.name:
                time.sleep(0.01)
        finished.set()

    promote(runs[0], link)
    with service(link, "--poll-seconds", "0.1") as (port, _):
        threading.Thread(target=reload, daemon=True).start()
        _, times = load(port, takewhile(lambda _: not finished.is_set(), cycle(users)), 16, check)
    p50, p99 = 1000 * np.quantile(times, [0.5, 0.99])
    return [{"reloads": number, "right answers": len(times), "p50 ms": p50, "p99 ms": p99}]


def soak(run: Path, users: Sequence[Any], number: int) -> Sequence[Row]:
    """Measure the memory of the service after 1,000 and after ``number`` requests."""
    rows: list[dict[str, Any]] = []
    with service(run) as (port, process):
        for more in (1000, number - 1000):
            load(port, islice(cycle(users), more), 16)
            found = 2**10 * resident_gib(process)
            first = rows[0]["memory MiB"] if rows else found
            rows.append({"requests": str(number if rows else 1000), "memory MiB": found, "of the first": found / first})
    return rows


@click.command()
@click.option("--run", type=click.Path(path_type=Path), help="Run to serve; by default one on generated data.")
@click.option("--requests", default=2000, show_default=True, help="Requests per round.")
@click.option("--clients", default="1,4,16,64", show_default=True, help="Numbers of clients.")
@click.option("--rounds", default=3, show_default=True, help="Turns of the loop and of each number of clients.")
@click.option("--reloads", "num_reloads", default=0, help="Replace the run so many times under load.")
@click.option("--soak", "num_soaked", default=0, help="Compare the memory after 1,000 and after so many requests.")
@json_option
def main(
    run: Path | None,
    requests: int,
    clients: str,
    rounds: int,
    num_reloads: int,
    num_soaked: int,
    json_file: Path | None,
) -> None:
    """Throughput and latency of the service, compared with a loop; reloads under load; memory."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if run is None:
            run = folder / "generated"
            fit(synthetic_data(9308, 6710), LIRDRecConfig(), TrainingConfig(epochs=1, batch_size=8192), run)
        recommender = Recommender.load(run)
        trained = recommender.users.ids.filter(pl.Series(recommender.has_history))
        users = trained.sample(min(requests, len(trained)), shuffle=True, seed=0).to_list()
        rows = throughput(run, recommender, users, [int(number) for number in clients.split(",")], rounds)
        if num_reloads:
            rows += reloads(run, recommender, users, num_reloads, folder)
        if num_soaked:
            rows += soak(run, users, num_soaked)
    report("serve", rows, json_file)


if __name__ == "__main__":
    main()
