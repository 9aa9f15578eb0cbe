from pathlib import Path

from commands import lirdrec

SMALL = ["--embedding-dim", "8", "--lr", "0.01"]


def epochs(shop: Path, out: Path, *options: object) -> list[str]:
    result = lirdrec("fit", "--data", shop, "--out", out, *SMALL, *options)
    assert result.exit_code == 0, result.output
    return [line for line in result.output.splitlines() if line.startswith("epoch ")]


def test_early_stopping_tells_where_it_ends_rather_than_how_long_it_takes(shop: Path, tmp_path: Path) -> None:
    best = 0
    lines = epochs(shop, tmp_path / "early", "--patience", 2)
    for number, line in enumerate(lines, start=1):
        best = number if " *" in line else best
        assert line.startswith(f"epoch {number:4d}/1000  loss ")
        assert line.endswith(f" s, best epoch {best}, stops after epoch {best + 2} unless better")
    assert len(lines) == best + 2


def test_a_fixed_number_of_epochs_has_a_remaining_time(shop: Path, tmp_path: Path) -> None:
    for line in epochs(shop, tmp_path / "fixed", "--epochs", 2):  # too few to stop early
        assert line.endswith("left")
        assert "best epoch" in line
    for line in epochs(shop, tmp_path / "all", "--epochs", 2, "--split", "none"):
        assert line.endswith("left")
        assert "best" not in line
