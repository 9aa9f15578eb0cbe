"""The page in a real browser: what people do with it, by mouse, by keyboard and on a narrow screen."""

import os
import re
import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import uvicorn
from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright

from lirdrec_pyg import EASEConfig, LIRDRecConfig, Recommender, TrainingConfig, fit
from lirdrec_pyg.datasets import synthetic_data
from lirdrec_pyg.service import LiveRun, ServiceConfig
from lirdrec_pyg.service.app import create_app

CHROMIUM = shutil.which("chromium")
if CHROMIUM is None and os.environ.get("LIRDREC_REQUIRE_CHROMIUM"):
    raise RuntimeError("LIRDREC_REQUIRE_CHROMIUM is set, but chromium is not installed.")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed"),
]

ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--renderer-process-limit=1",
    "--disable-site-isolation-trials",
]
expect.set_options(timeout=30_000)  # a busy machine
HOSTILE = "<script>window.hacked = 1</script><img src=x onerror='window.hacked = 1'>"
NUM_ITEMS = 1100

Open = Callable[..., Page]


@contextmanager
def serving(run: Path, compared: Path | None = None, token: str | None = None) -> Iterator[str]:
    """Serve a run from a thread, and yield the address of its page."""
    app = create_app(LiveRun(run), ServiceConfig(), token, compared and LiveRun(compared))
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, access_log=False))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
        finally:
            server.should_exit = True
            thread.join(60)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Runs of drawn items, the most popular with a hostile title: two to compare, and one without vectors."""
    folder, dataset = tmp_path_factory.mktemp("runs"), synthetic_data(60, NUM_ITEMS)
    one = fit(dataset, LIRDRecConfig(embedding_dim=8), TrainingConfig(epochs=1, device="cpu"))
    worst = one.items.ids[int(one.popularity.argmax())]
    frame = one.catalog_rows.with_columns(
        title=pl.when(pl.col("id") == worst).then(pl.lit(HOSTILE)).otherwise(pl.col("title"))
    )
    one = one.with_catalog(frame)
    swapped = replace(one, vectors=replace(one.vectors, user=one.vectors.user.roll(1, 0)))
    # Drawing a thousand images would take a browser without a GPU half a minute.
    bare = fit(dataset, EASEConfig(), TrainingConfig(device="cpu")).with_catalog(frame.drop("image"))
    runs = {"one": one, "swapped": swapped, "bare": bare}
    for name, recommender in runs.items():
        recommender.save(folder / name)
    return {name: folder / name for name in runs}


@pytest.fixture(scope="module")
def address(folders: dict[str, Path]) -> Iterator[str]:
    with serving(folders["one"], folders["swapped"]) as found:
        yield found


@pytest.fixture(scope="module")
def one(folders: dict[str, Path]) -> Recommender:
    return Recommender.load(folders["one"])


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def visit(browser: Browser, address: str) -> Iterator[Open]:
    """``visit("#view=users")`` opens a view; the page must not complain, except of requests that are refused."""
    complaints: list[str] = []

    def visit(view: str = "", width: int = 1280, base: str = address) -> Page:
        page = browser.new_context(viewport={"width": width, "height": 800}, reduced_motion="reduce").new_page()
        page.set_default_timeout(20_000)
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(base + view)
        return page

    yield visit
    for context in browser.contexts:
        context.close()
    assert [text for text in complaints if not re.search("status of 4(01|04|22)|TrustedHTML", text)] == []


def texts(found: Locator) -> list[str]:
    return [text.strip() for text in found.all_text_contents()]


def shown_items(page: Page, run: int = 0) -> list[str]:
    """Return the items of a list of recommendations, the first or the second."""
    rows = page.locator(".sides > section").nth(run).locator(".row")
    return [str(row.get_attribute("data-item")) for row in rows.all()]


def wait_for_items(page: Page, items: list[str]) -> None:
    page.wait_for_function(
        "items => items.join() === [...document.querySelectorAll('.row')].map(row => row.dataset.item).join()",
        arg=items,
    )


def ranked(recommender: Recommender, history: list[str], **options: Any) -> list[str]:
    items: list[str] = recommender.recommend_for_history(history, **options)["item"].to_list()
    return items


def test_people_search_open_an_item_and_come_back(visit: Open, one: Recommender) -> None:
    page = visit()
    tiles = page.locator(".grid .tile")
    expect(tiles).to_have_count(50)
    # Images are loaded when they come near, and let go when they are far.
    for count in (50, 100):
        expect(tiles.nth(count - 1)).to_be_attached()
        page.wait_for_function("() => scrollTo(0, 0) || document.querySelector('.grid img').naturalWidth > 0")
        page.evaluate("scrollTo(0, document.documentElement.scrollHeight)")
    page.wait_for_function("() => document.querySelector('.grid img').naturalWidth === 0")
    # The most popular one is first, and its name is nothing but text.
    assert texts(tiles.first.locator("strong")) == [HOSTILE]
    assert page.evaluate("window.hacked") is None
    with pytest.raises(Exception, match="TrustedHTML"):
        page.evaluate("document.body.innerHTML = '<b>no</b>'")
    page.get_by_role("searchbox").fill("RED circle")
    expect(tiles.first).to_contain_text("red")
    expected = one.catalog_rows.filter(pl.col("title").str.contains("red") & pl.col("title").str.contains("circle"))
    expect(tiles).to_have_count(min(50, len(expected)))
    assert {*texts(tiles.locator("strong"))} <= {*expected["title"]}
    name = tiles.nth(3).locator("strong").inner_text()
    tiles.nth(3).click()
    expect(page.get_by_role("heading", level=1)).to_have_text(name)
    expect(page.locator(".about dd").first).to_be_visible()
    expect(page.locator("ol.grid li")).to_have_count(24)
    item = page.evaluate("new URLSearchParams(location.hash.slice(1)).get('item')")
    similar = one.similar_items(item, 24, "image", ["title"])
    page.get_by_label("image", exact=True).check()
    expect(page.locator("ol.grid strong")).to_have_text(similar["title"].to_list())
    page.go_back()
    expect(page.get_by_role("searchbox")).to_have_value("RED circle")
    expect(tiles.nth(3)).to_contain_text(name)
    page.get_by_role("searchbox").fill("no such thing")
    expect(page.get_by_role("status")).to_have_text("No item matches “no such thing”.")


def test_a_thousand_items_are_scrolled(visit: Open, folders: dict[str, Path]) -> None:
    with serving(folders["bare"]) as address:
        page = visit(base=address)
        tiles = page.locator(".grid .tile")
        for count in range(50, NUM_ITEMS, 50):
            expect(tiles.nth(count - 1)).to_be_attached()
            page.evaluate("scrollTo(0, document.documentElement.scrollHeight)")
        expect(tiles).to_have_count(NUM_ITEMS)
        links = tiles.evaluate_all("links => links.map(link => link.href)")
        assert len(set(links)) == NUM_ITEMS
        expect(page.get_by_role("button", name="Show more")).to_have_count(0)
        page.close()


def test_recommendations_of_a_user_have_reasons_and_obey_filters(visit: Open, one: Recommender) -> None:
    user = one.users.ids[2]
    page = visit("#view=users")
    page.get_by_role("searchbox").fill(user)
    page.get_by_role("link", name=re.compile(f"^{user}\\b")).first.click()
    first = one.because(one.recommend([user]), 2).row(0, named=True)
    wait_for_items(page, one.recommend([user])["item"].to_list())
    reasons = page.locator(".row").first.locator(".reasons li")
    assert texts(reasons.locator("a")) == [first["because_1_title"], first["because_2_title"]]
    history = page.get_by_role("list", name="Items of this user").locator("li")
    expect(history).to_have_count(int(one.seen.start.diff()[2]))
    page.locator("summary").click()
    page.get_by_label("Add a condition").select_option(label="blue")
    expect(page.get_by_label("Only items that meet a condition")).to_have_value("color = 'blue'")
    page.get_by_label("column").select_option("shape")
    page.get_by_label("Leave out items of the history").uncheck()
    options: dict[str, Any] = {"where": "color = 'blue'", "max_per": {"shape": 2}, "exclude_seen": False}
    wait_for_items(page, one.recommend([user], **options)["item"].to_list())
    page.get_by_label("Rank popular items lower").focus()
    page.keyboard.press("End")
    page.get_by_label("Variety").focus()
    page.keyboard.press("ArrowRight")
    both = one.recommend([user], popularity_penalty=2.0, diversity=0.05, **options)["item"].to_list()
    wait_for_items(page, both)
    # The view is in the address.
    again = visit(page.url.partition("/#")[2].join(("#", "")))
    expect(again.locator(".row")).to_have_count(len(both))
    assert shown_items(again) == both
    page.get_by_label("Only items that meet a condition").fill("colour = 'blue'")
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("colour")
    page.get_by_role("button", name="Reset").click()
    wait_for_items(page, one.recommend([user])["item"].to_list())


def test_a_list_follows_the_history_of_a_new_person(visit: Open, one: Recommender) -> None:
    page = visit("#view=new")
    choices = page.locator(".grid button.tile")
    items = [str(choices.nth(n).get_attribute("data-item")) for n in range(3)]
    for n, history in enumerate((items[:1], items[:2], items)):
        choices.nth(n).click()
        expect(page.locator(".chips li")).to_have_count(n + 1)
        expected = ranked(one, history)
        expect(page.locator(".row").first).to_have_attribute("data-item", expected[0])
        expect(page.get_by_role("status")).to_have_text("20 recommendations")
        wait_for_items(page, expected)
    expect(choices.nth(1)).to_have_attribute("aria-pressed", "true")
    page.locator(".row").first.get_by_role("button").click()
    expect(page.locator(".chips li")).to_have_count(4)
    expect(page.get_by_role("heading", name="Recommended")).to_be_focused()
    page.go_back()
    expect(page.locator(".chips li")).to_have_count(3)
    page.get_by_role("button", name=f"Remove {HOSTILE}").click()
    expected = ranked(one, items[1:])
    wait_for_items(page, expected)
    page.get_by_role("button", name="Start over").click()
    expect(page.locator(".row")).to_have_count(0)
    assert page.evaluate("window.hacked") is None


def test_two_runs_stand_side_by_side(visit: Open, one: Recommender, folders: dict[str, Path]) -> None:
    user, other = one.users.ids[2], Recommender.load(folders["swapped"])
    page = visit(f"#view=user&user={user}")
    page.get_by_label("Compare with swapped").check()
    expect(page.locator(".row")).to_have_count(40)
    lists = [run.recommend([user])["item"].to_list() for run in (one, other)]
    assert [shown_items(page, 0), shown_items(page, 1)] == lists
    assert texts(page.locator(".summary")) == [f"{len({*lists[0]} & {*lists[1]})} of 20 items are in both lists."]
    for run, items in enumerate(lists):
        rows = page.locator(".sides > section").nth(run).locator(".row")
        for row, item in zip(rows.all(), items):
            only = row.locator(".mark.only").count()
            assert only == (item not in lists[1 - run])
    page.goto(page.url.partition("#")[0] + f"#view=new&compare=1&item={lists[0][0]}")
    expect(page.locator(".row")).to_have_count(40)
    assert shown_items(page, 1) == ranked(other, lists[0][:1])


def test_everything_is_reached_by_the_keyboard(visit: Open, one: Recommender) -> None:
    page = visit()
    expect(page.locator(".grid .tile")).to_have_count(50)

    def press(*keys: str) -> None:
        for key in keys:
            page.keyboard.press(key)

    press("Tab")
    expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    press("Tab", "Tab", "Tab")
    expect(page.get_by_role("link", name="New person")).to_be_focused()
    press("Enter")
    expect(page.get_by_role("heading", level=1)).to_be_focused()
    press("Tab")
    expect(page.get_by_role("searchbox")).to_be_focused()
    page.keyboard.type("star")
    stars = one.catalog_rows.filter(pl.col("title").str.contains("star"))
    expect(page.locator(".grid strong").first).to_contain_text("star")
    press("Tab", "Space")
    chosen = page.locator(".grid button.tile").first
    expect(chosen).to_be_focused()
    expect(chosen).to_have_attribute("aria-pressed", "true")
    item = str(chosen.get_attribute("data-item"))
    assert item in stars["id"].to_list()
    expect(page.get_by_role("status")).to_have_text("20 recommendations")
    wait_for_items(page, ranked(one, [item]))
    outline = chosen.evaluate("node => getComputedStyle(node).outlineStyle")
    assert outline == "solid"
    page.get_by_role("link", name="Items").focus()
    press("Enter")
    expect(page.get_by_role("heading", level=1)).to_have_text("Items")


def test_narrow_screens_need_no_sideways_scrolling(visit: Open, one: Recommender) -> None:
    user, item = one.users.ids[2], one.items.ids[int(one.popularity.argmax())]
    views = ["", "#view=users", f"#view=user&compare=1&where=stock&user={user}", f"#view=item&item={item}"]
    page = visit(width=400)
    for view in [*views, f"#view=new&compare=1&item={item}"]:
        page.goto(page.url.partition("#")[0] + view)
        page.wait_for_load_state("networkidle")
        expect(page.get_by_role("heading", level=1)).to_be_visible()
        assert page.evaluate("document.documentElement.scrollWidth") <= 400, view


def test_the_token_is_asked_for_once(visit: Open, folders: dict[str, Path]) -> None:
    with serving(folders["one"], token="secret") as address:
        page = visit(base=address)
        for token, problem in (("wrong", False), ("secret", True)):
            expect(page.get_by_role("dialog")).to_be_visible()
            expect(page.get_by_text("This token is wrong.")).to_be_visible(visible=problem)
            page.get_by_role("textbox", name="Token").fill(token)
            page.keyboard.press("Enter")
        expect(page.locator(".grid .tile")).to_have_count(50)
        image = page.locator(".grid img").first
        expect(image).to_have_attribute("src", re.compile("^data:image/svg"))
        page.reload()
        expect(page.locator(".grid .tile")).to_have_count(50)
        page.close()


def test_only_what_the_model_can_do_is_offered(visit: Open, folders: dict[str, Path]) -> None:
    with serving(folders["bare"]) as address:
        page = visit("#view=user&user=nobody", base=address)
        expect(page.locator(".note")).to_contain_text("popular items")
        expect(page.locator(".row")).to_have_count(20)
        expect(page.get_by_role("navigation").get_by_role("link")).to_have_text(["Items", "Users"])
        page.goto(address + "#view=item&item=item-1")
        expect(page.get_by_label("image", exact=True)).to_be_checked()
        expect(page.locator(".choices label")).to_have_text(["image", "text"])
        page.goto(address + "#view=item&item=gone")
        expect(page.get_by_role("alert")).to_have_text("There is no item with the ID gone.")
        page.close()
