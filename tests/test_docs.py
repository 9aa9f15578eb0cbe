"""The documentation is complete: links, pages, names, commands, and the code of the tutorials."""

import importlib
import inspect
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

import lirdrec_pyg
from lirdrec_pyg.cli import COMMANDS
from lirdrec_pyg.models import MODELS

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [path for path in sorted(DOCS.rglob("*.md")) if not path.is_relative_to(DOCS / "_build")]
TEXTS = [*PAGES, ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "benchmarks").glob("*.md"))]
TUTORIALS = sorted((DOCS / "tutorials").glob("*.md"))
MODULES = re.findall(r"^   (lirdrec_pyg\.\w+)$", (DOCS / "reference/api.md").read_text(), re.MULTILINE)


def prose(path: Path) -> str:
    """Return a page without its code."""
    return re.sub(r"^(`{3,}).*?^\1", "", path.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)


def anchors(path: Path) -> set[str]:
    """Return the names of the headings and labels of a page, and of what it includes."""
    text = prose(path)
    included = [
        anchors(path.parent / name) for name in re.findall(r"^```\{include\} (\S+)", path.read_text(), re.MULTILINE)
    ]
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    slugs = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
    return slugs.union(re.findall(r"^\((\S+)\)=$", text, re.MULTILINE), *included)


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_to_files_and_headings(path: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(path)):
        if re.match(r"\w+:", target):
            continue
        name, _, anchor = target.partition("#")
        file = (path.parent / name).resolve() if name else path
        assert file.exists(), f"{target} does not exist."
        assert not anchor or anchor in anchors(file), f"{target} names no heading."


def test_every_page_is_in_the_contents() -> None:
    trees = re.findall(r"```\{toctree\}\n(.*?)```", (DOCS / "index.md").read_text(), re.DOTALL)
    listed = [line for tree in trees for line in tree.splitlines() if line and not line.startswith(":")]
    assert sorted(listed) == [str(path.relative_to(DOCS).with_suffix("")) for path in PAGES if path.stem != "index"]


def test_every_image_is_used() -> None:
    text = "".join(path.read_text() for path in TEXTS)
    for image in (DOCS / "images").iterdir():
        assert f"images/{image.name}" in text, image


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_shown_in_a_guide(command: str) -> None:
    guides = [path for path in PAGES if not path.is_relative_to(DOCS / "reference")]
    assert any(f"lirdrec-pyg {command} " in path.read_text() for path in guides)


def test_every_model_is_in_the_guide() -> None:
    page = (DOCS / "guides/models.md").read_text()
    assert {*MODELS} - {"lirdrec"} <= {*re.findall(r"^\| `([\w-]+)` \|", page, re.MULTILINE)}


def test_the_package_page_has_all_names() -> None:
    page = (DOCS / "reference/package.md").read_text()
    found = set(re.findall(r"^   ~lirdrec_pyg\.\w+\.(\w+)$", page, re.MULTILINE))
    assert found == {*lirdrec_pyg.__all__} - {"__version__"}


@pytest.mark.parametrize("module", MODULES)
def test_public_names_have_docstrings(module: str) -> None:
    public = importlib.import_module(module)
    for name in public.__all__:
        found = getattr(public, name)
        if inspect.isclass(found) or inspect.isfunction(found):  # others are listed by their name
            assert inspect.getdoc(found), f"{module}.{name} has no docstring, so the reference leaves it out."


def test_public_modules_are_in_the_reference() -> None:
    assert {"data", "datasets", "evaluation", "models", "nn", "recommender", "sampler", "training", "transforms"} <= {
        name.partition(".")[2] for name in MODULES
    }


@pytest.mark.parametrize("path", TUTORIALS, ids=lambda path: path.stem)
def test_tutorials_run(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    display = ModuleType("IPython.display")
    display.HTML = str  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "IPython", ModuleType("IPython"))
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    monkeypatch.chdir(tmp_path)
    cells = re.findall(r"```\{code-cell\} python\n(.*?)```", path.read_text(), re.DOTALL)
    code = re.sub(r"num_users=\d+, num_items=\d+", "num_users=200, num_items=100", "\n".join(cells))
    exec(re.sub(r"\bepochs(: int)? ?= ?\d+", r"epochs\1=1", code), {})
