"""The commands and the Python code of the README and of the documentation work."""

import contextlib
import functools
import io
import re
import runpy
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from lirdrec_pyg.cli import main
from lirdrec_pyg.datasets import synthetic_data

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
START = (ROOT / "docs/start.md").read_text()
# In the order in which their commands use each other's files.
GUIDES = {
    name: (ROOT / f"docs/guides/{name}.md").read_text()
    for name in ("data", "runs", "models", "recommend", "cold-items", "production", "export", "analyze", "python")
}
WITHOUT_EPOCHS = ("ease", "popularity")


def blocks(language: str, text: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


def commands(text: str) -> list[str]:
    return [line for block in blocks("sh", text) for line in block.splitlines() if line.startswith("lirdrec-pyg ")]


def sessions(text: str) -> Iterator[tuple[str, list[str]]]:
    """Commands of the blocks that show a terminal, with the lines that each prints."""
    for block in blocks("console", text):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, *lines = part.splitlines()
            yield command, lines


def run(command: str) -> str:
    arguments = shlex.split(command)[1:]
    if {"fit", "tune", "gradient-bias", "update"} & set(arguments[:2]) and not set(WITHOUT_EPOCHS) & set(arguments):
        arguments += ["--epochs", "2"]
    if "tune" in arguments:
        arguments += ["--trials", "2"]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, (command, result.output)
    return result.output


def python(*code: str) -> str:
    with contextlib.redirect_stdout(io.StringIO()) as out:
        for block in code:
            exec(block, {})
    return out.getvalue()


@pytest.fixture(scope="module")
def printed(make_shop: Callable[[Path], Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Output of all Python code of the guides, after all their commands, in order, in one folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("guides"))
        make_shop(Path("shop"))
        rng = np.random.default_rng(1)
        np.save("new.npy", rng.standard_normal((3, 12)).astype(np.float32))
        np.save("new_text.npy", rng.standard_normal((3, 7)).astype(np.float32))
        Path("new_ids.txt").write_text("30\n31\n32\n")
        pairs = [f"{user},{item}" for user, item in rng.integers(0, [50, 30], (80, 2))]
        Path("today.csv").write_text("\n".join(["user_id,item_id", *pairs]))
        for page in GUIDES.values():
            for command in commands(page):
                run(command)
        yield python(*blocks("python", GUIDES["python"]), blocks("python", GUIDES["export"])[0])


@pytest.mark.slow
def test_commands_and_python_of_the_guides_run(printed: str) -> None:
    assert [shlex.split(command)[1] for page in GUIDES.values() for command in commands(page)] == [
        *("info", "fit"),
        *("fit", "evaluate"),
        *("fit", "fit", "fit", "fit", "tune", "fit"),
        *("recommend", "recommend", "recommend", "similar", "similar", "explain"),
        *("add-items", "recommend", "recommend"),
        *("fit", "update"),
        *("export", "export"),
        *("analyze", "fit", "analyze"),
    ]
    assert len(blocks("python", GUIDES["python"])) == 2
    assert "branch" in printed
    assert re.search(r"user 0 may like \[(\s*\d+){10}\]", printed)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A working directory with the shop that the README and "Start here" write, but smaller."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("start"))
        patch.setattr("lirdrec_pyg.datasets.synthetic_data", functools.partial(synthetic_data, 60, 100))
        patch.setattr(sys, "argv", ["write_shop.py"])
        with contextlib.redirect_stdout(io.StringIO()):
            runpy.run_path(str(ROOT / "examples/write_shop.py"))
        yield


@pytest.mark.slow
def test_readme_and_start_show_what_is_printed(shop: None) -> None:
    found: dict[str, str] = {}
    for command, lines in [*sessions(START), *sessions(README)]:
        # These need a model from the internet, do not end, or have run already.
        if command.startswith(("lirdrec-pyg features", "lirdrec-pyg serve", "curl", "python")):
            continue
        if command not in found and command.startswith("lirdrec-pyg"):
            found[command] = " ".join(run(command).split())
        elif command not in found:
            found[command] = subprocess.run(command, shell=True, check=True, text=True, capture_output=True).stdout
        for line in lines:
            label = re.match(r"[A-Za-z ]*", " ".join(line.split()))
            assert label is not None
            assert label[0].strip() in found[command], (command, line, found[command])
    assert [command.split()[1] for command in found if command.startswith("lirdrec-pyg")] == [
        *("info", "fit", "fit"),
        *("recommend", "recommend", "recommend", "report", "recommend"),
    ]
    assert "user-16" in python(*blocks("python", README))


def test_make_targets_exist() -> None:
    targets = re.findall(r"^make (\w+)$", "\n".join(blocks("sh", README)), flags=re.MULTILINE)
    assert targets == ["demo", "test"]
    for target in [*targets, "docs"]:
        subprocess.run(["make", "--dry-run", target], cwd=ROOT, check=True, capture_output=True)


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "docs/*.md", "docs/guides/*.md"])
def test_mentioned_files_exist(page: str) -> None:
    for path in ROOT.glob(page):
        text = path.read_text()
        for link in re.findall(r"\]\(([\w./-]+\.(?:md|png|cff))[)#]", text):
            assert (path.parent / link).exists(), (path, link)
        for mentioned in re.findall(r"`((?:benchmarks|tests|examples)/[\w./]+\.(?:py|md))`", text):
            assert (ROOT / mentioned).exists(), (path, mentioned)


def test_readme_is_short() -> None:
    assert len(README.splitlines()) <= 150
