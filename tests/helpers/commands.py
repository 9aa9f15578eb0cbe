"""The command line in tests, and what every mistake of a user has to come to."""

from click.testing import CliRunner, Result

from lirdrec_pyg.cli import main


def lirdrec(command: str, *args: object) -> Result:
    """Runs a command, on the CPU if it leaves a choice."""
    chooses = any(param.name == "device" for param in main.commands[command].params)
    return CliRunner().invoke(main, [command, *map(str, args), *(["--device", "cpu"] if chooses else [])])


def assert_refused(result: Result, *named: str) -> None:
    """The program ended with one line that names everything in ``named``."""
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.output
    (message,) = [line for line in result.output.splitlines() if line.startswith("Error:")]
    assert result.output.rstrip().endswith(message)
    for name in named:
        assert name in message
