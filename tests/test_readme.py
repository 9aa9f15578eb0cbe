"""The commands and the Python code of the README work."""

import contextlib
import io
import re
import shlex
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from lirdrec_pyg.cli import main

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def blocks(language: str, text: str = README) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


COMMANDS = [line for block in blocks("sh") for line in block.splitlines() if line.startswith("lirdrec-pyg ")]


@pytest.fixture(scope="module")
def printed(make_shop: Callable[[Path], Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Output of all commands and then all Python code of the README, in order, in one folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("readme"))
        make_shop(Path("shop"))
        rng = np.random.default_rng(1)
        np.save("new.npy", rng.standard_normal((3, 12)).astype(np.float32))
        np.save("new_text.npy", rng.standard_normal((3, 7)).astype(np.float32))
        Path("new_ids.txt").write_text("30\n31\n32\n")
        pairs = [f"{user},{item}" for user, item in rng.integers(0, [50, 30], (80, 2))]
        Path("today.csv").write_text("\n".join(["user_id,item_id", *pairs]))
        for command in COMMANDS:
            arguments = shlex.split(command)[1:]
            # EASE has no epochs.
            if {"fit", "tune", "gradient-bias", "update"} & set(arguments[:2]) and "ease" not in arguments:
                arguments += ["--epochs", "2"]
            if "tune" in arguments:
                arguments += ["--trials", "2"]
            result = CliRunner().invoke(main, arguments)
            assert result.exit_code == 0, (command, result.output)
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            for block in blocks("python"):
                exec(block, {})
        yield out.getvalue()


@pytest.mark.slow
def test_commands_and_python_run(printed: str) -> None:
    assert [shlex.split(command)[1] for command in COMMANDS] == [
        *("info", "fit", "evaluate"),
        *("fit", "tune", "fit"),
        *("recommend", "recommend", "recommend", "similar", "similar", "explain"),
        *("add-items", "recommend", "recommend"),
        *("fit", "update"),
        *("export", "export"),
        *("fit", "fit", "fit"),
        *("analyze", "analyze"),
    ]
    assert len(blocks("python")) == 3
    assert "branch" in printed
    assert re.search(r"user 0 may like \[(\s*\d+){10}\]", printed)


def test_the_query_is_the_one_that_is_tested() -> None:
    (query,) = blocks("sql")
    assert query == blocks("sql", (ROOT / "docs/export.md").read_text())[0]


def test_make_targets_exist() -> None:
    targets = re.findall(r"^make (\w+)$", "\n".join(blocks("sh")), flags=re.MULTILINE)
    assert targets == ["demo", "test"]
    for target in targets:
        subprocess.run(["make", "--dry-run", target], cwd=ROOT, check=True, capture_output=True)


def test_mentioned_files_exist() -> None:
    mentioned = re.findall(r"\]\(([\w./]+\.(?:md|png))[)#]|`((?:benchmarks|tests|examples)/[\w./]+\.py)`", README)
    assert mentioned
    for link, path in mentioned:
        assert (ROOT / (link or path)).exists()
