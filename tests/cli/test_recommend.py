from pathlib import Path

import polars as pl
import pytest
from commands import assert_refused, lirdrec

from lirdrec_pyg import Recommender


def read(path: Path) -> pl.DataFrame:
    return {".parquet": pl.read_parquet, ".csv": pl.read_csv, ".jsonl": pl.read_ndjson}[path.suffix](path)


def expected(run: Path, *args: object, **options: object) -> pl.DataFrame:
    return Recommender.load(run).recommend(*args, **options)


def test_recommendations_are_printed(run: Path) -> None:
    result = lirdrec("recommend", run, "--users", "user-3, user-1", "-k", 2)
    assert result.exit_code == 0, result.output
    rows = [line.split() for line in result.output.splitlines()]
    assert rows[0] == ["user", "item", "rank", "score"]
    frame = expected(run, ["user-3", "user-1"], k=2)
    assert [row[:3] for row in rows[1:]] == [[u, i, str(r)] for u, i, r in frame.select("user", "item", "rank").rows()]
    assert [float(row[3]) for row in rows[1:]] == pytest.approx(frame["score"].to_list(), abs=1e-4)


def test_recommendations_for_all_users_are_written(run: Path, tmp_path: Path) -> None:
    columns = ["user", "item", "rank"]
    for suffix in (".parquet", ".csv", ".jsonl"):
        out = tmp_path / f"table{suffix}"
        result = lirdrec("recommend", run, "--all", "-k", 5, "--out", out)
        assert result.exit_code == 0, result.output
        assert f"200 recommendations are in {out}" in result.output
        assert read(out).select(columns).rows() == expected(run, k=5).select(columns).rows()
    assert len([*tmp_path.iterdir()]) == 3


def test_processes_share_all_users(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "3")
    for rank in range(3):
        monkeypatch.setenv("RANK", str(rank))
        result = lirdrec("recommend", run, "--all", "-k", 5, "--out", tmp_path / "parts")
        assert result.exit_code == 0, result.output
    found = pl.concat(pl.read_parquet(path) for path in sorted((tmp_path / "parts").iterdir()))
    monkeypatch.delenv("WORLD_SIZE")
    order = ["user", "rank"]
    assert found.sort(order).equals(expected(run, k=5).select(found.columns).sort(order))
    # Parts of another number of processes would be read with these.
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")  # the one that prints
    assert_refused(lirdrec("recommend", run, "--all", "--out", tmp_path / "parts"), "part-00000-of-00003.parquet")
    assert_refused(lirdrec("recommend", run, "--all", "--out", tmp_path / "a.csv"), "--out FOLDER")


def test_users_and_candidates_come_from_files(run: Path, tmp_path: Path) -> None:
    (tmp_path / "users.txt").write_text("user-9\nuser-2\n")
    (tmp_path / "items.txt").write_text("item-50\nitem-3\nitem-59\n")
    options = ["--users-file", tmp_path / "users.txt", "--candidates", tmp_path / "items.txt", "--include-seen"]
    result = lirdrec("recommend", run, *options, "--out", tmp_path / "a.csv")
    assert result.exit_code == 0, result.output
    found = read(tmp_path / "a.csv")
    assert found["user"].to_list() == ["user-9"] * 3 + ["user-2"] * 3
    for _, of_user in found.group_by("user"):
        assert sorted(of_user["item"]) == ["item-3", "item-50", "item-59"]


def test_new_user_gets_recommendations_by_a_history(run: Path) -> None:
    result = lirdrec("recommend", run, "--history", "item-3,item-4,gone", "-k", 60)
    assert result.exit_code == 0, result.output
    assert "Warning: Unknown items are left out of the history: 'gone'." in result.output
    shown = [line for line in result.output.splitlines() if line.startswith("new user ")]
    assert len(shown) == 58
    assert not [line for line in shown if line.split()[2] in ("item-3", "item-4")]
    assert_refused(lirdrec("recommend", run, "--history", "gone"), "gone")


def test_new_users_get_recommendations_by_a_table(run: Path, tmp_path: Path) -> None:
    table = tmp_path / "today.csv"
    table.write_text('user_id,item_id\n"anna, the great",item-3\nben,item-5\n"anna, the great",item-4\nben,gone\n')
    result = lirdrec("recommend", run, "--history-file", table, "-k", 2, "--out", tmp_path / "out.csv")
    assert result.exit_code == 0, result.output
    assert "Warning: Unknown items are left out of the history: 'gone'." in result.output
    written = pl.read_csv(tmp_path / "out.csv")
    assert written["user"].to_list() == ["anna, the great"] * 2 + ["ben"] * 2
    one = lirdrec("recommend", run, "--history", "item-4,item-3", "-k", 2).output.splitlines()
    assert [line.split()[2] for line in one if line.startswith("new user ")] == written["item"].to_list()[:2]


def test_new_users_without_a_known_item_are_skipped(run: Path, tmp_path: Path) -> None:
    table = tmp_path / "today.csv"
    table.write_text("user_id,item_id\nanna,item-3\nben,gone\ncem,item-5\n")
    result = lirdrec("recommend", run, "--history-file", table, "-k", 1)
    assert result.exit_code == 0, result.output
    assert "Warning: Users without a known item are skipped: 'ben'." in result.output
    assert [line.split()[0] for line in result.stdout.splitlines()[1:]] == ["anna", "cem"]
    result = lirdrec("recommend", run, "--history-file", table, "-k", 1, "--fallback", "popular", "--explain")
    assert "Warning: Users without a known item get popular items: 'ben'." in result.output
    assert [line.split()[0] for line in result.stdout.splitlines()[1:]] == ["anna", "cem", "ben"]
    table.write_text("user_id,item_id\nben,gone\n")
    assert_refused(lirdrec("recommend", run, "--history-file", table), "'gone'", "Known items look like 'item-")


def test_a_table_of_new_users_has_the_options_of_columns(run: Path, tmp_path: Path) -> None:
    (tmp_path / "names.csv").write_text(
        "customer,sku,rating\nanna, item-3,5\nben,item-4,1\nanna,item-4,4\nNULL,item-9,5\n"
    )
    (tmp_path / "bare.txt").write_text("anna;item-3\nanna;item-4\n")
    assert_refused(lirdrec("recommend", run, "--history-file", tmp_path / "names.csv"), "--user-column")
    expected = [
        line.split()[2] for line in lirdrec("recommend", run, "--history", "item-3,item-4").stdout.splitlines()[1:]
    ]
    names = ("--user-column", "customer", "--item-column", "sku")
    for table, *options in (
        ("names.csv", *names, "--strip-ids", "--min-rating", "rating>=4", "--missing-ids", "drop"),
        ("bare.txt", "--no-header", "--separator", ";"),
    ):
        result = lirdrec("recommend", run, "--history-file", tmp_path / table, *options)
        assert result.exit_code == 0, result.output
        rows = [line.split() for line in result.stdout.splitlines()[1:]]
        assert [row[:2] for row in rows] == [["anna", item] for item in expected]


def test_unknown_users_are_skipped_or_get_the_popular_items(run: Path) -> None:
    result = lirdrec("recommend", run, "--users", "nobody,user-1", "-k", 3)
    assert result.exit_code == 0, result.output
    assert [line for line in result.output.splitlines() if line.startswith("Warning:")] == [
        "Warning: 1 of 2 users are unknown or have no training interactions ('nobody'). They are skipped. "
        "Known users look like 'user-0'."
    ]
    result = lirdrec("recommend", run, "--users", "nobody,user-1", "-k", 3, "--fallback", "popular")
    popular = [line.split() for line in result.output.splitlines() if line.startswith("nobody")]
    assert [row[2:] for row in popular] == [["1"], ["2"], ["3"]]


def test_a_table_is_replaced_and_kept_if_something_fails(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "a.parquet"
    out.write_text("earlier")

    def full_disk(*_: object, **__: object) -> None:
        raise OSError("No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(pl.DataFrame, "write_parquet", full_disk)
        assert_refused(lirdrec("recommend", run, "--all", "--out", out), "No space left")
    assert out.read_text() == "earlier"
    assert lirdrec("recommend", run, "--all", "--out", out).exit_code == 0
    assert len(read(out)) == 800
    assert [p.name for p in tmp_path.iterdir()] == ["a.parquet"]


@pytest.fixture(scope="module")
def stock(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A catalog of all items but one, with titles that do not fit into a terminal."""
    path = tmp_path_factory.mktemp("stock") / "stock.csv"
    titles = ["Ein Schal"] * 20 + ["\u30b9\u30ab\u30fc\u30d5" * 20] * 20 + ["A long scarf" + " of wool" * 20] * 19
    rows = [f"item-{n},{title},{'hats' if n % 3 else 'socks'},{n % 4}" for n, title in enumerate(titles)]
    path.write_text("\n".join(["sku,headline,kind,stock", *rows]))
    return path


def test_titles_are_in_every_format_and_fit_into_the_terminal(run: Path, stock: Path, tmp_path: Path) -> None:
    options = ("--items", stock, "--id-col", "sku", "--title", "headline", "--columns", "kind,stock")
    table = pl.read_csv(stock, infer_schema=False).rename({"sku": "item_id"})
    frame = Recommender.load(run).with_catalog(table, title="headline").recommend(columns=["headline", "kind", "stock"])
    assert frame["headline"].null_count()
    for suffix in (".parquet", ".csv", ".jsonl"):
        out = tmp_path / f"table{suffix}"
        result = lirdrec("recommend", run, "--all", *options, "--out", out)
        assert result.exit_code == 0, result.output
        written = read(out)
        assert written["stock"].dtype == pl.Int64
        assert written.drop("score").equals(frame.drop("score"))
    result = lirdrec("recommend", run, "--users", "user-1", "-k", 60, "--include-seen", *options)
    header, *lines = result.output.splitlines()
    assert header.split() == ["user", "item", "rank", "score", "headline", "kind", "stock"]
    assert len(lines) == 60
    start = header.index("headline")
    assert {line[start:].split("  ")[0] for line in lines} == {
        "Ein Schal",
        "\u30b9\u30ab\u30fc\u30d5" * 5 + "\u30b9\u30ab...",
        "A long scarf of wool of wool of wool of wool ...",
        "",
    }


def test_the_catalog_of_a_run_is_shown_without_asking(run: Path, stock: Path, tmp_path: Path) -> None:
    catalog = pl.read_csv(stock).rename({"sku": "item_id", "headline": "title"})
    own = tmp_path / "run"
    Recommender.load(run).with_catalog(catalog).save(own)
    header, *lines = lirdrec("recommend", own, "--history", "item-3", "-k", 2).output.splitlines()
    assert header.split() == ["user", "item", "rank", "score", "title"]
    titles = dict(catalog["item_id", "title"].iter_rows())
    for line in lines:
        item, title = line.split()[2], line.split(maxsplit=5)[5]
        assert titles[item].startswith(title.removesuffix("...").strip())
    lines = lirdrec("recommend", own, "--users", "user-1", "-k", 2, "--title", "kind").output.splitlines()
    assert lines[0].split()[-1] == "kind"
    assert {line.split()[-1] for line in lines[1:]} <= {"hats", "socks"}
    explained = lirdrec("recommend", own, "--users", "user-1", "-k", 2, "--explain", "--out", tmp_path / "a.csv")
    assert explained.exit_code == 0, explained.output
    recommender = Recommender.load(own)
    expected = recommender.because(recommender.recommend(["user-1"], k=2, columns=["title"]))
    assert read(tmp_path / "a.csv").columns == expected.columns
    assert read(tmp_path / "a.csv")["because_1"].to_list() == expected["because_1"].to_list()


def test_rules_are_those_of_the_library(run: Path, stock: Path, tmp_path: Path) -> None:
    catalog = pl.read_csv(stock).rename({"sku": "item_id"})
    catalog.write_parquet(tmp_path / "stock.parquet")
    (tmp_path / "gone.txt").write_text("item-9\nitem-30\n")
    options = (
        *("--items", tmp_path / "stock.parquet", "--exclude", tmp_path / "gone.txt", "--out", tmp_path / "a.csv"),
        *("--where", "stock > 0 AND kind <> 'none'", "--max-per", "kind=3", "--max-per", "stock=4"),
        *("--popularity-penalty", 0.4, "--diversity", 0.3, "--diversity-method", "dpp", "--diversity-by", "image"),
    )
    rules = {
        "exclude": ["item-9", "item-30"],
        "where": "stock > 0 AND kind <> 'none'",
        "max_per": {"kind": 3, "stock": 4},
        "popularity_penalty": 0.4,
        "diversity": 0.3,
        "diversity_method": "dpp",
        "diversity_by": "image",
    }
    recommender = Recommender.load(run).with_catalog(catalog)
    for ask, found in (
        (("--users", "user-1,user-2"), recommender.recommend(["user-1", "user-2"], **rules)),
        (("--history", "item-3,item-4"), recommender.recommend_for_history(["item-3", "item-4"], **rules)),
    ):
        result = lirdrec("recommend", run, *ask, *options)
        assert result.exit_code == 0, result.output
        assert read(tmp_path / "a.csv").drop("score").equals(found.drop("score"))
        assert len(found) == 6 * found["user"].n_unique()


ONE_OF = "--users, --users-file, --all, --history and --history-file"
MISTAKES: dict[tuple[str, ...], str] = {
    (): ONE_OF,
    ("--users", "user-1", "--all"): ONE_OF,
    ("--users", "user-1", "--history", "item-1", "--all"): ONE_OF,
    ("--all",): "--out",
    ("--all", "--out", "{tmp}/a.txt"): ".parquet, .csv, .jsonl",
    ("--all", "--out", "{tmp}/nowhere/a.csv"): "nowhere",
    ("--users-file", "{tmp}/gone.txt"): "gone.txt",
    ("--users-file", "{tmp}/empty.txt"): "users is empty",
    ("--users-file", "{tmp}/empty.txt", "--out", "{tmp}/a.csv"): "users is empty",
    ("--users-file", "{tmp}/blank.txt"): "line 2",
    ("--users", "user-1", "--candidates", "{tmp}/empty.txt"): "candidates is empty",
    ("--users", "user-1", "--candidates", "{tmp}/users.txt"): "'user-1'",
    ("--users", "nobody,noone"): "'nobody', 'noone'",
    ("--users", "user-1", "--user-column", "customer"): "--history-file",
    ("--users", "nobody"): "--fallback popular",
    ("--users", "user-1,noone", "--fallback", "error"): "noone",
    ("--users", "user-1,,user-2"): "--users",
    ("--users", ""): "--users",
    ("--history", ""): "--history",
    ("--users", "user-1", "-k", "0"): "-k",
    ("--users", "user-1", "--fallback", "best"): "--fallback",
    ("--users", "user-1", "--where", "stock > 0"): "--where needs an item catalog, but the run has none. Pass",
    ("--users", "user-1", "--columns", "kind"): "as --items",
    ("--users", "user-1", "--title", "kind"): "--title needs an item catalog",
    ("--users", "user-1", "--items", "{tmp}/stock.csv", "--title", "x"): "Pass --title",
    ("--users", "user-1", "--items", "{tmp}/stock.csv", "--id-col", "x"): "Pass --id-col",
    ("--users", "user-1", "--id-col", "x"): "--id-col is for --items",
    ("--users", "user-1", "--items", "{tmp}/stock.csv", "--where", "x > 0"): "--where is 'x > 0'",
    ("--users", "user-1", "--items", "{tmp}/stock.csv", "--max-per", "kind=0"): "--max-per is 0",
    ("--users", "user-1", "--items", "{tmp}/stock.csv", "--max-per", "kind=a"): "NAME=NUMBER",
    ("--users", "user-1", "--items", "{tmp}/stock.csv", "--max-per", "size=3"): "--max-per has 'size'",
    ("--users", "user-1", "--items", "{tmp}/users.txt"): "no column of item IDs (columns: 'user-1')",
    ("--users", "user-1", "--diversity", "2"): "--diversity",
}


def test_each_mistake_is_one_error_and_writes_nothing(run: Path, tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "blank.txt").write_text("user-1\n\nuser-2\n")
    (tmp_path / "users.txt").write_text("user-1\n")
    (tmp_path / "stock.csv").write_text("item_id,kind\nitem-1,hats\n")
    before = sorted(tmp_path.iterdir())
    for options, named in MISTAKES.items():
        assert_refused(lirdrec("recommend", run, *(option.format(tmp=tmp_path) for option in options)), named)
        assert sorted(tmp_path.iterdir()) == before
