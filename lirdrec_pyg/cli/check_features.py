import sys
from pathlib import Path

import click

from lirdrec_pyg.cli.output import table
from lirdrec_pyg.data import FeatureTable, find_features, read_features
from lirdrec_pyg.errors import DataError
from lirdrec_pyg.features.check import FeatureCheck, check_table


@click.command()
@click.argument("features", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--item-column", help="Column of item IDs in tables; by default one with a usual name.")
def check_features(features: tuple[Path, ...], item_column: str | None) -> None:
    """Check FEATURES of any origin for unusable and suspicious rows.

    FEATURES are files, such as fit takes as --features MODALITY=FILE, or folders with files named MODALITY_feat.*. The
    table counts rows that fit refuses: those with NaN or infinite values, those of zeros, and those whose length is
    extreme, beyond what float32 can scale to 1. It also counts rows that equal an earlier row, such as those of a
    placeholder image, and columns with the same value in all rows.

    Exits with code 1 if there are rows that fit refuses, and with code 2 if there is a file that it cannot use.

    \b
      lirdrec-pyg check-features image.npy text.parquet
    """
    files: list[Path] = []
    checks, notes, errors = [], [], []
    for path in features:
        try:
            files += find_features(path).values() if path.is_dir() else [path]
        except DataError as error:
            errors.append(error)
    for file in files:
        try:
            found = read_features(file, item_column)
        except DataError as error:
            errors.append(error)
            continue
        checks.append(check_table(found))
        notes += _notes(checks[-1], found)
    if checks:
        head = ["", "rows", "width", "dtype", "IDs", "not finite", "zero", "extreme", "duplicate", "constant columns"]
        click.echo(table([head, *map(_row, checks)]))
    for note in notes:
        click.echo(note)
    if errors:
        for earlier in errors[:-1]:
            click.echo(f"Error: {earlier}", err=True)
        raise errors[-1]
    if not all(check.is_usable for check in checks):
        sys.exit(1)


def _row(check: FeatureCheck) -> list[str]:
    counts = (len(found) for found in (check.not_finite, check.zero, check.extreme, check.duplicate, check.constant))
    ids = "in the file" if check.has_ids else "by position"
    return [check.source, f"{check.rows:,}", f"{check.width:,}", check.dtype, ids, *(f"{count:,}" for count in counts)]


def _notes(check: FeatureCheck, features: FeatureTable) -> list[str]:
    """Return a line per kind of problem, naming the first row that has it."""
    kinds = {
        "has NaN or infinite values": check.not_finite,
        "is all zeros": check.zero,
        "is too long or too short to scale to length 1": check.extreme,
        "equals an earlier row": check.duplicate,
    }

    def name(row: int) -> str:
        return f"row {row} (counted from 0)" + ("" if features.ids is None else f", item {features.ids[row]!r},")

    return [f"{check.source}: {name(int(rows[0]))} {what}" for what, rows in kinds.items() if len(rows)]
