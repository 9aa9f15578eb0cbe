import re
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from commands import assert_refused, lirdrec
from PIL import Image
from playwright.sync_api import sync_playwright

from lirdrec_pyg import LIRDRecConfig, Recommender, TrainingConfig, fit
from lirdrec_pyg.data import INTERACTS, Dataset, ItemCatalog, Split, held_out_interactions
from lirdrec_pyg.data.drawings import draw_items
from lirdrec_pyg.data.generator import generate
from lirdrec_pyg.errors import ConfigError
from lirdrec_pyg.models import EASEConfig, PopularityConfig
from lirdrec_pyg.report import gallery, items, page, unclicked, users, write_report
from lirdrec_pyg.report.gallery import Gallery

CHROMIUM = shutil.which("chromium")
HOSTILE = "</title></script><script>alert('x')</script>"
TRAINING = TrainingConfig(epochs=2, lr=1e-2, batch_size=64, device="cpu")


class Page(HTMLParser):
    """The elements of a page, and its text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def all(self, *tags: str) -> list[dict[str, Any]]:
        return [attributes for tag, attributes in self.elements if tag in tags]

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.texts))


@pytest.fixture(scope="module")
def generated() -> Dataset:
    graph, users, items, facts = generate(90, 80)
    catalog = draw_items(graph, items)
    frame = catalog.frame.with_columns(pl.lit(HOSTILE).alias("title"))
    return Dataset(graph, users, items, catalog=replace(catalog, frame=frame), facts=facts)


@pytest.fixture(scope="module")
def trained(generated: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Recommender:
    return fit(generated, LIRDRecConfig(embedding_dim=8), TRAINING, tmp_path_factory.mktemp("report") / "run")


@pytest.fixture(scope="module")
def written(trained: Recommender, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("report") / "page.html"
    write_report([trained], out)
    return out


@pytest.fixture(autouse=True)
def _no_charts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the program that draws charts, which takes seconds to bundle, of all pages but ``written``."""
    monkeypatch.setattr(page.charts, "script", str)


def known_before_test(recommender: Recommender) -> set[tuple[Any, Any]]:
    pairs = torch.cat(
        [recommender.graph[INTERACTS].edge_index, held_out_interactions(recommender.graph, Split.VALID)], dim=1
    )
    return set(named(recommender, pairs))


def named(recommender: Recommender, pairs: torch.Tensor) -> Iterator[tuple[Any, Any]]:
    return zip(recommender.users.ids.gather(pairs[0].numpy()), recommender.items.ids.gather(pairs[1].numpy()))


def lists(recommender: Recommender, k: int) -> dict[Any, list[Any]]:
    """Return for each user the first items that are not of the training or of the validation."""
    known = known_before_test(recommender)
    everything = recommender.recommend(k=len(recommender.items), exclude_seen=False)
    found: dict[Any, list[Any]] = {}
    for user, item in everything.select("user", "item").iter_rows():
        if (user, item) not in known:
            found.setdefault(user, []).append(item)
    return {user: items[:k] for user, items in found.items()}


def people(recommender: Recommender) -> dict[str, list[users.Person]]:
    section = users.section([recommender], Gallery(with_ids_as_titles(recommender)))
    assert section is not None
    groups: dict[str, list[users.Person]] = section.content["groups"]
    return groups


def with_ids_as_titles(recommender: Recommender) -> Recommender:
    return replace(recommender, dataset=replace(recommender.dataset, catalog=None))


def test_page_needs_no_network_and_its_parts_fit(written: Path) -> None:
    assert written.stat().st_size < 8_000_000
    found = Page(written.read_text("utf-8"))
    for _, attributes in found.elements:
        for name in ("src", "href", "data", "action", "srcset", "poster"):
            assert re.match(r"#|data:|$", attributes.get(name) or ""), attributes
    ids = Counter(attributes["id"] for _, attributes in found.elements if "id" in attributes)
    assert set(ids.values()) == {1}
    targets = {attributes["href"][1:] for attributes in found.all("a", "use")}
    assert targets <= ids.keys()
    pictures = [attributes["href"] for attributes in found.all("image")]
    assert len(pictures) > 30
    assert {attributes["id"] for attributes in found.all("symbol")} <= targets
    assert all(attributes.get("scope") in ("col", "row") for attributes in found.all("th"))
    levels = [int(tag[1]) for tag, _ in found.elements if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert all(later <= earlier + 1 for earlier, later in pairwise(levels))


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # the driver keeps an event loop in this thread
def test_a_browser_shows_it_without_errors_at_any_width(written: Path) -> None:
    complaints: list[str] = []
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        for width in (400, 1280):
            shown = browser.new_context(viewport={"width": width, "height": 800}, offline=True).new_page()
            shown.on("console", lambda message: complaints.append(message.text))
            shown.on("pageerror", lambda error: complaints.append(str(error)))
            shown.on("dialog", lambda dialog: complaints.append(dialog.message))
            shown.goto(written.as_uri())
            assert shown.evaluate("document.documentElement.scrollWidth") == width
            picture = shown.locator(".offers svg.picture use").first
            assert picture.evaluate("use => use.getBoundingClientRect().width") > 30
            for figure in shown.locator("figure.chart").all():  # drawn without scrolling, so that they can be printed
                figure.locator(".plot :is(svg, canvas)").wait_for()
            contents = shown.locator("nav a[href='#data']")
            contents.click()
            assert shown.evaluate("location.hash") == "#data"
        browser.close()
    assert not complaints


def test_titles_are_text(written: Path) -> None:
    found = Page(written.read_text("utf-8"))
    kinds = Counter(attributes.get("type") for attributes in found.all("script"))
    assert kinds.keys() == {"application/json", "module"}
    assert kinds["module"] == 1
    assert HOSTILE in found.text


def test_users_are_of_the_thirds_of_activity_and_popularity(trained: Recommender) -> None:
    edges = trained.graph[INTERACTS].edge_index
    taken: dict[int, list[int]] = {}
    for user, item in edges.t().tolist():
        taken.setdefault(user, []).append(item)
    popularity = Counter(edges[1].tolist())
    mean = {user: sum(popularity[item] for item in own) / len(own) for user, own in taken.items()}
    tested = set(held_out_interactions(trained.graph, Split.TEST)[0].tolist())
    order = sorted((user for user in taken if user in tested), key=lambda user: (len(taken[user]), user))
    size = -(-len(order) // 3)
    for activity, part in (("light", order[:size]), ("heavy", order[-(len(order) // 3) :])):
        by_popularity = sorted(part, key=lambda user: mean[user])
        third = len(part) // 3
        for taste, expected in (("niche", by_popularity[: third + 1]), ("mainstream", by_popularity[-third - 1 :])):
            shown = people(trained)[f"{activity}, {taste}"]
            assert len(shown) == 3
            for person in shown:
                position = trained.users.ids.to_list().index(person.id)
                assert position in expected
                assert person.num_taken == len(taken[position])
                assert person.popularity == pytest.approx(mean[position])
                own = {str(trained.items.ids[item]) for item in taken[position]}
                names = [item.title for item in person.taken]
                assert len(set(names)) == len(names) == min(12, len(own))
                assert set(names) <= own


def test_offers_are_recommendations_with_the_items_of_the_test(trained: Recommender) -> None:
    expected, test = lists(trained, 12), set(named(trained, held_out_interactions(trained.graph, Split.TEST)))
    recommended = trained.recommend(k=12)
    hits = 0
    for person in chain(*people(trained).values()):
        (offers,) = person.offers
        assert [offer.item.title for offer in offers] == expected[person.id]
        assert [offer.is_hit for offer in offers] == [(person.id, offer.item.title) in test for offer in offers]
        others = [offer.item.title for offer in offers if not offer.is_hit]
        assert others == recommended.filter(pl.col("user") == person.id)["item"].to_list()[: len(others)]
        assert person.num_held_out == sum(user == person.id for user, _ in test)
        hits += 12 - len(others)
        frame = pl.DataFrame({"user": [person.id] * 12, "item": expected[person.id]})
        for offer, row in zip(offers, trained.because(frame).iter_rows(named=True)):
            reasons = [(row[f"because_{n}"], row[f"because_{n}_share"]) for n in (1, 2) if row[f"because_{n}"]]
            assert [(item.title, share) for item, share in offer.because] == reasons
    assert hits > 0


def test_a_model_of_all_interactions_has_no_hits(generated: Dataset, tmp_path: Path) -> None:
    recommender = fit(generated, EASEConfig(), replace(TRAINING, refit=True))
    recommended = recommender.recommend(k=12)
    for person in chain(*people(recommender).values()):
        titles = [offer.item.title for offer in person.offers[0]]
        assert titles == recommended.filter(pl.col("user") == person.id)["item"].to_list()
        assert not any(offer.is_hit for offer in person.offers[0])
    write_report([recommender], tmp_path / "page.html")
    assert "✓ taken" not in (tmp_path / "page.html").read_text("utf-8")


def test_unclicked_items_are_counted_in_all_lists(trained: Recommender) -> None:
    section = unclicked.section(trained, Gallery(with_ids_as_titles(trained)))
    assert section is not None
    of_users = lists(trained, 20)
    count = Counter(item for own in of_users.values() for item in own)
    clicked = {trained.items.ids[item] for item in trained.graph[INTERACTS].edge_index[1].tolist()}
    cold = set(trained.items.ids) - clicked
    assert cold
    test = [item for _, item in named(trained, held_out_interactions(trained.graph, Split.TEST))]
    for kind, members in zip(section.content["table"], (clicked, cold), strict=True):
        assert kind.num_items == len(members)
        assert kind.num_offered == len(members & count.keys())
        assert kind.of_items == pytest.approx(len(members) / len(trained.items))
        assert kind.of_lists == pytest.approx(sum(count[item] for item in members) / count.total())
        assert kind.of_test == pytest.approx(sum(item in members for item in test) / len(test))
    landings = section.content["landings"]
    assert [landing.num_lists for landing in landings] == sorted((count[item] for item in cold), reverse=True)[:12]
    for landing in landings:
        item = landing.item.title
        assert landing.num_lists == count[item]
        if count[item]:
            assert of_users[landing.user].index(item) + 1 == landing.rank
            assert landing.rank == min(own.index(item) + 1 for own in of_users.values() if item in own)
        assert [like.title for like in landing.like] == trained.similar_items(item, 3)["item"].to_list()


def test_the_first_lines_say_whom_and_what_they_measure(trained: Recommender, written: Path) -> None:
    text = " ".join(Page(written.read_text("utf-8")).text.split())
    found, test = lists(trained, 20), [*named(trained, held_out_interactions(trained.graph, Split.TEST))]
    hits, asked = {user for user, item in test if item in found[user]}, {user for user, _ in test}
    assert f"{100 * len(hits) / len(asked):.0f} % of the {len(asked)} users with such items find at least one." in text
    assert "This counts items that nobody has clicked as they are recommended" in text


def test_neighbors_are_similar_items(trained: Recommender) -> None:
    section = items.section(trained, Gallery(with_ids_as_titles(trained)))
    groups = section.content["groups"]
    low, middle, high = ([entry.popularity for entry in groups[name]] for name in ("rare", "mid", "popular"))
    assert max(low) <= min(middle)
    assert max(middle) <= min(high)
    for entry in chain(*groups.values()):
        for label, by in (("by the model", "vectors"), ("by image", "image"), ("by text", "text")):
            expected = trained.similar_items(entry.item.title, 8, by)["item"].to_list()
            assert [item.title for item in entry.by[label]] == expected


def test_what_a_model_cannot_show_is_said(generated: Dataset, tmp_path: Path) -> None:
    shown = {}
    for config in (PopularityConfig(), EASEConfig()):
        write_report([fit(generated, config)], tmp_path / "page.html")
        shown[config.model] = Page((tmp_path / "page.html").read_text("utf-8")).text
    for text in shown.values():
        assert "This model does not learn vectors of items" in text
        assert "Map of the items" not in text
    assert "there are no reasons" in shown["popularity"]
    assert "because of" not in shown["popularity"]
    assert "because of" in shown["ease"]


def test_images_are_shown_once_and_within_the_budget(
    trained: Recommender, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = trained.items.ids
    for name in ("a", "b"):
        Image.effect_noise((100, 150), 90).save(tmp_path / f"{name}.jpg")
    paths = ["a.jpg", "b.jpg", "../out.jpg", *[None] * (len(ids) - 3)]
    catalog = ItemCatalog.of(pl.DataFrame({"id": ids, "image": paths}))
    recommender = replace(trained, dataset=replace(trained.dataset, catalog=catalog))
    shown = Gallery(recommender, tmp_path)
    first, second, outside, none, again = shown.items(ids.gather([0, 1, 2, 3, 0]))
    assert first == again
    assert [*shown.pictures] == [first.picture, second.picture]
    assert outside.picture is none.picture is None
    assert all(uri.startswith("data:image/jpeg;base64,") for uri in shown.pictures.values())
    assert shown.shape == pytest.approx(2 / 3, abs=0.01)
    size = len(shown.pictures["picture-0"]) * 3 // 4
    monkeypatch.setattr(gallery, "_MAX_BYTES", size + 10)
    assert [item.picture for item in Gallery(recommender, tmp_path).items(ids[:2])] == ["picture-0", None]
    write_report([recommender], tmp_path / "page.html", tmp_path)
    assert (tmp_path / "page.html").read_text("utf-8").count("data:image/jpeg") <= 3


def test_text_takes_the_place_of_images(trained: Recommender, tmp_path: Path) -> None:
    write_report([with_ids_as_titles(trained)], tmp_path / "page.html")
    found = Page((tmp_path / "page.html").read_text("utf-8"))
    assert not found.all("symbol", "use")
    assert "because of" in found.text


def test_several_runs_are_compared(trained: Recommender, generated: Dataset, tmp_path: Path) -> None:
    other = fit(generated, EASEConfig(), None, tmp_path / "ease")
    write_report([trained, other], tmp_path / "page.html")
    found = Page((tmp_path / "page.html").read_text("utf-8"))
    assert "Is offered by run" in found.text
    assert "Is offered by ease" in found.text
    assert {"comparison", "users"} <= {attributes.get("id") for attributes in found.all("section")}


def test_runs_of_one_name_are_told_apart_by_their_paths(trained: Recommender) -> None:
    runs = [replace(trained, path=path) for path in (Path("a/run"), Path("b/run"), Path("c/other"), None)]
    assert page._names(runs) == ["a/run", "b/run", "other", "lirdrec"]


def test_errors_come_before_anything_is_computed(
    trained: Recommender, generated: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page.metrics, "section", None)
    with pytest.raises(ConfigError, match=r"existing folder as `out`"):
        write_report([trained], tmp_path)
    with pytest.raises(ConfigError, match=r"existing folder as `out`"):
        write_report([trained], tmp_path / "no" / "page.html")
    with pytest.raises(ConfigError, match=r"`image_root` is '.*', which is not a folder"):
        write_report([trained], tmp_path / "page.html", tmp_path / "no")
    smaller = fit(Dataset(*generate(60, 80)[:3]), EASEConfig())
    with pytest.raises(ConfigError, match="different data"):
        write_report([trained, smaller], tmp_path / "page.html")
    monkeypatch.setattr("lirdrec_pyg.errors.find_spec", lambda name: name != "altair")
    with pytest.raises(ConfigError, match=r"A report needs the extra 'report': pip install 'lirdrec-pyg\[report\]'"):
        write_report([trained], tmp_path / "page.html")
    assert not [*tmp_path.iterdir()]


def test_command_writes_beside_the_run(trained: Recommender, tmp_path: Path) -> None:
    run = tmp_path / "shop"
    trained.save(run)
    result = lirdrec("report", run)
    assert result.exit_code == 0, result.output
    assert f"The report is in {run}.html" in result.output
    assert "<title>shop" in (tmp_path / "shop.html").read_text("utf-8")
    assert_refused(lirdrec("report", run, "--out", tmp_path), "--out")
    assert_refused(lirdrec("report", run, "--image-root", tmp_path / "no"), "--image-root")
    assert_refused(lirdrec("report", tmp_path), "not a run folder")


@pytest.mark.slow
def test_fit_writes_a_report_or_names_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = ("--data", "synthetic", "--model", "popularity")
    result = lirdrec("fit", *options, "--out", tmp_path / "new" / "a")
    assert f"See it: lirdrec-pyg report {tmp_path / 'new' / 'a'}" in result.output
    result = lirdrec("fit", *options, "--out", tmp_path / "more" / "b", "--report")
    assert f"The report is in {tmp_path / 'more' / 'b'}.html" in result.output
    assert (tmp_path / "more" / "b.html").is_file()
    monkeypatch.setattr("lirdrec_pyg.errors.find_spec", lambda name: name != "jinja2")
    assert_refused(lirdrec("fit", *options, "--out", tmp_path / "c", "--report"), "lirdrec-pyg[report]")
    assert not (tmp_path / "c").exists()
