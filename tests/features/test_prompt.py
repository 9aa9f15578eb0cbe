from pathlib import Path

import pytest

from lirdrec_pyg.errors import ConfigError
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
    with pytest.raises(ConfigError, match="write {title} for the column") as refused:
        Prompt.read(path)
    assert str(path) in str(refused.value)


@pytest.mark.parametrize("name", ["title.__class__", "title[0]", "0", "price"])
def test_only_columns_can_be_named(name: str) -> None:
    with pytest.raises(ConfigError, match="'title', 'brand'") as refused:
        Prompt(f"Describe {{{name}}}").check_columns(["title", "brand"])
    assert name in str(refused.value)


def test_a_file_that_can_not_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--prompt .*none\.txt can't be read"):
        Prompt.read(tmp_path / "none.txt")
    (tmp_path / "latin.txt").write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(ConfigError, match=r"--prompt .*latin\.txt can't be read"):
        Prompt.read(tmp_path / "latin.txt")
