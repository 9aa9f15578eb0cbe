"""The page's endpoints find items and users, and show no file outside the folder of the images."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import polars as pl
import pytest
from commands import assert_refused, lirdrec
from fastapi.testclient import TestClient
from PIL import Image

import lirdrec_pyg
from lirdrec_pyg import EASEConfig, Recommender, TrainingConfig, fit
from lirdrec_pyg.datasets import synthetic_data
from lirdrec_pyg.service import LiveRun

Connect = Callable[..., TestClient]
PAGE = Path(lirdrec_pyg.__file__).parent / "service" / "page"


def found(client: TestClient, path: str, **parameters: Any) -> list[dict[str, Any]]:
    answer = client.get(path, params=parameters)
    assert answer.status_code == 200, answer.text
    rows: list[dict[str, Any]] = answer.json()["users" if path == "/users" else "items"]
    return rows


def test_items_are_found_by_words_and_ids(connect: Connect, recommender: Recommender) -> None:
    client, popularity = connect(), dict(zip(recommender.items.ids, recommender.popularity.tolist()))
    by_popularity = sorted(popularity, key=lambda item: -popularity[item])  # a stable order
    pages = [row for start in range(0, 70, 7) for row in found(client, "/catalog", start=start, k=7)]
    assert pages == [{"item": item, "interactions": popularity[item], "title": f"the {item}"} for item in by_popularity]
    for text in ("ITEM-1", "1 the", " 2  ITEM ", "em-5", "no such", "item-1"):
        expected = [item for item in by_popularity if all(word in f"the {item}" for word in text.lower().split())]
        exact = [text] if text in popularity else []
        items = [row["item"] for row in found(client, "/catalog", text=text)]
        assert items == exact + [item for item in expected if item not in exact], text
        assert items[2:5] == [row["item"] for row in found(client, "/catalog", text=text, start=2, k=3)]
    user = recommender.users.ids[0]
    taken = {row["item"] for row in found(client, "/catalog", user=user, columns="stock")}
    everything = recommender.recommend([user], k=60, exclude_seen=False)["item"]
    assert taken == {*everything} - {*recommender.recommend([user], k=60)["item"]}
    assert {row["item"] for row in found(client, "/catalog", user=user, text="1")} == {x for x in taken if "1" in x}


def test_users_are_found_by_ids(connect: Connect, recommender: Recommender) -> None:
    client, ids = connect(), recommender.users.ids.to_list()
    assert [row["user"] for row in found(client, "/users")] == ids
    wanted = ["user-1", *(user for user in ids if "user-1" in user and user != "user-1")]
    rows = found(client, "/users", text="user-1")
    assert [row["user"] for row in rows] == wanted
    assert rows[0]["interactions"] == len(found(client, "/catalog", user="user-1"))


@pytest.mark.parametrize(
    ("path", "status", "named"),
    [
        ("catalog?user=nobody", 404, "'nobody'"),
        ("catalog?columns=price", 422, "'price'"),
        ("catalog?k=501", 422, "`k`"),
        ("catalog?start=-1", 422, "`start`"),
        ("image", 422, "`item`"),
        ("image?item=gone", 404, "'gone'"),
        ("image?item=item-1&width=9999", 422, "`width`"),
        ("compared/recommend", 404, "Not Found"),
    ],
)
def test_each_mistake_is_one_clear_error(connect: Connect, path: str, status: int, named: str) -> None:
    answer = connect().get(f"/{path}")
    assert (answer.status_code, [*answer.json()]) == (status, ["error"]), answer.text
    assert named in answer.json()["error"]


def test_the_run_tells_what_it_can_do(connect: Connect, trained: Recommender, tmp_path: Path) -> None:
    about = connect().get("/about").json()
    assert (about["users"], about["items"], about["title"], about["compared"]) == (40, 60, "title", None)
    assert (about["modalities"], about["images"], about["max_k"]) == (["image", "text"], False, 500)
    assert about["columns"] == [{"name": "stock", "type": "number", "values": [0.0, 2.0]}]
    assert about["can"] == {"vectors": True, "because": True, "history": True, "diversity": True}
    catalog = pl.DataFrame(
        {
            "item_id": trained.items.ids,
            "genres": ["Drama, War", "War", "Drama, Romance"] * 20,
            "brand": ["B", "A", "B"] * 20,
            "plot": [f"{n} long, " * 20 for n in range(60)],
            "price": [float("inf")] * 60,
            "score": [1.0] * 60,
            "bytes": [b"\xff"] * 60,
            "tags": [["a"]] * 60,
            "nothing": pl.Series([None] * 60, dtype=pl.String),
        }
    )
    trained.with_catalog(catalog).save(tmp_path / "run")
    assert connect(tmp_path / "run").get("/about").json()["columns"] == [
        {"name": "genres", "type": "list", "values": ["Drama", "War", "Romance"]},
        {"name": "brand", "type": "text", "values": ["B", "A"]},
        {"name": "plot", "type": "text", "values": []},
        {"name": "price", "type": "number", "values": []},
        {"name": "nothing", "type": "number", "values": []},
    ]
    bare = fit(synthetic_data(40, 60), EASEConfig(), TrainingConfig(device="cpu"))
    bare.save(tmp_path / "bare")
    about = connect(tmp_path / "bare").get("/about").json()
    assert about["can"] == {"vectors": False, "because": True, "history": False, "diversity": True}


def test_a_second_run_answers_beside_the_first(connect: Connect, runs: tuple[Path, Path]) -> None:
    client = connect(compared=LiveRun(runs[1]))
    loaded = client.get("/metrics").text
    about = client.get("/about").json()["compared"]
    assert about["run"].startswith("other@")
    for path, body in (("recommend", {"users": ["user-1"]}), ("history", {"history": ["item-1"], "because": 1})):
        first, second = (client.post(f"/{prefix}{path}", json=body).json() for prefix in ("", "compared/"))
        assert second == connect(runs[1]).post(f"/{path}", json=body).json()
        assert first["run"] != second["run"]
        assert all(
            f'lirdrec_run_loaded_timestamp_seconds{{run="{answer["run"]}"}}' in loaded for answer in (first, second)
        )


def images_of(trained: Recommender, folder: Path, entries: dict[str, str], root: Path) -> Path:
    """Save a run whose first items have these entries as images; return its folder."""
    ids = trained.items.ids
    pictures = [*entries.values(), *[None] * (len(ids) - len(entries))]
    frame = pl.DataFrame({"item_id": ids, "picture": pl.Series(pictures, dtype=pl.String)})
    catalog = lirdrec_pyg.data.ItemCatalog.of(frame, image_root=str(root))
    trained.with_catalog(catalog).save(folder)
    return folder


def test_no_file_outside_the_image_folder_is_served(connect: Connect, trained: Recommender, tmp_path: Path) -> None:
    root = tmp_path / "images"
    (root / "sub").mkdir(parents=True)
    for path, color in ((root / "ok.png", "red"), (tmp_path / "secret.png", "blue")):
        Image.new("RGB", (50, 20), color).save(path)
    (root / "link.png").symlink_to(tmp_path / "secret.png")
    (root / "out").symlink_to(tmp_path)
    outside = {
        "parent": "../secret.png",
        "below": "sub/../../secret.png",
        "absolute": str(tmp_path / "secret.png"),
        "link": "link.png",
        "link folder": "out/secret.png",
        "encoded": "%2e%2e/secret.png",
        "encoded slash": "..%2fsecret.png",
        "backslash": "..\\secret.png",
        "null byte": "ok.png\0",
        "null byte before": "../secret.png\0ok.png",
        "address": f"file://{tmp_path}/secret.png",
        "folder": ".",
        "none": "",
        "long": "x" * 5000,
    }
    run = images_of(trained, tmp_path / "run", {"ok": "ok.png", **outside}, root)
    client, ids = connect(run), trained.items.ids
    image = client.get("/image", params={"item": ids[0], "width": 25})
    assert (image.status_code, image.headers["content-type"]) == (200, "image/jpeg")
    for kind, item in zip(outside, ids[1:]):
        answer = client.get("/image", params={"item": item})
        assert (answer.status_code, answer.content) == (204, b""), kind
    assert client.get("/image", params={"item": ids[-1]}).status_code == 204
    for path in outside.values():
        for address in (f"/image?item={quote(path)}", f"/{quote(path)}", f"/page.js/{quote(path, safe='')}"):
            answer = client.get(address)
            assert not answer.headers["content-type"].startswith("image"), address
    # A client that has it need not get it again.
    headers = {"If-None-Match": image.headers["etag"]}
    again = client.get("/image", params={"item": ids[0], "width": 25}, headers=headers)
    assert (again.status_code, again.content) == (304, b"")
    # Another folder.
    (tmp_path / "moved").mkdir()
    moved = connect(run, image_root=str(tmp_path / "moved"))
    assert moved.get("/image", params={"item": ids[0]}).status_code == 204
    assert_refused(lirdrec("serve", run, "--image-root", tmp_path / "gone"), "--image-root", "not a folder")


def test_a_drawing_runs_no_script(connect: Connect, trained: Recommender, tmp_path: Path) -> None:
    drawing = "data:image/svg+xml,<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>"
    split = "data:image/png\r\nSet-Cookie: a=b;base64,AAAA"
    page = "data:text/html,<script>alert(1)</script>"
    run = images_of(trained, tmp_path / "run", {"drawing": drawing, "split": split, "page": page}, tmp_path)
    client, ids = connect(run), trained.items.ids
    answer = client.get("/image", params={"item": ids[0]})
    assert answer.headers["content-type"] == "image/svg+xml"
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert policy.endswith("sandbox")
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert [client.get("/image", params={"item": item}).status_code for item in ids[1:3]] == [204, 204]


def test_the_page_is_strict_and_shows_no_data(connect: Connect) -> None:
    client = connect(token="secret")
    for path, kind in (("/", "html"), ("/page.css", "css"), ("/page.js", "javascript")):
        answer = client.get(path)
        assert (answer.status_code, kind in answer.headers["content-type"]) == (200, True)
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert {"default-src 'none'", "script-src 'self'", "style-src 'self'", "img-src 'self' data:"} <= {
            *answer.headers["content-security-policy"].split("; ")
        }
        assert "item-1" not in answer.text
    for path in ("about", "catalog", "users", "image?item=item-1"):
        assert client.get(f"/{path}").status_code == 401
    script = (PAGE / "page.js").read_text(encoding="utf-8")
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function", script)
    assert not re.search(r"https?://(?!www\.w3\.org)", script + (PAGE / "index.html").read_text(encoding="utf-8"))
