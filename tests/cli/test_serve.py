import json
import os
import signal
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from child_process import start
from commands import assert_refused, lirdrec

from lirdrec_pyg import Recommender
from lirdrec_pyg.recommender.update import promote
from lirdrec_pyg.service import server


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        port: int = found.getsockname()[1]
        return port


def ask(port: int, path: str, body: dict[str, Any] | None = None, token: str = "geheim") -> Any:
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {token}"}
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", data, headers)
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


@contextmanager
def service(run: Path, output: Path, *options: object) -> Iterator[int]:
    """Start a service, yield its port, and end it."""
    port = free_port()
    process = start(("serve", run, "--port", port, "--device", "cpu", *options), output)
    try:
        deadline = time.monotonic() + 300
        while True:
            try:
                assert ask(port, "/health")["run"].startswith("run@")
                break
            except urllib.error.URLError:
                assert process.is_alive(), output.read_text()
                assert time.monotonic() < deadline
                time.sleep(0.05)
        yield port
    finally:
        assert process.pid is not None
        os.kill(process.pid, signal.SIGTERM)
        process.join(60)
    assert process.exitcode in (-signal.SIGTERM, 0)  # of one process, of several


def assert_right(port: int, run: Path) -> None:
    answer = ask(port, "/recommend", {"users": ["user-1"], "k": 3})
    expected = Recommender.load(run).recommend(["user-1"], k=3)
    assert [row["item"] for row in answer["recommendations"]] == expected["item"].to_list()


@pytest.mark.slow
def test_a_service_answers_follows_the_link_and_ends(run: Path, tmp_path: Path) -> None:
    Recommender.load(run).save(tmp_path / "next")
    promote(run, tmp_path / "current")
    (tmp_path / "token").write_text("geheim\n")
    options = ("--poll-seconds", 0.05, "--token-file", tmp_path / "token")
    with service(tmp_path / "current", tmp_path / "output", *options) as port:
        assert_right(port, run)
        with pytest.raises(urllib.error.HTTPError, match="401"):
            ask(port, "/recommend", {"users": ["user-1"]}, token="wrong")
        promote(tmp_path / "next", tmp_path / "current")
        deadline = time.monotonic() + 300
        while not ask(port, "/recommend", {"users": ["user-1"]})["run"].startswith("next@"):
            assert time.monotonic() < deadline
            time.sleep(0.05)
    first, *others = (tmp_path / "output").read_text().splitlines()
    assert f"at http://127.0.0.1:{port}" in first
    assert [line.split("@")[0] for line in others] == ["Serving next"]


@pytest.mark.slow
def test_two_processes_answer_on_one_port(run: Path, tmp_path: Path) -> None:
    with service(run, tmp_path / "output", "--workers", 2) as port:
        for _ in range(10):
            assert_right(port, run)


def test_each_mistake_is_one_error(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "empty").write_text("\n")
    assert_refused(lirdrec("serve", tmp_path), "not a run folder")
    assert_refused(lirdrec("serve", run, "--token-file", tmp_path / "gone"), "--token-file", "gone")
    assert_refused(lirdrec("serve", run, "--token-file", tmp_path / "empty"), "empty")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert_refused(lirdrec("serve", run, "--port", taken.getsockname()[1]), "--port", "in use")
    monkeypatch.setattr("lirdrec_pyg.errors.find_spec", lambda name: None)
    assert_refused(lirdrec("serve", run), "pip install 'lirdrec-pyg[serve]'")


def test_several_processes_get_their_settings_from_the_first(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fastapi.testclient import TestClient

    started: list[dict[str, Any]] = []
    monkeypatch.setattr("uvicorn.run", lambda app, **options: started.append({"app": app, **options}))
    monkeypatch.setattr(torch, "set_num_threads", lambda number: None)
    monkeypatch.setattr(server.gc, "freeze", lambda: None)
    monkeypatch.setenv("LIRDREC_TOKEN", "geheim")
    for name in ("PROMETHEUS_MULTIPROC_DIR", "LIRDREC_SERVICE"):
        monkeypatch.setenv(name, "replaced, and removed at the end")
    result = lirdrec("serve", run, "--workers", 3, "--port", free_port(), "--max-k", 2)
    assert result.exit_code == 0, result.output
    assert (started[0]["workers"], started[0]["host"]) == (3, "127.0.0.1")
    assert started[0]["app"] == "lirdrec_pyg.service.server:worker_app"
    monkeypatch.delenv("PROMETHEUS_MULTIPROC_DIR")
    with TestClient(server.worker_app(), headers={"Authorization": "Bearer geheim"}) as client:
        assert client.post("/recommend", json={"users": ["user-1"], "k": 2}).status_code == 200
        assert client.post("/recommend", json={"users": ["user-1"], "k": 3}).status_code == 422
