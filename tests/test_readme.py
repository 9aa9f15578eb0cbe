"""What the README tells people to type works."""

import re
import shlex
import subprocess
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from lirdrec_pyg.cli import main

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def test_commands_run(shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(shop.parent)
    commands = [line for block in blocks("sh") for line in block.splitlines() if line.startswith("lirdrec-pyg ")]
    assert [shlex.split(command)[1] for command in commands] == ["info", "fit", "evaluate"]
    for command in commands:
        arguments = shlex.split(command)[1:]
        if arguments[0] == "fit":
            arguments += ["--epochs", "2"]
        result = CliRunner().invoke(main, arguments)
        assert result.exit_code == 0, result.output
    assert Path("runs/shop/metrics.json").is_file()


def test_make_targets_exist() -> None:
    targets = re.findall(r"^make (\w+)$", "\n".join(blocks("sh")), flags=re.MULTILINE)
    assert targets == ["demo", "test"]
    for target in targets:
        subprocess.run(["make", "--dry-run", target], cwd=ROOT, check=True, capture_output=True)


def test_python_runs(shop: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(shop.parent)
    training, use = blocks("python")
    variables: dict[str, object] = {}
    exec(training, variables)
    assert np.shape(variables["items"]) == (2000, 10)
    fit = ["fit", "--data", "shop", "--out", "runs/shop", "--epochs", "1"]
    assert CliRunner().invoke(main, fit).exit_code == 0
    exec(use, variables)
    assert re.search(r"^user 0 may like \[(\d+, ){9}\d+\]$", capsys.readouterr().out, flags=re.MULTILINE)


def test_mentioned_files_exist() -> None:
    mentioned = re.findall(r"\]\(([A-Z][\w.]+)\)|`((?:benchmarks|tests|examples)/[\w./]+\.py)`", README)
    assert mentioned
    for link, path in mentioned:
        assert (ROOT / (link or path)).exists()
