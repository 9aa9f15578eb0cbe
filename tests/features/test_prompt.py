from pathlib import Path

import pytest

from lirdrec_pyg.errors import ConfigError
from lirdrec_pyg.features.catalog import Catalog
from lirdrec_pyg.features.prompt import DEFAULT_PROMPT, Prompt


def test_placeholders_are_filled_in() -> None:
    prompt = Prompt("Describe {title} by {brand name}, {{so}}: {title}!")
    assert prompt.columns == ["title", "brand name"]
    texts = {"title": {1: "a {chair}", 2: "x" * 100_000}, "brand name": {2: "x"}}
    assert prompt.fill(1, texts) == "Describe a {chair} by , {so}: a {chair}!"
    assert len(Prompt("{title}").fill(2, texts)) < 2100
    assert Prompt().fill(1, {}) == DEFAULT_PROMPT


def test_invalid_prompts_are_named(tmp_path: Path) -> None:
    path = tmp_path / "prompt.txt"
    for text in ("{", "}", "{title", "{}", "{title!r}", "{title:>10}", "{{title}", "{a{b}}"):
        path.write_text(f"Describe {text}")
        with pytest.raises(ConfigError, match=r"Invalid `prompt`.*Write \{title\} for the column"):
            Prompt.read(path)
    path.write_text(" \n")
    with pytest.raises(ConfigError, match="is empty"):
        Prompt.read(path)
    path.write_bytes(b"\xff\xfe\xfa")
    for unreadable in (path, tmp_path / "none.txt"):
        with pytest.raises(ConfigError, match=rf"Cannot read the `prompt` .*{unreadable.name}"):
            Prompt.read(unreadable)


def test_placeholders_are_columns_of_the_catalog(tmp_path: Path) -> None:
    (tmp_path / "shop.csv").write_text("id,title,empty\n1,a chair,\n2,,\n")
    catalog = Catalog(tmp_path / "shop.csv")
    assert Prompt("Is {title} number {id}?").texts(catalog) == {"title": {1: "a chair"}, "id": {1: "1", 2: "2"}}
    for name in ("title.__class__", "title[0]", "0", "price", "empty"):
        with pytest.raises(ConfigError, match="`prompt` has a placeholder without texts") as refused:
            Prompt(f"Describe {{{name}}}").texts(catalog)
        assert name in str(refused.value)
