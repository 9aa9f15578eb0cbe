from pathlib import Path

import pytest

from lirdrec_pyg.errors import ConfigError
from lirdrec_pyg.features.catalogue import Catalogue
from lirdrec_pyg.features.prompt import DEFAULT_PROMPT, Prompt


def test_places_are_filled_in() -> None:
    prompt = Prompt("Describe {title} by {brand name}, {{so}}: {title}!")
    assert prompt.columns == ["title", "brand name"]
    assert prompt.fill({"title": "a {chair}", "brand name": None}) == "Describe a {chair} by , {so}: a {chair}!"


def test_the_default_has_no_places_and_says_what_to_describe() -> None:
    prompt = Prompt()
    assert prompt.columns == []
    assert prompt.fill({}) == DEFAULT_PROMPT
    for word in ("kind", "colours", "material", "style", "used"):
        assert word in DEFAULT_PROMPT


def test_a_long_entry_of_the_catalogue_is_shortened() -> None:
    assert len(Prompt("{title}").fill({"title": "x" * 100_000})) < 2100


@pytest.mark.parametrize("text", ["{", "}", "{title", "{}", "{title!r}", "{title:>10}", "{{title}", "{a{b}}"])
def test_braces_out_of_order_are_named(text: str, tmp_path: Path) -> None:
    path = tmp_path / "prompt.txt"
    path.write_text(f"Describe {text}")
    with pytest.raises(ConfigError, match=r"write \{title\} for the column") as refused:
        Prompt.read(path)
    assert str(path) in str(refused.value)


def test_an_empty_prompt_is_refused(tmp_path: Path) -> None:
    (tmp_path / "prompt.txt").write_text(" \n")
    with pytest.raises(ConfigError, match=r"prompt\.txt is empty"):
        Prompt.read(tmp_path / "prompt.txt")


@pytest.fixture
def catalogue(tmp_path: Path) -> Catalogue:
    (tmp_path / "shop.csv").write_text("id,title,empty\n1,a chair,\n2,,\n")
    return Catalogue(tmp_path / "shop.csv")


def test_texts_come_from_the_columns_of_the_catalogue(catalogue: Catalogue) -> None:
    assert Prompt("Is {title} number {id}?").texts(catalogue) == {"title": {1: "a chair"}, "id": {1: "1", 2: "2"}}


@pytest.mark.parametrize("name", ["title.__class__", "title[0]", "0", "price", "empty"])
def test_only_columns_can_be_named(name: str, catalogue: Catalogue) -> None:
    with pytest.raises(ConfigError, match="The prompt can't be filled in") as refused:
        Prompt(f"Describe {{{name}}}").texts(catalogue)
    assert name in str(refused.value)


def test_a_file_that_can_not_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--prompt .*none\.txt can't be read"):
        Prompt.read(tmp_path / "none.txt")
    (tmp_path / "latin.txt").write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(ConfigError, match=r"--prompt .*latin\.txt can't be read"):
        Prompt.read(tmp_path / "latin.txt")
