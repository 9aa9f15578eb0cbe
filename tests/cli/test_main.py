"""The group of commands, its log, and the translation of parameters into options."""

import importlib
import logging
import subprocess
import sys
import warnings
from pathlib import Path

import click
import numpy as np
import polars as pl
import pytest
from click.testing import CliRunner
from commands import help_of, lirdrec

import lirdrec_pyg
from lirdrec_pyg import Dataset, fit
from lirdrec_pyg.cli import COMMANDS, _Log, main
from lirdrec_pyg.cli.output import table
from lirdrec_pyg.cli.parameters import as_options
from lirdrec_pyg.data import build_graph
from lirdrec_pyg.models import EASEConfig


def test_every_command_loads_and_shows_its_options() -> None:
    shown = CliRunner().invoke(main, ["--help"]).output
    for name, short in COMMANDS.items():
        module = name.replace("-", "_")
        command = main.get_command(click.Context(main), name)
        assert command is getattr(importlib.import_module(f"lirdrec_pyg.cli.{module}"), module)
        assert command.name == name
        result = CliRunner().invoke(main, [name, "--help"])
        assert result.exit_code == 0, result.output
        assert " ".join(command.get_short_help_str(1000).split())[:20] in help_of(name)
        for param in command.params:
            if isinstance(param, click.Option) and not param.hidden:
                assert param.help, (name, param.name)
                assert param.opts[-1] in result.output
        assert f"  {name}" in shown
        # The first words of the command's own help are those of the list of commands.
        assert short.split()[0] == command.help.split()[0]
        assert short.endswith(".")


def test_help_loads_no_torch() -> None:
    program = (
        "import sys\n"
        "from lirdrec_pyg.cli import main\n"
        "main(['--help'], standalone_mode=False)\n"
        "assert not {'torch', 'polars', 'numpy', 'yaml'} & sys.modules.keys(), sys.modules.keys()"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "add-items" in done.stdout


def test_imports_are_not_searched_for_garbage() -> None:
    program = (
        "import gc\n"
        "from lirdrec_pyg.cli import main\n"
        "main(['info', '--help'], standalone_mode=False)\n"
        "assert gc.isenabled() and gc.get_freeze_count() > 100_000, gc.get_freeze_count()"
    )
    subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)


def test_the_installed_program_starts() -> None:
    program = Path(sys.executable).with_name("lirdrec-pyg")
    shown = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout
    assert shown.split()[-1] == lirdrec_pyg.__version__


def test_unknown_commands_are_refused() -> None:
    result = CliRunner().invoke(main, ["train"])
    assert result.exit_code == 2
    assert "'train'" in result.output
    assert CliRunner().invoke(main, ["--version"]).exit_code == 0


def test_parameters_become_options() -> None:
    fit = main.get_command(click.Context(main), "fit")
    assert fit is not None
    for text, expected in {
        "Pass `overwrite=True`.": "Pass --overwrite.",
        "`split='cold-items'` holds out items": "--split cold-items holds out items",
        "`item_graph=False` or `item_graph`": "--no-item-graph or --item-graph",
        "`user_column` and `lr=0.003`, `fanout`": "--user-column and --lr 0.003, --fanout",
        "`resume='/a b/run'`": "--resume /a b/run",
        "`nonsense` and `x y`": "`nonsense` and `x y`",
        "`other_option=3`": "--other-option 3",
        "no parameters": "no parameters",
    }.items():
        assert as_options(text, fit) == expected
    recommend = main.get_command(click.Context(main), "recommend")
    assert recommend is not None
    assert as_options("`k` is 0, `fallback='skip'`, `split='time'`", recommend) == (
        "-k is 0, --fallback skip, --split time"
    )
    assert as_options("`exclude_seen=False`", recommend) == "--include-seen"
    info = main.get_command(click.Context(main), "info")
    assert info is not None
    assert as_options("Pass `data`, or `data='synthetic'`.", info) == "Pass DATA, or 'synthetic'."


def test_a_console_shows_stand_ins_for_what_it_cannot_print(tmp_path: Path) -> None:
    names = ["Стул", "椅子", "Café", "chair"]
    graph = build_graph(np.array([[0, 0, 1, 1], [0, 1, 2, 3]]), {"text": np.eye(4)})
    fit(Dataset.from_graph(graph, ["Анна", "ben"], names), EASEConfig(), out=tmp_path / "run")
    out = tmp_path / "стол.csv"
    for encoding, shown in (
        ("cp1252", ["\\u0421\\u0442\\u0443\\u043b", "\\u6905\\u5b50", "Café"]),
        ("ascii", ["\\u0421\\u0442\\u0443\\u043b", "\\u6905\\u5b50", "Caf\\xe9"]),
        ("utf-8", names[:3]),
    ):
        command = ["recommend", str(tmp_path / "run"), "--users", "Анна,ж", "--include-seen", "--device", "cpu"]
        result = CliRunner(charset=encoding).invoke(main, command)
        assert result.exit_code == 0, result.output
        assert "Warning: 1 of 2 users are unknown" in result.stderr
        assert {line.split()[1] for line in result.stdout.splitlines()} == {"item", *shown, "chair"}
        result = CliRunner(charset=encoding).invoke(main, [*command, "--out", str(out)])
        assert result.exit_code == 0, result.output
        assert set(pl.read_csv(out)["item"]) == {*names}


def test_columns_are_aligned_and_one_line_each() -> None:
    rows = [["user", "item"], ["a\nb", "日本"], ["u\t1", "e\u0301"], ["x", "\x1b[31m"]]
    assert table(rows).splitlines() == ["user      item", "a\\nb      日本", "u\\t1         e\u0301", "x     \\x1b[31m"]


def test_logging_is_restored_after_a_command(tmp_path: Path) -> None:
    logger = logging.getLogger("lirdrec_pyg")
    before = logger.level
    try:
        for level in (logging.NOTSET, logging.ERROR):
            logger.setLevel(level)
            assert lirdrec("info", tmp_path / "none").exit_code == 2
            assert logger.level == level
            assert not [handler for handler in logger.handlers if isinstance(handler, _Log)]
    finally:
        logger.setLevel(before)


def test_progress_goes_to_standard_output_and_warnings_to_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    ctx = click.Context(main, obj=main.get_command(click.Context(main), "fit"))
    for level, text in ((logging.INFO, "done: %d"), (logging.WARNING, "wrong: %d `knn_k`")):
        _Log(ctx).handle(logging.LogRecord("lirdrec_pyg", level, __file__, 1, text, (3,), None))
    assert capsys.readouterr() == ("done: 3\n", "Warning: wrong: 3 --knn-k\n")


def test_a_warning_while_a_command_is_loaded_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    module = importlib.import_module("lirdrec_pyg.cli.info")

    def load(_: str) -> object:
        warnings.warn("A library is broken.", stacklevel=1)
        return module

    monkeypatch.delitem(sys.modules, "lirdrec_pyg.cli.info")
    monkeypatch.setattr("lirdrec_pyg.cli.importlib.import_module", load)
    result = CliRunner().invoke(main, ["info", "--help"])
    assert result.exit_code == 0, result.output
    assert "Warning: A library is broken." in result.stderr
