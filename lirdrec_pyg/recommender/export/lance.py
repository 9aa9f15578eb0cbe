"""Write vectors, titles and known interactions into a LanceDB database."""

from pathlib import Path

from lirdrec_pyg.errors import RunError, check_extra, first_line
from lirdrec_pyg.recommender.export.files import check_export_folder
from lirdrec_pyg.recommender.export.frames import database_frames
from lirdrec_pyg.recommender.recommender import Recommender


def export_lance(recommender: Recommender, out: Path, overwrite: bool = False) -> dict[str, int]:
    """Write the tables ``users``, ``items`` and ``seen`` into a folder that LanceDB reads.

    See :func:`~lirdrec_pyg.recommender.export.frames.database_frames` for the columns. Each table is replaced
    atomically, and a table that a reader has open stays as it was; Lance has no transactions over several tables.

    Args:
        recommender: recommender with vectors.
        out: folder, created if it does not exist.
        overwrite: whether to replace tables of an earlier export.

    Returns:
        The number of rows of each table.

    Raises:
        ConfigError: if the model has no vectors, or the package is missing.
        RunError: if a table cannot be written, or exists.
    """
    check_extra("lance", "lancedb", purpose="LanceDB")
    import lancedb

    check_export_folder(out)
    frames = database_frames(recommender)
    existing = [name for name in frames if (out / f"{name}.lance").exists()]
    if existing and not overwrite:
        raise RunError(f"{out} has a table {existing[0]!r}. Export to another folder, or pass `overwrite=True`.")
    try:
        database = lancedb.connect(out)
        for name, frame in frames.items():
            table = database.create_table(name, frame, mode="overwrite" if name in existing else "create")
            table.optimize()  # which removes versions older than a week
    except (OSError, RuntimeError, ValueError) as error:
        raise RunError(f"Cannot write to the LanceDB database {out} ({first_line(error)}).") from error
    return {name: len(frame) for name, frame in frames.items()}
