"""Reading interaction tables, merging duplicates and k-core filtering."""

import datetime
import gzip
import itertools
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lirdrec_pyg.data import k_core, merge_duplicates, read_interactions
from lirdrec_pyg.data.interactions import ColumnConfig, parse_interactions
from lirdrec_pyg.data.splits import SplitStrategy
from lirdrec_pyg.errors import ConfigError, DataError

HEAD = "user_id,item_id\n"


def write(path: Path, content: str | bytes) -> Path:
    content = content if isinstance(content, bytes) else content.encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def columns(frame: pl.DataFrame) -> dict[str, list[Any]]:
    return frame.to_dict(as_series=False)


def named(role: str, column: str) -> ColumnConfig:
    options: dict[str, Any] = {f"{role}_column": column}
    return ColumnConfig(**options)


def parquet(path: Path, **data: Any) -> Path:
    pl.DataFrame(data).write_parquet(path)
    return path


# --- Reading ---------------------------------------------------------------------------------------------------------

ROWS = [("u1", "007", "train"), ("u1", "7", "valid"), ("ü", "x y", "test")]
WANTED = {"user": ["u1", "u1", "ü"], "item": ["007", "7", "x y"], "label": [0, 1, 2]}


def test_contract(tmp_path: Path, refuses: Any) -> None:
    """Tables of every format, with every line end and byte order mark, are read alike; a missing one is named."""
    names = {"t.csv": ",", "t.tsv": "\t", "t.inter": "\t", "t.csv.gz": ",", "t.tsv.gz": "\t", "t[1].csv": ","}
    for (name, separator), end, mark in itertools.product(names.items(), ["\n", "\r\n"], ["", "\ufeff"]):
        lines = [separator.join(row) for row in [("user_id", "item_id", "split"), *ROWS]]
        path = write(tmp_path / name, mark + "".join(line + end for line in lines))
        assert columns(read_interactions(path)) == WANTED, (name, end, mark)
    user, item, split = zip(*ROWS)
    path = parquet(tmp_path / "t[1].parquet", user_id=user, item_id=item, split=split)
    assert columns(read_interactions(path)) == WANTED
    frame = pl.DataFrame({"user_id": user, "item_id": item, "split": split})
    assert columns(parse_interactions(frame, ColumnConfig())) == WANTED
    for name in ("gone.csv", "gone.inter", "gone.parquet", "gone.csv.gz"):
        with refuses(tmp_path / name, "does not exist"):
            read_interactions(tmp_path / name)


def test_a_path_is_never_a_pattern(tmp_path: Path) -> None:
    write(tmp_path / "t1.csv", HEAD + "other,other\n")
    path = write(tmp_path / "t[1].csv", HEAD + "own,own\n")
    assert columns(read_interactions(path)) == {"user": ["own"], "item": ["own"]}


def test_mmrec_layout(tmp_path: Path) -> None:
    path = write(tmp_path / "shop.inter", "userID\titemID\tx_label\n0\t3\t0\n1\t2\t2\n")
    frame = read_interactions(path)
    assert columns(frame) == {"user": [0, 1], "item": [3, 2], "label": [0, 2]}
    assert frame.schema == {"user": pl.Int64, "item": pl.Int64, "label": pl.Int8}


def test_usual_names_of_columns(tmp_path: Path) -> None:
    for head in (
        "user_id:token,item_id:token,timestamp:float",
        "User_ID, ITEMID ,Time",
        "reviewerID,parent_asin,unixReviewTime",
    ):
        path = write(tmp_path / "T.CSV", head + "\n1,2,3\n")
        assert columns(read_interactions(path)) == {"user": [1], "item": [2], "time": [3]}
    # Of two usual names, the more common one.
    path = write(tmp_path / "t.csv", "asin,userID,parent_asin,user_id\n1,2,3,4\n")
    assert columns(read_interactions(path)) == {"user": [4], "item": [3]}


def test_json_lines(tmp_path: Path, refuses: Any) -> None:
    lines = ['{"reviewerID": "A1", "asin": "007", "text": "a\\nb"}', '{"asin": "7", "reviewerID": "A2", "new": 1}', ""]
    for name in ("t.jsonl", "t.json", "t.json.gz"):
        path = write(tmp_path / name, "\n".join(lines))
        assert columns(read_interactions(path)) == {"user": ["A1", "A2"], "item": ["007", "7"]}
    for content, *texts in [
        ('{"user": 1, "item": 2}\n{"user": 1}\n', "no 'item' in line 2"),
        ('[{"user": 1, "item": 2}]', "JSON array"),
        ('{"who": 1}\n', "No column 'user_id'", "`user_column`"),
    ]:
        path = write(tmp_path / "t.jsonl", content)
        with refuses(path, *texts):
            read_interactions(path)


def test_columns_and_separator_can_be_passed(tmp_path: Path, refuses: Any) -> None:
    path = write(tmp_path / "t.txt", 'who|what|when|which\na|"x|y"|3|test\n')
    options = ColumnConfig(
        user_column="who", item_column="what", time_column="when", label_column="which", separator="|"
    )
    assert columns(read_interactions(path, options)) == {"user": ["a"], "item": ["x|y"], "label": [2], "time": [3]}
    path = write(tmp_path / "t.csv", "user\titem\n1\t2\n")
    # As a shell passes it.
    assert columns(read_interactions(path, ColumnConfig(separator="\\t"))) == {"user": [1], "item": [2]}
    path = write(tmp_path / "t.csv", HEAD + "1,2\n")
    for separator in ("", '"'):
        with refuses("`separator`", repr(separator)):
            read_interactions(path, ColumnConfig(separator=separator))
    for role in ("user", "item", "label", "time"):
        with refuses(path, "'wat'", f"`{role}_column`"):
            read_interactions(path, named(role, "wat"))
    with refuses(path, "'item_id'"):
        read_interactions(path, ColumnConfig(user_column="item_id"))


def test_ids_are_kept_as_they_are(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", HEAD + "1,007\n2,7\n")
    assert columns(read_interactions(path)) == {"user": [1, 2], "item": ["007", "7"]}


def test_labels(tmp_path: Path) -> None:
    for labels in [
        *(["0", "1", "2", "2"], ["train", "valid", "test", "test"], ["train", "validation", "test", "test"]),
        *([0, 1, 2, 2], [0.0, 1.0, 2.0, 2.0]),
    ]:
        path = parquet(tmp_path / "t.parquet", user=[1] * 4, item=[1, 2, 3, 4], x_label=labels)
        assert columns(read_interactions(path))["label"] == [0, 1, 2, 2]


@pytest.mark.parametrize(
    ("times", "dtype"),
    [
        ([3, 1, 2], pl.Int64),
        ([1.5, 0.5, 1.0], pl.Float64),
        (["1700000000000000002", "1700000000000000000", "1700000000000000001"], pl.Int64),
        (["3", "1.5", "2e0"], pl.Float64),
        (["2024-01-03", "2024-01-01", "2024-01-02"], None),
        (["2024-01-01 10:00:02", "2024-01-01 10:00:00", "2024-01-01 10:00:01"], None),
        (["2024-01-01T10:00:00Z", "2024-01-01T10:00:00+02:00", "2024-01-01T10:00:00+01:00"], None),
        ([datetime.date(2024, 1, day) for day in (3, 1, 2)], pl.Date),
        ([datetime.datetime(2024, 1, day) for day in (3, 1, 2)], None),
    ],
)
def test_times_keep_their_order(times: list[Any], dtype: Any, tmp_path: Path) -> None:
    time = read_interactions(parquet(tmp_path / "t.parquet", user=[1, 1, 1], item=[1, 2, 3], time=times))["time"]
    assert time.arg_sort().to_list() == [1, 2, 0]
    assert time.n_unique() == 3
    assert time.dtype.is_temporal() if dtype is None else time.dtype == dtype


BAD_TEXT: dict[str, tuple[str | bytes, str]] = {
    "empty file": ("", "not a readable table"),
    "only a header": (HEAD, "holds no interactions"),
    "header and blank lines": (HEAD + "\n\n", "holds no interactions"),
    "no item column": ("user_id,product\n1,2\n", "No column 'item_id' for the items"),
    "no header": ("A17,B9,5.0\nA18,B9,4.0\n", "Pass `user_column`, or `header=False` if the first line holds data."),
    "too many fields": (HEAD + "1,2\n1,2,3\n", "Line 3 of"),
    "too many fields after a text of two lines": (HEAD + '1,"2\n2"\n3,4\n1,2,3\n', "Line 5 of"),
    "too few fields": (HEAD + "1,2\n1\n", "no 'item_id' in line 3"),
    "no user": (HEAD + "1,2\n,2\n", "no 'user_id' in line 3"),
    "quoted nothing": (HEAD + '1,2\n"",2\n', "no 'user_id' in line 3"),
    "blank line": (HEAD + "1,2\n\n3,4\n\n\n", "no 'user_id' in line 3"),
    "latin-1": ((HEAD + "é,2\n").encode("latin-1"), "Save it as UTF-8"),
    "utf-16": ((HEAD + "1,2\n").encode("utf-16"), "Save it as UTF-8"),
    "noise": (np.random.default_rng(0).bytes(500), "not a readable table"),
}
BAD_PARQUET: dict[str, tuple[dict[str, list[Any]], str]] = {
    "no user": ({"user": [1, None], "item": [1, 2]}, "no 'user' in row 1 (rows count from 0)"),
    "float IDs": ({"user": [1.0], "item": [1]}, "Column 'user'"),
    "lists of IDs": ({"user": [1], "item": [[1]]}, "Column 'item'"),
    "no rows": ({"user": [], "item": []}, "holds no interactions"),
}


def test_bad_tables_are_named(tmp_path: Path, refuses: Any) -> None:
    for content, text in BAD_TEXT.values():
        path = write(tmp_path / "t.csv", content)
        with refuses(path, text):
            read_interactions(path)
    for data, text in BAD_PARQUET.values():
        path = parquet(tmp_path / "t.parquet", **data)
        with refuses(path, text):
            read_interactions(path)
        with refuses("The clicks", text):
            parse_interactions(pl.DataFrame(data), ColumnConfig(), source="The clicks")
    whole = parquet(tmp_path / "t.parquet", user=[1], item=[2]).read_bytes()
    cut = gzip.compress((HEAD + "1,2\n" * 999).encode())[:-20]
    for name, damaged in {"cut.parquet": whole[:-9], "noise.parquet": b"noise", "cut.csv.gz": cut}.items():
        (tmp_path / name).write_bytes(damaged)
        with refuses(tmp_path / name):
            read_interactions(tmp_path / name)


def test_blank_lines_at_the_end_are_ignored(tmp_path: Path) -> None:
    for end in ("\n", "\n\n", "\n\n\n\n", "\r\n\r\n", "\n,\n"):
        path = write(tmp_path / "t.csv", HEAD + "1,2\n3,4" + end)
        assert columns(read_interactions(path)) == {"user": [1, 3], "item": [2, 4]}


# Columns of labels and of times that hold something else.
UNREADABLE: dict[str, tuple[dict[str, list[Any]], str]] = {
    "wrong label": ({"split": ["train", "dev"]}, "'dev' in column 'split', line 3"),
    "no label": ({"split": ["train", None]}, "nothing in column 'split', line 3"),
    "another split": ({"split": ["north", "south"]}, "'north' in column 'split', line 2"),
    "wrong date": ({"time": ["2024-01-05", "soon"]}, "'soon' in column 'time', line 3"),
    "wrong number": ({"time": ["5", "soon"]}, "'soon' in column 'time', line 3"),
    "no time": ({"timestamp": ["5", None]}, "nothing in column 'timestamp', line 3"),
    "not a number": ({"time": ["5", "nan"]}, "'nan' in column 'time', line 3"),
    "words as times": ({"time": ["soon", "later"]}, "'soon' in column 'time', line 2"),
    "wrong label in Parquet": ({"split": [0, 3]}, "3 in column 'split', row 1"),
    "lists of labels in Parquet": ({"split": [[1], [2]]}, "Column 'split'"),
    "lists of times in Parquet": ({"time": [[1], [2]]}, "Column 'time'"),
    "booleans as times in Parquet": ({"time": [True, False]}, "True in column 'time', row 0"),
}
ROLES = {"split": "label", "time": "time", "timestamp": "time"}
NEEDING: dict[str, tuple[SplitStrategy, ...]] = {"label": ("labels",), "time": ("time", "leave-last-out")}
STRATEGIES: tuple[SplitStrategy, ...] = ("auto", "labels", "random", "leave-last-out", "time", "none")


@pytest.mark.parametrize("name", UNREADABLE)
def test_an_unreadable_column_is_an_error_only_if_it_is_needed(name: str, tmp_path: Path, refuses: Any) -> None:
    data, text = UNREADABLE[name]
    (column,) = data
    role = ROLES[column]
    frame = pl.DataFrame({"user": [1, 1], "item": [2, 3], **data})
    path = tmp_path / ("t.parquet" if "Parquet" in name else "t.csv")
    if path.suffix == ".csv":
        frame.write_csv(path)
    else:
        frame.write_parquet(path)
    # A column that the user named has to be readable.
    with refuses(path, text):
        read_interactions(path, named(role, column), "none")
    for strategy in STRATEGIES:
        if strategy in NEEDING[role]:
            with refuses(path, text):
                read_interactions(path, split=strategy)
            continue
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            assert columns(read_interactions(path, split=strategy)) == {"user": [1, 1], "item": [2, 3]}
        # Labels would have decided the split, so they are not ignored silently.
        assert len(caught) == (role == "label" and strategy == "auto")
        assert all(text in str(warning.message) for warning in caught)


def test_the_labels_of_the_mmrec_layout_are_always_needed(tmp_path: Path, refuses: Any) -> None:
    for name, strategy in itertools.product(["shop.inter", "shop.inter.gz"], STRATEGIES):
        path = write(tmp_path / name, "userID\titemID\tx_label\n0\t3\t0\n1\t2\t7\n")
        with refuses(path, "'7' in column 'x_label', line 3"):
            read_interactions(path, split=strategy)


# --- Rows that count -------------------------------------------------------------------------------------------------

# Words for a missing ID, and whether they could be IDs.
WORDS = [*((word, True) for word in ("nan", "NaN", "NULL", "None", "NA", "n/a", "<NA>", "\\N", "(null)", "undefined"))]
WORDS += [("", False), ('""', False), ("  ", False), ("\u00a0", False)]


@pytest.mark.parametrize(("word", "is_word"), WORDS)
def test_missing_ids_are_errors_or_dropped_and_words_may_be_kept(
    word: str, is_word: bool, tmp_path: Path, refuses: Any
) -> None:
    rows = [("7", "a"), (word, "b"), ("8", "c"), (word, "d")]
    user = [row[0].strip('"') for row in rows]
    frame = pl.DataFrame(rows, ["user_id", "item_id"], orient="row").with_columns(user_id=pl.Series(user))
    frame.write_parquet(tmp_path / "t.parquet")
    frame.write_ndjson(tmp_path / "t.jsonl")
    text = HEAD + "".join(f"{user},{item}\n" for user, item in rows)
    write(tmp_path / "t.csv.gz", text)
    write(tmp_path / "t.tsv", text.replace(",", "\t"))
    for name, place in {"t.csv.gz": "line 3", "t.tsv": "line 3", "t.jsonl": "line 2", "t.parquet": "row 1"}.items():
        path, keep = tmp_path / name, "`missing_ids='keep'`"
        facts: dict[str, Any] = {}
        with refuses(path, f"no 'user_id' in {place}", "2 in total", "`missing_ids='drop'`", keep if is_word else ""):
            read_interactions(path)
        dropped = read_interactions(path, ColumnConfig(missing_ids="drop"), facts=facts)
        assert columns(dropped) == {"user": [7, 8], "item": ["a", "c"]}
        assert facts == {"rows without an ID": 2}
        if is_word:
            kept = read_interactions(path, ColumnConfig(missing_ids="keep"))
            assert columns(kept)["user"] == ["7", word, "8", word]
        else:
            with refuses(path, f"no 'user_id' in {place}"):
                read_interactions(path, ColumnConfig(missing_ids="keep"))


def test_integers_that_pandas_made_floats_are_integers_again() -> None:
    frame = pl.DataFrame({"user": [3.0, None, 4.0, float("nan")], "item": [1, 2, 3, 4]})
    assert columns(parse_interactions(frame, ColumnConfig(missing_ids="drop"))) == {"user": [3, 4], "item": [1, 3]}


def test_a_header_among_the_rows_is_named(tmp_path: Path, refuses: Any) -> None:
    for again in ("user_id,item_id", '"USER_ID","Item_ID"', "\ufeffuser_id,item_id", "item_id,user_id", "who,what"):
        head = "who,what" if again == "who,what" else "user_id,item_id"
        names = ColumnConfig(user_column=head.split(",")[0], item_column=head.split(",")[1])
        text = f"{head}\n1,2\n3,4\n{again}\n5,6\n"
        for name, end in (("t.csv", "\r\n"), ("t.csv.gz", "\n")):
            path = write(tmp_path / name, text.replace("\n", end))
            with refuses(path, "repeats its header in line 4", "1 in total", "Delete"):
                read_interactions(path, names)
    path = write(tmp_path / "t.tsv", "1\t2\n3\t4\n")
    # Numbers may be both names and IDs.
    assert columns(read_interactions(path, ColumnConfig(user_column="1", item_column="2"))) == {
        "user": [3],
        "item": [4],
    }


def test_tables_without_a_header(tmp_path: Path, refuses: Any) -> None:
    bare = ColumnConfig(header=False)
    path = write(tmp_path / "u.data", "1\t7\t5\t30\n2\t8\t3\t10\n")
    assert columns(read_interactions(path, bare)) == {"user": [1, 2], "item": [7, 8], "time": [30, 10]}
    swapped = ColumnConfig(header=False, user_column="2", item_column="1", min_rating="3>=4")
    assert columns(read_interactions(path, swapped)) == {"user": [7], "item": [1], "time": [30]}
    path = write(tmp_path / "t.csv", "1,2,x\n1,2,y\n,2,y\n")
    with refuses(path, "no '1' in line 3"):
        read_interactions(path, bare)
    path = write(tmp_path / "t.csv", HEAD + "1,2\n")
    with refuses(path, "header in line 1", "Leave out `header=False`"):
        read_interactions(path, bare)
    for name, options in (("t.parquet", bare), ("t.jsonl", ColumnConfig(separator=";"))):
        frame = pl.DataFrame({"user": [1], "item": [2]})
        frame.write_parquet(tmp_path / name) if name == "t.parquet" else frame.write_ndjson(tmp_path / name)
        with pytest.raises(ConfigError, match=f"`separator` and `header`.*{name}"):
            read_interactions(tmp_path / name, options)


def test_spaces_around_ids_can_be_removed(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", HEAD + "1 ,a\u00a0\n\t1, a\n2\u200b,a b\n")
    assert columns(read_interactions(path, ColumnConfig(strip_ids=True))) == {
        "user": [1, 1, 2],
        "item": ["a", "a", "a b"],
    }
    assert columns(read_interactions(path))["user"] == ["1 ", "\t1", "2\u200b"]


def test_only_rated_rows_count(tmp_path: Path, refuses: Any) -> None:
    rating = ["5", "4.0", "", "nan", " 3 ", "1"]
    frame = pl.DataFrame({"user": range(6), "item": range(6), "stars": rating, "note": "x"})
    frame.write_csv(tmp_path / "t.csv")
    numbers = pl.Series([5, 4, None, float("nan"), 3, 1], dtype=pl.Float32)
    frame.with_columns(stars=numbers).write_parquet(tmp_path / "t.parquet")
    for name, (rule, users) in itertools.product(
        ["t.csv", "t.parquet"],
        {
            "stars>=4": [0, 1],
            " stars >= 4.0": [0, 1],
            "stars>3": [0, 1],
            "stars>=3": [0, 1, 4],
            "stars>-1": [0, 1, 4, 5],
        }.items(),
    ):
        facts: dict[str, Any] = {}
        assert columns(read_interactions(tmp_path / name, ColumnConfig(min_rating=rule), facts=facts))["user"] == users
        assert facts == {"rows below min_rating": 6 - len(users), "columns not used": ["note"]}
    path = tmp_path / "t.csv"
    for rule, text in {
        "mark>=4": "No column 'mark' for `min_rating`",
        "note>0": "'x' in column 'note', line 2. A rating is a number",
        "stars>5": "No row of",
    }.items():
        with refuses(path, text):
            read_interactions(path, ColumnConfig(min_rating=rule))
    for rule in ("stars>=4,5", "stars", "stars<3", ">=4", "stars>=four"):
        with pytest.raises(ConfigError, match=r"`min_rating` is .*such as 'rating>=3\.5'"):
            read_interactions(path, ColumnConfig(min_rating=rule))


def test_columns_that_were_not_used_are_named(tmp_path: Path) -> None:
    frame = pl.DataFrame({"user": [1, 1], "item": [2, 3], "rating": [5, 1], "time": [3, 2], "split": ["train", "test"]})
    frame.write_csv(tmp_path / "t.csv")
    for split, unused in {
        "auto": ["rating", "time"],
        "time": ["rating", "split"],
        "random": ["rating", "time", "split"],
    }.items():
        facts: dict[str, Any] = {}
        read_interactions(tmp_path / "t.csv", split=split, facts=facts)  # type: ignore[arg-type]
        assert facts == {"columns not used": unused}


# --- Merging and filtering -------------------------------------------------------------------------------------------


def test_duplicates_keep_the_first_time_and_the_earliest_split() -> None:
    frame = pl.DataFrame(
        {"user": [1, 2, 1, 1], "item": [5, 5, 5, 6], "label": [2, 1, 0, 2], "time": [4, 9, 7, 1]},
        schema_overrides={"label": pl.Int8},
    )
    pairs = {"user": [1, 2, 1], "item": [5, 5, 6]}
    assert columns(merge_duplicates(frame)) == {**pairs, "label": [0, 1, 2], "time": [4, 9, 1]}
    assert columns(merge_duplicates(frame.select("user", "item"))) == pairs


def core_by_hand(pairs: set[tuple[int, int]], k: int) -> set[tuple[int, int]]:
    while True:
        users, items = [u for u, _ in pairs], [i for _, i in pairs]
        kept = {(u, i) for u, i in pairs if users.count(u) >= k and items.count(i) >= k}
        if kept == pairs:
            return kept
        pairs = kept


@given(
    st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=30, unique=True), st.integers(1, 4)
)
def test_k_core_is_the_largest_part_in_which_all_have_k(pairs: list[tuple[int, int]], k: int) -> None:
    wanted = core_by_hand(set(pairs), k)
    frame = pl.DataFrame(pairs, schema={"user": pl.Int64, "item": pl.Int64}, orient="row")
    if wanted:
        assert set(k_core(frame, k).rows()) == wanted
    else:
        with pytest.raises(DataError, match=f"{k}-core"):
            k_core(frame, k)


def test_a_comment_among_the_rows_is_named(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("user_id,item_id,,\nu1,#1,,\n# part two, from May,,\nu2,i2,,\n")
    facts: dict[str, Any] = {}
    with pytest.warns(UserWarning, match=r"looks like a comment, line 3 \('# part two'; 1 in total\)"):
        frame = read_interactions(path, facts=facts)
    assert frame["item"].to_list() == ["#1", " from May", "i2"]
    assert not facts  # columns without entries are not named
