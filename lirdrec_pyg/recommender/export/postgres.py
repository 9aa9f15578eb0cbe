"""Write vectors, titles and known interactions into PostgreSQL with pgvector."""

import logging
import time
from typing import TYPE_CHECKING

import polars as pl
from tqdm import tqdm

from lirdrec_pyg.errors import ConfigError, RunError, check_extra, first_line
from lirdrec_pyg.recommender.export.frames import database_frames
from lirdrec_pyg.recommender.recommender import Recommender

if TYPE_CHECKING:
    from psycopg import Connection
    from psycopg.sql import Composed

_log = logging.getLogger(__name__)

_KEYS = {"users": ("id",), "items": ("id",), "seen": ("user_id", "item_id")}
_COMMENT = "Written by lirdrec-pyg export."
_NEXT = "_next"

# Below PostgreSQL's deadlock_timeout, even for all tables together: no reader is ever canceled for the swap.
_LOCK_TIMEOUT = "200ms"
_LOCK_TRIES = 1000

# Dimensions that an HNSW index of pgvector supports, in single and half precision.
_MAX_INDEXED, _MAX_INDEXED_HALF = 2000, 4000


def check_postgres(to: str) -> None:
    """Raise :class:`ConfigError` if ``to`` is not one of a PostgreSQL database, or a package is missing.

    The message never contains the URL, which may hold a password.
    """
    check_extra("postgres", "psycopg", "pgvector", purpose="PostgreSQL")
    from psycopg import ProgrammingError
    from psycopg.conninfo import conninfo_to_dict

    try:
        if not to.startswith(("postgresql://", "postgres://")):
            raise ProgrammingError
        parts = conninfo_to_dict(to)
        # libpq takes the rest of a password that holds @ or a slash for the host or the database, and shows it.
        if any("@" in str(parts.get(name, "")).lstrip("@") for name in ("host", "dbname")):
            raise ProgrammingError
    except ProgrammingError:
        raise ConfigError(
            "`to` is not the URL of a PostgreSQL database. Write postgresql://user@host:port/database, with special "
            "characters such as @ and / percent-encoded."
        ) from None


def export_postgres(
    recommender: Recommender, to: str, schema: str = "lirdrec", index: bool = True, overwrite: bool = False
) -> dict[str, int]:
    """Write the tables ``users``, ``items`` and ``seen`` into a PostgreSQL database with pgvector.

    See :func:`~lirdrec_pyg.recommender.export.frames.database_frames` for the columns. The score of a user and an item
    is ``-(users.vector <#> items.vector)``. All is done in one transaction: tables of an earlier export are replaced
    by complete new ones, for which the export waits until no transaction reads them, while those that start to read
    wait for a fraction of a second. Privileges on the tables are kept.

    Args:
        recommender: recommender with vectors.
        to: ``postgresql://user@host:port/database``; what is missing is read from libpq's environment variables,
            service file and password file.
        schema: schema of the tables, created if it does not exist.
        index: whether to build an HNSW index of the items by inner product, for approximate searches. Vectors of more
            than 2,000 dimensions are indexed in half precision, those of more than 4,000 are not.
        overwrite: whether to replace tables of an earlier export. Others are never replaced.

    Returns:
        The number of rows of each table.

    Raises:
        ConfigError: if the model has no vectors, the URL is invalid, or a package is missing.
        RunError: if the database cannot be reached or written to, or holds tables of these names.
    """
    check_postgres(to)
    recommender.check_vectors()
    import psycopg
    from pgvector.psycopg import register_vector

    try:
        with psycopg.connect(to, client_encoding="utf8") as connection:
            existing = _check_schema(connection, schema, overwrite)
            frames = database_frames(recommender)
            connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
            register_vector(connection)
            for name, frame in frames.items():
                _write(connection, schema, name, frame)
            if index:
                _build_index(connection, schema, recommender.vectors.item.size(1))
            _swap(connection, schema, existing)
    except psycopg.Error as error:
        detail = error.diag.message_detail  # such as the view that depends on a table
        reason = f"{first_line(error)} ({detail})" if detail else first_line(error)
        raise RunError(f"Cannot export to PostgreSQL: {reason}") from error
    return {name: len(frame) for name, frame in frames.items()}


def _check_schema(connection: "Connection", schema: str, overwrite: bool) -> list[str]:
    """Create the schema, and return which tables of an earlier export it has."""
    from psycopg.sql import SQL, Identifier

    lock = connection.execute("SELECT pg_try_advisory_xact_lock(hashtextextended(%s, 0))", [f"{_COMMENT} {schema}"])
    if lock.fetchone() == (False,):
        raise RunError(f"Another export to the schema {schema!r} is running. Wait for it to end.")
    # Without this query, the database would require the right to create a schema even if it exists.
    if not connection.execute("SELECT 1 FROM pg_namespace WHERE nspname = %s", [schema]).fetchone():
        connection.execute(SQL("CREATE SCHEMA {}").format(Identifier(schema)))
    existing = connection.execute(
        "SELECT relname, obj_description(c.oid, 'pg_class') FROM pg_class c "
        "JOIN pg_namespace n ON n.oid = relnamespace WHERE nspname = %s AND relname = ANY(%s)",
        [schema, list(_KEYS)],
    ).fetchall()
    for name, comment in existing:
        if comment != _COMMENT:
            raise RunError(
                f"The schema {schema!r} has a table {name!r} that is not of an export. Pass another `schema`."
            )
        if not overwrite:
            raise RunError(
                f"The schema {schema!r} has tables of an export. Pass another `schema`, or `overwrite=True`."
            )
    return [name for name, _ in existing]


def _write(connection: "Connection", schema: str, name: str, frame: pl.DataFrame) -> None:
    """Write a table under a temporary name, which only this transaction sees."""
    from psycopg.sql import SQL, Identifier

    table = Identifier(schema, name + _NEXT)
    types = {column: _column_type(dtype) for column, dtype in frame.schema.items()}
    texts = [column for column, type in types.items() if type == "text"]
    frame = frame.with_columns(pl.col(texts).cast(pl.String))
    columns = SQL(", ").join(SQL("{} {}").format(Identifier(column), SQL(type)) for column, type in types.items())
    connection.execute(SQL("CREATE TABLE {} ({})").format(table, columns))
    # Rows of an array as arrays, since a list would hold a Python object per number.
    values = [x.to_numpy() if isinstance(x.dtype, pl.Array) else x for x in frame.iter_columns()]
    with connection.cursor().copy(SQL("COPY {} FROM STDIN (FORMAT binary)").format(table)) as copy:
        copy.set_types([type.partition("(")[0] for type in types.values()])
        for row in tqdm(zip(*values), desc=name, total=len(frame), unit=" rows", disable=None):
            copy.write_row(row)
    key = SQL(", ").join(map(Identifier, _KEYS[name]))
    connection.execute(SQL("ALTER TABLE {} ADD PRIMARY KEY ({})").format(table, key))
    connection.execute(SQL("COMMENT ON TABLE {} IS {}").format(table, _COMMENT))
    connection.execute(SQL("ANALYZE {}").format(table))


def _column_type(dtype: pl.DataType) -> str:
    if isinstance(dtype, pl.Array):
        return f"vector({dtype.size})"
    if dtype in (pl.UInt64, pl.Int128, pl.UInt128) or dtype.is_decimal():
        return "numeric"
    if dtype.is_integer():
        return "int8"
    if dtype.is_float():
        return "float8"
    if isinstance(dtype, pl.Datetime):
        return "timestamptz" if dtype.time_zone else "timestamp"
    others = {pl.Boolean: "bool", pl.Date: "date", pl.Time: "time", pl.Duration: "interval"}
    return others.get(dtype.base_type(), "text")


def _build_index(connection: "Connection", schema: str, width: int) -> None:
    from psycopg.sql import SQL, Identifier

    if width > _MAX_INDEXED_HALF:
        _log.warning("Vectors of %d dimensions cannot be indexed by pgvector. Searches are exact.", width)
        return
    column = "vector vector_ip_ops" if width <= _MAX_INDEXED else f"(vector::halfvec({width})) halfvec_ip_ops"
    _log.info("indexing the items")
    table = Identifier(schema, "items" + _NEXT)
    connection.execute(SQL("CREATE INDEX ON {} USING hnsw ({})").format(table, SQL(column)))


def _swap(connection: "Connection", schema: str, existing: list[str]) -> None:
    """Replace the ``existing`` tables by the new ones."""
    from psycopg.sql import SQL, Identifier

    grants: list[tuple[str]] = []
    if existing:
        old = SQL(", ").join(Identifier(schema, name) for name in existing)
        _lock(connection, SQL("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE").format(old))
        grants = connection.execute(
            "SELECT format('GRANT %%s ON %%I.%%I TO %%s', privilege_type, nspname, relname, "
            "CASE grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(grantee)) END) "
            "FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace, aclexplode(relacl) "
            "WHERE nspname = %s AND relname = ANY(%s) AND grantee <> relowner",
            [schema, existing],
        ).fetchall()
        connection.execute(SQL("DROP TABLE {}").format(old))
    for name in _KEYS:
        connection.execute(
            SQL("ALTER TABLE {} RENAME TO {}").format(Identifier(schema, name + _NEXT), Identifier(name))
        )
    names = connection.execute(
        "SELECT format('ALTER INDEX %%I.%%I RENAME TO %%I', schemaname, indexname, replace(indexname, %s, '')) "
        "FROM pg_indexes WHERE schemaname = %s AND tablename = ANY(%s)",
        [_NEXT, schema, list(_KEYS)],
    ).fetchall()
    for (statement,) in [*grants, *names]:
        connection.execute(statement)


def _lock(connection: "Connection", statement: "Composed") -> None:
    """Lock tables without making others wait for long."""
    from psycopg.errors import LockNotAvailable
    from psycopg.sql import SQL

    for number in range(_LOCK_TRIES):
        try:
            with connection.transaction():
                connection.execute(SQL("SET LOCAL lock_timeout = {}").format(_LOCK_TIMEOUT))
                connection.execute(statement)
                return
        except LockNotAvailable:
            if number == 0:
                _log.info("waiting for transactions that read the earlier tables")
            time.sleep(0.1)
    raise RunError(
        "Other transactions read the tables of the earlier export all the time, such as one that was never ended. End "
        "them, and export again."
    )
