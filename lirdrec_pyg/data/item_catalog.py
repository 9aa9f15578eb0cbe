import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import polars as pl

from lirdrec_pyg.data.column_names import find_column
from lirdrec_pyg.data.ids import canonical_ids, check_ids, check_no_header
from lirdrec_pyg.data.tables import read_parquet
from lirdrec_pyg.data.texts import cell_texts
from lirdrec_pyg.data.vocabulary import Vocabulary
from lirdrec_pyg.errors import ConfigError, DataError, first_line, listed, shown

# Names of columns that are recognized, most common first.
_TITLES = ("title", "name", "item_name", "product_name", "prod_name", "product_title")
_PICTURES = ("picture", "image", "poster", "image_path", "picture_path", "poster_path", "image_file", "img")

_METADATA = ("title", "picture", "image_root")
# Not 007, which is a name, nor codes of more digits than a number of floating point has.
_NUMBER = r"^[+-]?(0|[1-9]\d*)(\.\d+)?$"
_MAX_DIGITS = 15
# In a subquery, polars reads the files that these functions name.
_READS_FILES = re.compile(r"\bread_(csv|ipc|json|ndjson|parquet)\b", re.IGNORECASE)
_EXAMPLE = "Write it as in \"stock > 0 AND category <> 'Socks'\"."


@dataclass(frozen=True)
class ItemCatalog:
    """What is known of the items beside their features, for people to read.

    Attributes:
        frame: one row per item; the column ``id`` holds the item IDs; titles are text; text columns of numbers, such as
            those of CSV files, hold numbers; all others are as given.
        title: column with the name of an item, ``None`` if there is none.
        picture: column with the path of its image, or with the image as a ``data:`` URI; ``None`` if there is none.
        image_root: folder that the paths are relative to, ``None`` if unknown.
    """

    frame: pl.DataFrame
    title: str | None = None
    picture: str | None = None
    image_root: str | None = None

    @classmethod
    def of(
        cls,
        frame: pl.DataFrame,
        *,
        id_col: str | None = None,
        title: str | None = None,
        picture: str | None = None,
        image_root: str | None = None,
    ) -> "ItemCatalog":
        """Recognize the columns of a table of items.

        Args:
            frame: one row per item.
            id_col: column of item IDs; by default one with a usual name, such as ``item_id`` or ``id``.
            title: column with the name of an item; by default one with a usual name, such as ``title``.
            picture: column with the path of its image; by default one with a usual name, such as ``image``.
            image_root: folder that the paths are relative to.

        Raises:
            DataError: if a column is missing, or an ID is missing or occurs twice.
        """
        readable = [name for name, dtype in frame.schema.items() if not dtype.is_nested() and dtype != pl.Object]
        names = {name.lower(): name for name in reversed(readable)}
        id_col = id_col or find_column("item", frame.columns) or names.get("id")
        for name, column in (("id_col", id_col), ("title", title), ("picture", picture)):
            if column is not None and column not in frame.columns:
                raise DataError(
                    f"The item catalog has no column {column!r} (columns: {listed(frame.columns)}). Pass `{name}`."
                )
        if id_col is None:
            raise DataError(
                f"The item catalog has no column of item IDs (columns: {listed(frame.columns)}). Pass `id_col`, or "
                "name it 'item_id'."
            )
        title, picture = title or _first(_TITLES, names), picture or _first(_PICTURES, names)
        for name in filter(None, (title, picture)):
            if name not in readable:
                raise DataError(f"Column {name!r} of the item catalog has type {frame.schema[name]}, not text.")
        ids = canonical_ids(frame[id_col], source=f"Column {id_col!r} of the item catalog")
        check_ids(ids, source="The item catalog")
        check_no_header(ids, id_col, source="The item catalog")
        if title is not None:
            frame = frame.with_columns(cell_texts(frame[title], f"column {title!r} of the item catalog"))
        others = frame.drop(id_col, "id", strict=False)
        title, picture = ("id" if name == id_col else name for name in (title, picture))
        return cls(_with_numbers(others.insert_column(0, ids.alias("id")), title, picture), title, picture, image_root)

    def __len__(self) -> int:
        return len(self.frame)

    def check_known(self, items: Vocabulary) -> None:
        """Raise :class:`DataError` if none of the items of the catalog is one of ``items``."""
        if (ids := self.frame["id"]).is_empty():
            raise DataError("The item catalog has no rows.")
        if (items.find(ids) < 0).all():
            raise DataError(
                f"None of the {len(ids)} items of the catalog is known ({listed(ids)}). {items.hint(ids)} If another "
                "column has the IDs, pass `id_col`."
            )

    @cached_property
    def _vocabulary(self) -> Vocabulary:
        return Vocabulary(self.frame["id"], "item")

    def missing(self, ids: pl.Series) -> pl.Series:
        """Return those of ``ids`` that are not in the catalog."""
        return ids.filter(pl.Series(self._vocabulary.find(ids) < 0))

    def rows(self, ids: pl.Series) -> pl.DataFrame:
        """Return the rows of some items, in their order, with nulls for items that are not in the catalog."""
        position = pl.Series(self._vocabulary.find(ids))
        return self.frame.select(pl.all().gather(position.set(position < 0, None))).with_columns(ids.alias("id"))

    def titles(self, ids: pl.Series) -> pl.Series:
        """Return the names of some items as text, null where there is none."""
        if self.title is None:
            return pl.Series("title", [None] * len(ids), dtype=pl.String)
        return self.rows(ids)[self.title].cast(pl.String).alias("title")

    def matching(self, condition: str) -> pl.Series:
        """Return the IDs of the items that meet a condition in the SQL of polars.

        Where the condition is null, it is not met.

        Args:
            condition: such as ``"stock > 0 AND category <> 'Socks'"``.

        Raises:
            ConfigError: if it is invalid or not a condition.
        """
        text, frame = shown(condition), self.frame
        if _READS_FILES.search(condition):
            raise ConfigError(f"`where` is {text}, but cannot read files. Compare columns of the item catalog.")
        try:
            met = frame.select(pl.sql_expr(condition).alias("met"), pl.col("id"))
        except pl.exceptions.ColumnNotFoundError as error:
            raise ConfigError(
                f"`where` is {text}, but the item catalog has the columns {listed(frame.columns)} "
                f"({first_line(error).split(';')[0]}). Put text into single quotes."
            ) from error
        except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
            named = {word: frame.schema[word] for word in re.findall(r"\w+", condition) if word in frame.columns}
            types = ", ".join(f"{name}: {dtype}" for name, dtype in named.items())
            raise ConfigError(
                f"`where` is {text}, which is not valid SQL{f' for {types}' if types else ''} ({first_line(error)}). "
                f"{_EXAMPLE}"
            ) from error
        if met.schema["met"] != pl.Boolean:
            raise ConfigError(f"`where` is {text}, which is of type {met.schema['met']}, not a condition. {_EXAMPLE}")
        return met.filter("met")["id"]

    def save(self, path: Path) -> None:
        """Write a Parquet file that holds the table, and in its metadata all else."""
        metadata = {name: getattr(self, name) or "" for name in _METADATA}
        self.frame.write_parquet(path, metadata=metadata)

    @classmethod
    def load(cls, path: Path) -> "ItemCatalog":
        """Read what :meth:`save` wrote.

        Raises:
            DataError: if the file is missing or damaged.
        """
        frame, metadata = read_parquet(path), pl.read_parquet_metadata(path)
        if "id" not in frame.columns:
            raise DataError(f"{path} is not an item catalog: it has no column 'id'.")
        title, picture, image_root = (metadata.get(name) or None for name in _METADATA)
        # Earlier versions kept the text of all columns.
        return cls(_with_numbers(frame, title, picture), title, picture, image_root)


def _with_numbers(frame: pl.DataFrame, *texts: str | None) -> pl.DataFrame:
    """Convert text columns that hold nothing but numbers, except for ``id`` and ``texts``."""
    return frame.with_columns(_as_numbers(frame[name]) for name in frame.columns if name not in ("id", *texts))


def _as_numbers(column: pl.Series) -> pl.Series:
    if column.dtype != pl.String or not column.str.contains(_NUMBER).all():
        return column
    if (column.str.len_chars() > _MAX_DIGITS).any():
        return column
    return column.cast(pl.Float64 if column.str.contains(".", literal=True).any() else pl.Int64)


def _first(usual: Sequence[str], names: dict[str, str]) -> str | None:
    return next((names[name] for name in usual if name in names), None)
