"""The endpoints answer as the recommender does, refuse what they must, and never mix two runs."""

import json
import logging
import math
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from fastapi.testclient import TestClient

from lirdrec_pyg import Recommender
from lirdrec_pyg.data import item_features
from lirdrec_pyg.recommender.rules import Rules
from lirdrec_pyg.recommender.update import promote
from lirdrec_pyg.service import batches

Connect = Callable[..., TestClient]


def as_json(result: Any) -> Any:
    return json.loads(result.write_json()) if isinstance(result, pl.DataFrame) else result


def vectors(recommender: Recommender, row: int) -> dict[str, list[float]]:
    """Features of an item that is nearly the one in ``row``."""
    return {name: (1.01 * item_features(recommender.graph, name)[row]).tolist() for name in ("image", "text")}


def test_answers_are_those_of_the_recommender(connect: Connect, recommender: Recommender) -> None:
    title, clicks = ["title"], ["item-1", "item-2"]
    rules: dict[str, Any] = {"where": "stock < 2", "max_per": {"stock": 2}, "popularity_penalty": 0.5}
    lists = {"exclude_seen": False, "candidates": ["item-1", "item-4"], "exclude": ["item-4"]}
    several = recommender.recommend(["user-2", "user-1"], k=4, columns=["stock"], **rules)
    of_history = recommender.recommend_for_history({"user-1": clicks}, columns=title)
    expected: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
        ("recommend", {"users": ["user-1"]}, {"recommendations": recommender.recommend(["user-1"], columns=title)}),
        (
            "recommend",
            {"users": ["user-2", "user-1"], "k": 4, "columns": ["stock"], **rules},
            {"recommendations": several},
        ),
        (
            "recommend",
            {"users": ["user-1"], "columns": [], **lists},
            {"recommendations": recommender.recommend(["user-1"], **lists)},
        ),
        (
            "recommend",
            {"users": ["user-1"], "because": 2},
            {"recommendations": recommender.because(recommender.recommend(["user-1"], columns=title), 2)},
        ),
        (
            "history",
            {"history": clicks, "k": 3},
            {"recommendations": recommender.recommend_for_history(clicks, k=3, columns=title)},
        ),
        (
            "history",
            {"history": {"user-1": clicks}, "because": 1},
            {"recommendations": recommender.because(of_history, 1, {"user-1": clicks})},
        ),
        (
            "similar",
            {"item": "item-3", "k": 5, "by": "image"},
            {"similar": recommender.similar_items("item-3", 5, "image", title)},
        ),
        (
            "explain",
            {"user": "user-1", "item": "item-3", "nearest": 2},
            recommender.explain("user-1", "item-3", 2, title)._asdict(),
        ),
    ]
    client = connect()
    for path, body, content in expected:
        answer = client.post(f"/{path}", json=body)
        assert answer.status_code == 200, answer.text
        assert answer.json()["run"].startswith("one@")
        assert answer.json()["warnings"] == []
        assert {key: value for key, value in answer.json().items() if key not in ("run", "warnings")} == {
            key: as_json(value) for key, value in content.items()
        }


def test_warnings_are_part_of_the_answer_that_they_are_about(connect: Connect) -> None:
    client = connect()
    answer = client.post("/recommend", json={"users": ["user-1", "nobody"], "fallback": "popular", "k": 1}).json()
    assert [row["user"] for row in answer["recommendations"]] == ["user-1", "nobody"]
    (warning,) = answer["warnings"]
    assert "('nobody'). They get popular items." in warning
    (warning,) = client.post("/history", json={"history": ["item-1", "gone"], "because": 1}).json()["warnings"]
    assert "'gone'" in warning


def test_requests_that_wait_are_computed_together(
    connect: Connect, recommender: Recommender, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Among them are users who are unknown, or asked for twice, and one request with another ``k``."""
    names = [*(f"user-{n}" for n in range(1, 13)), "user-1", "nobody"]
    wanted = {name: as_json(recommender.recommend([name], columns=["title"])) for name in names[:-1]}
    computed: list[int] = []
    recommend = Recommender.recommend

    def slowly(self: Recommender, users: Any, **options: Any) -> pl.DataFrame:
        computed.append(len(users))
        time.sleep(0.3 if len(computed) == 1 else 0)
        return recommend(self, users, **options)

    client = connect()
    monkeypatch.setattr(Recommender, "recommend", slowly)
    with ThreadPoolExecutor(20) as pool:
        other = pool.submit(client.post, "/recommend", json={"users": ["user-3"], "k": 1})
        answers = [*pool.map(lambda name: client.post("/recommend", json={"users": [name]}), names)]
    assert len(other.result().json()["recommendations"]) == 1
    assert max(computed) > 2
    for name, answer in zip(names[:-1], answers):
        found = answer.json()["recommendations"]
        assert [row["item"] for row in found] == [row["item"] for row in wanted[name]]
        assert [row["score"] for row in found] == pytest.approx([row["score"] for row in wanted[name]], abs=1e-5)
        assert answer.json()["warnings"] == []
    assert answers[-1].status_code == 404
    assert "1 of 1 users" in answers[-1].json()["error"]
    # Without an unknown user among them, there is one computation for all that waited.
    computed.clear()
    with ThreadPoolExecutor(20) as pool:
        answers = [*pool.map(lambda name: client.post("/recommend", json={"users": [name]}), names[:12])]
    assert [a.json()["recommendations"][0]["user"] for a in answers] == names[:12]
    assert sum(computed) == 12
    assert len(computed) < 12


def test_only_long_computations_and_several_requests_need_a_thread(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[str] = []
    recommend = Recommender.recommend

    def noting_thread(self: Recommender, *args: Any, **options: Any) -> pl.DataFrame:
        threads.append(threading.current_thread().name)
        return recommend(self, *args, **options)

    client = connect()
    monkeypatch.setattr(Recommender, "recommend", noting_thread)
    answers = []
    for limit in (math.inf, 0.0):
        monkeypatch.setattr(batches, "_SHORT", limit)
        answers.append(client.post("/recommend", json={"users": ["user-1"]}).json())
    assert [name.startswith("compute") for name in threads] == [False, True]
    assert answers[0] == answers[1]


def test_any_kind_of_valid_request_has_the_same_answer(connect: Connect) -> None:
    """The usual one is answered without FastAPI."""
    client = connect()
    body = json.dumps({"users": ["user-1"], "k": 3, "max_per": {"stock": 2}})
    kinds = ("application/json", "application/json; charset=utf-8")
    answers = [client.post("/recommend", content=body, headers={"Content-Type": kind}) for kind in kinds]
    assert answers[0].status_code == 200
    assert answers[0].json() == answers[1].json()
    count = 'lirdrec_request_seconds_count{endpoint="/recommend",status="200"} 2.0'
    assert count in client.get("/metrics").text.splitlines()


REFUSED: list[tuple[str, Any, int, str]] = [
    ("recommend", {"users": ["nobody"]}, 404, "'nobody'"),
    ("recommend", {"users": ["user-1", "nobody"], "fallback": "error"}, 404, "'nobody'"),
    ("recommend", {"users": ["\ud800"]}, 404, "user IDs"),
    ("recommend", {"users": ["user-1"], "candidates": ["gone"]}, 404, "'gone'"),
    ("recommend", {"users": ["user-1"], "k": 4}, 422, "`k` is invalid"),
    ("recommend", {"users": ["user-1"], "k": 0}, 422, "`k` is invalid"),
    ("recommend", {"users": ["user-1"], "k": True}, 422, "`k` is invalid"),
    ("recommend", {"users": ["a", "b", "c"]}, 422, "`users` is invalid"),
    ("recommend", {"users": []}, 422, "`users` is invalid: it is empty"),
    ("recommend", {"users": [None]}, 422, "`users.0` is invalid"),
    ("recommend", {}, 422, "`users` is invalid: it is missing"),
    ("history", {"history": {"nobody": ["gone"]}, "fallback": "error"}, 404, "1 users have neither"),
    ("recommend", {"users": ["user-1"], "fallback": "best"}, 422, "`fallback` is invalid"),
    ("recommend", {"users": ["user-1"], "bogus": 1}, 422, "`bogus` is invalid: this request has no such field"),
    ("recommend", {"users": ["user-1"], "columns": ["price"]}, 422, "'price'"),
    ("recommend", {"users": ["user-1"], "where": "stock >"}, 422, "`where`"),
    ("recommend", {"users": ["user-1"], "popularity_penalty": -1}, 422, "`popularity_penalty`"),
    ("recommend", ["user-1"], 422, "JSON object"),
    ("history", {"history": ["gone"]}, 404, "'gone'"),
    ("history", {"history": {}}, 422, "`history` is invalid"),
    ("history", {"history": "item-1"}, 422, "`history` is invalid: Input should be a valid list or a valid dictionary"),
    ("similar", {"item": "gone"}, 404, "'gone'"),
    ("similar", {"item": "item-1", "by": "sound"}, 422, "'sound'"),
    ("explain", {"user": "user-1", "item": "gone"}, 404, "'gone'"),
    ("items", {"items": [{"id": "item-1", "features": {"image": [1.0]}}]}, 422, "'item-1' has 1 numbers"),
    ("items", {"items": [{"id": "new", "features": {"sound": [1.0]}}]}, 422, "'sound'"),
    ("items", {"items": [{"id": "new", "features": {}}]}, 422, "`items.0.features` is invalid"),
    ("similar", {"item": 1.5}, 422, "`item` is invalid"),
    ("nowhere", {}, 404, "Not Found: the endpoints are listed at /docs"),
    ("health", {}, 405, "Method Not Allowed: /health takes GET"),
]


def test_each_mistake_is_one_clear_error(connect: Connect) -> None:
    client = connect(max_k=3, max_users=2)
    for path, body, status, named in REFUSED:
        answer = client.post(f"/{path}", content=json.dumps(body), headers={"Content-Type": "application/json"})
        assert (answer.status_code, [*answer.json()]) == (status, ["error"]), (path, body, answer.text)
        assert named in answer.json()["error"]
    for content in (b"{", b"\xff", b"[" * 100_000, b""):
        answer = client.post("/recommend", content=content, headers={"Content-Type": "application/json"})
        assert answer.status_code in (400, 422)
        assert [*answer.json()] == ["error"]
    bare = client.post("/recommend", content=b'{"users": ["user-1"]}')
    assert "Content-Type: application/json" in bare.json()["error"]


def test_large_bodies_are_refused_whether_or_not_their_size_is_given(connect: Connect) -> None:
    client = connect(max_body=1)
    body = b'{"users": ["user-1"]' + b" " * 1003 + b"}"
    header = {"Content-Type": "application/json"}
    assert len(body) == 1024
    assert client.post("/recommend", content=body, headers=header).status_code == 200
    for content in (body + b" ", iter([body, b" "])):
        answer = client.post("/recommend", content=content, headers=header)
        assert (answer.status_code, answer.json()) == (413, {"error": "The body is larger than 1 KiB."})


def test_only_the_token_opens_the_service(connect: Connect) -> None:
    client = connect(token="secret")
    body = {"users": ["user-1"]}
    for header in (
        {},
        {"Authorization": "Bearer secre"},
        {"Authorization": "secret"},
        {"Authorization": b"Bearer \xff"},
    ):
        refused = client.post("/recommend", json=body, headers=header)
        assert (refused.status_code, refused.headers["www-authenticate"]) == (401, "Bearer")
        assert client.get("/metrics", headers=header).status_code == 401
        assert client.get("/health", headers=header).json()["status"] == "ok"
    assert client.post("/recommend", json=body, headers={"Authorization": "Bearer secret"}).status_code == 200
    assert "HTTPBearer" in client.get("/openapi.json").json()["components"]["securitySchemes"]


def test_a_bug_is_one_line_of_the_log_and_no_secret_of_the_answer(
    connect: Connect, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("internals\nsecond line")

    client = connect()
    for name in ("similar_items", "recommend"):
        monkeypatch.setattr(Recommender, name, fail)
    for path, body in (("similar", {"item": "item-1"}), ("recommend", {"users": ["user-1"]})):
        answer = client.post(f"/{path}", json=body)
        assert (answer.status_code, [*answer.json()]) == (500, ["error"])
        assert "internals" not in answer.text
    lines = [record.getMessage() for record in caplog.records if record.name.startswith("lirdrec_pyg.service")]
    assert lines == [f"/{path} failed: RuntimeError: internals" for path in ("similar", "recommend")]
    assert client.get("/health").status_code == 200


def test_columns_that_json_cannot_hold_are_refused(connect: Connect, trained: Recommender, tmp_path: Path) -> None:
    catalog = pl.DataFrame({"item_id": trained.items.ids, "bytes": [b"\xff"] * len(trained.items)})
    trained.with_catalog(catalog).save(tmp_path / "run")
    client = connect(tmp_path / "run")
    answer = client.post("/recommend", json={"users": ["user-1"], "columns": ["bytes"]})
    assert (answer.status_code, "no form in JSON" in answer.json()["error"]) == (422, True)


def test_rules_and_errors_are_described_and_requests_are_counted(connect: Connect) -> None:
    client = connect()
    described = client.get("/openapi.json").json()
    for body in ("Users", "History"):
        assert {field.name for field in fields(Rules)} <= described["components"]["schemas"][body]["properties"].keys()
    paths = ["recommend", "history", "similar", "explain", "items", "health", "metrics"]
    paths += ["about", "catalog", "users", "image"]
    assert {f"/{path}" for path in paths} == described["paths"].keys()
    assert client.get("/docs").status_code == 200
    client.post("/recommend", json={"users": ["user-1"]})
    client.post("/recommend", json={"users": ["nobody"]})
    client.get("/anything/that/a/client/sends")
    lines = client.get("/metrics").text.splitlines()
    for endpoint, status in (("/recommend", 200), ("/recommend", 404), ("other", 404)):
        assert f'lirdrec_request_seconds_count{{endpoint="{endpoint}",status="{status}"}} 1.0' in lines
    run = client.get("/health").json()["run"]
    (loaded,) = [line for line in lines if line.startswith(f'lirdrec_run_loaded_timestamp_seconds{{run="{run}"}}')]
    assert float(loaded.split()[-1]) == pytest.approx(time.time(), abs=100)


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def wait_for(client: TestClient, name: str) -> None:
    wait_until(lambda: client.get("/health").json()["run"].startswith(name))


def test_runs_are_replaced_under_load_and_never_mixed(
    connect: Connect, runs: tuple[Path, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    users = [f"user-{n}" for n in range(1, 9)]
    best = {}
    for run in runs:
        frame = Recommender.load(run).recommend(users, k=3)
        best[run.name] = {user: part["item"].to_list() for (user,), part in frame.group_by("user")}
    link = tmp_path / "current"
    promote(runs[0], link)
    client = connect(link, poll_seconds=0.02)
    seen: set[str] = set()
    done = False

    def ask(user: str) -> int:
        count = 0
        while not done:
            answer = client.post("/recommend", json={"users": [user], "k": 3})
            name = answer.json()["run"].split("@")[0]
            assert [row["item"] for row in answer.json()["recommendations"]] == best[name][user]
            seen.add(name)
            count += 1
        return count

    with ThreadPoolExecutor(8) as pool:
        counts = [pool.submit(ask, user) for user in users]
        try:
            for run in (runs[1], runs[0], runs[1]):
                promote(run, link)
                wait_for(client, run.name)
        finally:
            done = True
        assert all(count.result() > 0 for count in counts)
    assert seen == {"one", "other"}
    # A broken run is reported once, and the one before stays.
    promote(tmp_path / "gone", link)
    wait_until(lambda: "lirdrec_reload_failures_total 1.0" in client.get("/metrics").text)
    time.sleep(0.1)
    assert client.get("/health").json()["run"].startswith("other@")
    (line,) = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert "Still serving other@" in line
    assert str(tmp_path / "gone") in line
    promote(runs[0], link)
    wait_for(client, "one")


def test_a_folder_that_is_written_again_is_loaded(connect: Connect, runs: tuple[Path, Path], tmp_path: Path) -> None:
    Recommender.load(runs[0]).save(tmp_path / "run")
    client = connect(tmp_path / "run", poll_seconds=0.02)
    before = client.get("/health").json()["run"]
    Recommender.load(runs[1]).save(tmp_path / "run", overwrite=True)
    wait_until(lambda: client.get("/health").json()["run"] != before)
    expected = Recommender.load(runs[1]).recommend(["user-1"], columns=["title"])
    answer = client.post("/recommend", json={"users": ["user-1"]}).json()
    assert answer["recommendations"] == as_json(expected)


def test_items_are_added_and_outlive_the_run(
    connect: Connect, runs: tuple[Path, Path], recommender: Recommender, tmp_path: Path
) -> None:
    link = tmp_path / "current"
    promote(runs[0], link)
    client = connect(link, poll_seconds=0.02)
    new, whole = ["n1", "item-2 "], vectors(recommender, 3)
    items = [{"id": new[0], "features": whole}, {"id": new[1], "features": {"text": whole["text"]}}]
    answer = client.post("/items", json={"items": items})
    assert (answer.status_code, answer.json()["added"]) == (200, 2)
    assert answer.json()["run"].endswith("+2")
    (warning,) = answer.json()["warnings"]
    assert "'item-2 '" in warning
    wanted = {"users": ["user-1"], "candidates": new}
    found = client.post("/recommend", json=wanted).json()
    assert sorted(row["item"] for row in found["recommendations"]) == sorted(new)
    near = client.post("/similar", json={"item": "n1", "by": "image", "k": 1}).json()["similar"]
    assert near[0]["item"] == recommender.items.ids[3]
    zeros = {"image": [0.0] * len(whole["image"])}
    blank = client.post("/items", json={"items": [{"id": "n3", "features": whole}, {"id": "n4", "features": zeros}]})
    assert (blank.status_code, "row 1 (rows count from 0), item 'n4'" in blank.json()["error"]) == (422, True)
    again = client.post("/items", json={"items": items[:1]})
    assert (again.status_code, "'n1'" in again.json()["error"]) == (422, True)
    promote(runs[1], link)
    wait_for(client, "other")
    found = client.post("/recommend", json=wanted).json()
    assert sorted(row["item"] for row in found["recommendations"]) == sorted(new)
    assert found["run"].endswith("+2")


def test_several_processes_take_no_items(connect: Connect, recommender: Recommender) -> None:
    body = {"items": [{"id": "new", "features": vectors(recommender, 3)}]}
    answer = connect(workers=2).post("/items", json=body)
    assert (answer.status_code, "`workers`" in answer.json()["error"]) == (422, True)
