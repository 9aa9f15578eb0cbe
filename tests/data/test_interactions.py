import datetime
import gzip
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, reject
from hypothesis import strategies as st

from lirdrec_pyg.config import ColumnConfig, SplitStrategy
from lirdrec_pyg.data import k_core, merge_duplicates, read_interactions, split_interactions
from lirdrec_pyg.errors import DataError

HEAD = "user_id,item_id\n"


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def columns(frame: pl.DataFrame) -> dict[str, list[Any]]:
    return frame.to_dict(as_series=False)


def parquet(path: Path, **data: Any) -> Path:
    pl.DataFrame(data).write_parquet(path)
    return path


# --- Reading ---------------------------------------------------------------------------------------------------------

ROWS = [("u1", "007", "train"), ("u1", "7", "valid"), ("ü", "x y", "test")]
WANTED = {"user": ["u1", "u1", "ü"], "item": ["007", "7", "x y"], "label": [0, 1, 2]}


@pytest.mark.parametrize(
    ("name", "separator"),
    [("t.csv", ","), ("t.tsv", "\t"), ("t.inter", "\t"), ("t.csv.gz", ","), ("t.tsv.gz", "\t"), ("t[1].csv", ",")],
)
@pytest.mark.parametrize("end", ["\n", "\r\n"], ids=["LF", "CRLF"])
@pytest.mark.parametrize("mark", ["", "\ufeff"], ids=["", "BOM"])
def test_text_tables(name: str, separator: str, end: str, mark: str, tmp_path: Path) -> None:
    lines = [separator.join(row) for row in [("user_id", "item_id", "split"), *ROWS]]
    content = (mark + "".join(line + end for line in lines)).encode()
    path = write(tmp_path / name, gzip.compress(content) if name.endswith(".gz") else content)
    assert columns(read_interactions(path)) == WANTED


def test_parquet_tables(tmp_path: Path) -> None:
    user, item, split = zip(*ROWS)
    path = parquet(tmp_path / "t[1].parquet", user_id=user, item_id=item, split=split)
    assert columns(read_interactions(path)) == WANTED


def test_a_path_is_never_a_pattern(tmp_path: Path) -> None:
    write(tmp_path / "t1.csv", HEAD + "other,other\n")
    path = write(tmp_path / "t[1].csv", HEAD + "own,own\n")
    assert columns(read_interactions(path)) == {"user": ["own"], "item": ["own"]}


def test_mmrec_layout(tmp_path: Path) -> None:
    path = write(tmp_path / "shop.inter", "userID\titemID\tx_label\n0\t3\t0\n1\t2\t2\n")
    frame = read_interactions(path)
    assert columns(frame) == {"user": [0, 1], "item": [3, 2], "label": [0, 2]}
    assert frame.schema == {"user": pl.Int64, "item": pl.Int64, "label": pl.Int8}


@pytest.mark.parametrize(
    "head",
    ["user_id:token,item_id:token,timestamp:float", "User_ID, ITEMID ,Time", "reviewerID,parent_asin,unixReviewTime"],
)
def test_usual_names_in_other_forms(head: str, tmp_path: Path) -> None:
    path = write(tmp_path / "T.CSV", head + "\n1,2,3\n")
    assert columns(read_interactions(path)) == {"user": [1], "item": [2], "time": [3]}


def test_of_two_columns_with_usual_names_the_more_usual_one_counts(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", "asin,USER_ID,parent_asin,user_id\n1,2,3,4\n")
    assert columns(read_interactions(path)) == {"user": [2], "item": [3]}


@pytest.mark.parametrize("name", ["t.jsonl", "t.json", "t.json.gz"])
def test_objects_of_json(name: str, tmp_path: Path) -> None:
    lines = [
        '{"reviewerID": "A1", "asin": "007", "text": "a\\nb"}',
        '{"asin": "7", "reviewerID": "A2", "new": 1}',
        "",
    ]
    content = "\n".join(lines).encode()
    path = write(tmp_path / name, gzip.compress(content) if name.endswith(".gz") else content)
    assert columns(read_interactions(path)) == {"user": ["A1", "A2"], "item": ["007", "7"]}


def test_objects_of_json_are_named_by_their_lines(tmp_path: Path, refuses: Any) -> None:
    path = write(tmp_path / "t.jsonl", '{"user": 1, "item": 2}\n{"user": 1}\n')
    with refuses(path, "no 'item' in line 2"):
        read_interactions(path)
    path = write(tmp_path / "t.json", '[{"user": 1, "item": 2}]')
    with refuses("Line 1 of", path):
        read_interactions(path)
    path = write(tmp_path / "one.jsonl", '{"who": 1}\n')
    with refuses(path, "no column 'user_id'", "--user-column"):
        read_interactions(path)


def test_columns_and_separator_can_be_named(tmp_path: Path) -> None:
    path = write(tmp_path / "t.txt", 'who|what|when|which\na|"x|y"|3|test\n')
    options = ColumnConfig(
        user_column="who", item_column="what", time_column="when", label_column="which", separator="|"
    )
    assert columns(read_interactions(path, options)) == {"user": ["a"], "item": ["x|y"], "label": [2], "time": [3]}


def test_a_tab_can_be_written_as_the_shell_passes_it(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", "user\titem\n1\t2\n")
    assert columns(read_interactions(path, ColumnConfig(separator="\\t"))) == {"user": [1], "item": [2]}


def test_leading_zeros_survive_among_numbers(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", HEAD + "1,007\n2,7\n")
    assert columns(read_interactions(path)) == {"user": [1, 2], "item": ["007", "7"]}


def test_words_for_nothing_are_ids(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", HEAD + "null,NA\nNone,nan\n")
    assert columns(read_interactions(path)) == {"user": ["null", "None"], "item": ["NA", "nan"]}


@pytest.mark.parametrize(
    "labels",
    [
        *(["0", "1", "2", "2"], ["train", "valid", "test", "test"], ["train", "validation", "test", "test"]),
        *([0, 1, 2, 2], [0.0, 1.0, 2.0, 2.0]),
    ],
)
def test_labels(labels: list[Any], tmp_path: Path) -> None:
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
    frame = read_interactions(parquet(tmp_path / "t.parquet", user=[1, 1, 1], item=[1, 2, 3], time=times))
    assert frame["time"].arg_sort().to_list() == [1, 2, 0]
    assert frame["time"].n_unique() == 3
    if dtype is None:
        assert frame["time"].dtype.is_temporal()
    else:
        assert frame["time"].dtype == dtype


BAD_TEXT: dict[str, tuple[str | bytes, str]] = {
    "empty file": ("", "not a readable table"),
    "header alone": (HEAD, "holds no interactions"),
    "header and blank lines": (HEAD + "\n\n", "holds no interactions"),
    "no item column": ("user_id,product\n1,2\n", "'item_id' for the item: its columns are 'user_id', 'product'"),
    "tab in a .csv": ("user_id\titem_id\n1\t2\n", "'user_id\\titem_id'; name the sign between the columns with --sep"),
    "no header": ("A17,B9,5.0\nA18,B9,4.0\n", "give it a first line with names"),
    "line ends of old": ("user_id,item_id\r1,2\r3,4\r", "end its lines as usual"),
    "line ends of old, tabs in a .csv": ("user_id\titem_id\r1\t2\r", "end its lines as usual"),
    "too many fields": (HEAD + "1,2\n1,2,3\n", "Line 3 of"),
    "too many fields after a text of two lines": (HEAD + '1,"2\n2"\n3,4\n1,2,3\n', "Line 5 of"),
    "a line before the header": ("# of May\n" + HEAD + "1,2\n", "Line 2 of"),
    "too few fields": (HEAD + "1,2\n1\n", "no 'item_id' in line 3"),
    "no user": (HEAD + "1,2\n,2\n", "no 'user_id' in line 3"),
    "quoted nothing": (HEAD + '1,2\n"",2\n', "no 'user_id' in line 3"),
    "blank line": (HEAD + "1,2\n\n3,4\n", "no 'user_id' in line 3"),
    "open quote": (HEAD + '"1,2\n3,4\n', "not a readable table"),
    "latin-1": ((HEAD + "é,2\n").encode("latin-1"), "save it as UTF-8"),
    "utf-16": ((HEAD + "1,2\n").encode("utf-16"), "save it as UTF-8"),
    "noise": (np.random.default_rng(0).bytes(500), "not a readable table"),
}


@pytest.mark.parametrize("name", BAD_TEXT)
def test_bad_text_tables_are_named(name: str, tmp_path: Path, refuses: Any) -> None:
    content, text = BAD_TEXT[name]
    path = write(tmp_path / "t.csv", content)
    with refuses(path, text):
        read_interactions(path)


BAD_PARQUET: dict[str, tuple[dict[str, list[Any]], str]] = {
    "no user": ({"user": [1, None], "item": [1, 2]}, "no 'user' in row 1 (rows count from 0)"),
    "float IDs": ({"user": [1.0], "item": [1]}, "Column 'user'"),
    "lists of IDs": ({"user": [1], "item": [[1]]}, "Column 'item'"),
    "no rows": ({"user": [], "item": []}, "holds no interactions"),
}


@pytest.mark.parametrize("name", BAD_PARQUET)
def test_bad_parquet_tables_are_named(name: str, tmp_path: Path, refuses: Any) -> None:
    data, text = BAD_PARQUET[name]
    path = parquet(tmp_path / "t.parquet", **data)
    with refuses(path, text):
        read_interactions(path)


# Columns of labels and of times that hold something else.
UNREADABLE: dict[str, tuple[dict[str, list[Any]], str]] = {
    "wrong label": ({"split": ["train", "dev"]}, "'dev' in column 'split', line 3"),
    "no label": ({"split": ["train", None]}, "None in column 'split', line 3"),
    "another split": ({"split": ["north", "south"]}, "'north' in column 'split', line 2"),
    "wrong date": ({"time": ["2024-01-05", "soon"]}, "'soon' in column 'time', line 3"),
    "wrong number": ({"time": ["5", "soon"]}, "'soon' in column 'time', line 3"),
    "no time": ({"timestamp": ["5", None]}, "None in column 'timestamp', line 3"),
    "not a number": ({"time": ["5", "nan"]}, "'nan' in column 'time', line 3"),
    "words for times": ({"time": ["soon", "later"]}, "'soon' in column 'time', line 2"),
    "wrong label in Parquet": ({"split": [0, 3]}, "3 in column 'split', row 1"),
    "lists of labels in Parquet": ({"split": [[1], [2]]}, "Column 'split'"),
    "lists of times in Parquet": ({"time": [[1], [2]]}, "Column 'time'"),
    "truth of times in Parquet": ({"time": [True, False]}, "True in column 'time', row 0"),
}
ROLES = {"split": "label", "time": "time", "timestamp": "time"}
NEEDING: dict[str, tuple[SplitStrategy, ...]] = {"label": ("labels",), "time": ("time", "leave-last-out")}
STRATEGIES: tuple[SplitStrategy, ...] = ("auto", "labels", "random", "leave-last-out", "time")


def unreadable(folder: Path, name: str) -> tuple[Path, str, str, str]:
    """A table with the column ``name`` of UNREADABLE: its path, that column, its role and the error."""
    data, text = UNREADABLE[name]
    (column,) = data
    frame = pl.DataFrame({"user": [1, 1], "item": [2, 3], **data})
    path = folder / ("t.parquet" if "Parquet" in name else "t.csv")
    if path.suffix == ".csv":
        frame.write_csv(path)
    else:
        frame.write_parquet(path)
    return path, column, ROLES[column], text


@pytest.mark.parametrize("name", UNREADABLE)
def test_an_unreadable_column_that_the_split_needs_is_named(name: str, tmp_path: Path, refuses: Any) -> None:
    path, _, role, text = unreadable(tmp_path, name)
    for strategy in NEEDING[role]:
        with refuses(path, text):
            read_interactions(path, split=strategy)


@pytest.mark.parametrize("name", UNREADABLE)
def test_an_unreadable_column_that_the_user_named_is_named(name: str, tmp_path: Path, refuses: Any) -> None:
    path, column, role, text = unreadable(tmp_path, name)
    for strategy in STRATEGIES:
        with refuses(path, text):
            read_interactions(path, ColumnConfig(**{f"{role}_column": column}), strategy)


@pytest.mark.filterwarnings("ignore:.*The column is not used")
@pytest.mark.parametrize("name", UNREADABLE)
def test_an_unreadable_column_that_nobody_needs_is_left_out(name: str, tmp_path: Path) -> None:
    path, _, role, _ = unreadable(tmp_path, name)
    for strategy in set(STRATEGIES) - set(NEEDING[role]):
        assert columns(read_interactions(path, split=strategy)) == {"user": [1, 1], "item": [2, 3]}


def test_labels_that_would_have_decided_the_split_are_not_left_out_in_silence(
    tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    path, *_ = unreadable(tmp_path, "wrong label")
    read_interactions(path, split="random")
    assert not recwarn.list
    read_interactions(path)
    (warning,) = recwarn.list
    assert "'dev' in column 'split', line 3" in str(warning.message)


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("name", ["shop.inter", "shop.inter.gz"])
def test_the_labels_of_the_mmrec_layout_are_always_needed(
    name: str, strategy: SplitStrategy, tmp_path: Path, refuses: Any
) -> None:
    content = b"userID\titemID\tx_label\n0\t3\t0\n1\t2\t7\n"
    path = write(tmp_path / name, gzip.compress(content) if name.endswith(".gz") else content)
    with refuses(path, "'7' in column 'x_label', line 3"):
        read_interactions(path, split=strategy)


@pytest.mark.parametrize("end", ["\n", "\n\n", "\n\n\n\n", "\r\n\r\n", "\n,\n"])
def test_blank_lines_at_the_end_are_nothing(end: str, tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", HEAD + "1,2\n3,4" + end)
    assert columns(read_interactions(path)) == {"user": [1, 3], "item": [2, 4]}


def test_only_blank_lines_at_the_end_are_nothing(tmp_path: Path, refuses: Any) -> None:
    path = write(tmp_path / "t.csv", HEAD + "1,2\n\n3,4\n\n\n")
    with refuses(path, "no 'user_id' in line 3"):
        read_interactions(path)


@pytest.mark.parametrize("name", ["t.csv", "t.inter", "t.parquet", "t.csv.gz"])
def test_a_missing_table_is_named(name: str, tmp_path: Path, refuses: Any) -> None:
    with refuses(f"There is no file {tmp_path / name}"):
        read_interactions(tmp_path / name)


def test_damaged_containers_are_named(tmp_path: Path, refuses: Any) -> None:
    whole = parquet(tmp_path / "t.parquet", user=[1], item=[2]).read_bytes()
    for name, content in {
        "cut.parquet": whole[:-9],
        "noise.parquet": b"noise",
        "cut.csv.gz": gzip.compress((HEAD + "1,2\n" * 999).encode())[:-20],
    }.items():
        path = write(tmp_path / name, content)
        with refuses(path):
            read_interactions(path)


@pytest.mark.parametrize("separator", ["", "::", "é"])
def test_separators_of_other_length_are_refused(separator: str, tmp_path: Path, refuses: Any) -> None:
    path = write(tmp_path / "t.csv", HEAD + "1,2\n")
    with refuses("--separator", repr(separator)):
        read_interactions(path, ColumnConfig(separator=separator))


@pytest.mark.parametrize("role", ["user", "item", "label", "time"])
def test_a_named_column_has_to_be_there(role: str, tmp_path: Path, refuses: Any) -> None:
    path = write(tmp_path / "t.csv", HEAD + "1,2\n")
    with refuses(path, "'wat'", f"--{role}-column"):
        read_interactions(path, ColumnConfig(**{f"{role}_column": "wat"}))


def test_users_and_items_need_two_columns(tmp_path: Path, refuses: Any) -> None:
    path = write(tmp_path / "t.csv", HEAD + "1,2\n")
    with refuses(path, "'item_id'"):
        read_interactions(path, ColumnConfig(user_column="item_id"))


# --- Merging and filtering -------------------------------------------------------------------------------------------


def test_duplicates_keep_the_first_time_and_the_earliest_split() -> None:
    frame = pl.DataFrame(
        {"user": [1, 2, 1, 1], "item": [5, 5, 5, 6], "label": [2, 1, 0, 2], "time": [4, 9, 7, 1]},
        schema_overrides={"label": pl.Int8},
    )
    assert columns(merge_duplicates(frame)) == {
        "user": [1, 2, 1],
        "item": [5, 5, 6],
        "label": [0, 1, 2],
        "time": [4, 9, 1],
    }
    assert columns(merge_duplicates(frame.select("user", "item"))) == {"user": [1, 2, 1], "item": [5, 5, 6]}


PAIRS = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=30, unique=True)


def frame_of(pairs: list[tuple[int, int]]) -> pl.DataFrame:
    return pl.DataFrame(pairs, schema={"user": pl.Int64, "item": pl.Int64}, orient="row")


def core_by_hand(pairs: set[tuple[int, int]], k: int) -> set[tuple[int, int]]:
    while True:
        users, items = [u for u, _ in pairs], [i for _, i in pairs]
        kept = {(u, i) for u, i in pairs if users.count(u) >= k and items.count(i) >= k}
        if kept == pairs:
            return kept
        pairs = kept


@given(PAIRS, st.integers(1, 4))
def test_k_core_is_the_largest_part_in_which_all_have_k(pairs: list[tuple[int, int]], k: int) -> None:
    wanted = core_by_hand(set(pairs), k)
    if wanted:
        assert set(k_core(frame_of(pairs), k).rows()) == wanted
    else:
        with pytest.raises(DataError, match=f"{k}-core"):
            k_core(frame_of(pairs), k)


# --- Splitting -------------------------------------------------------------------------------------------------------


@st.composite
def logs(draw: st.DrawFn) -> pl.DataFrame:
    """Interactions in no order, users of very different activity, times with ties, text or integer IDs."""
    counts = draw(st.lists(st.integers(1, 24), min_size=1, max_size=6))
    pairs = [(user, item) for user, count in enumerate(counts) for item in range(count)]
    times = draw(st.lists(st.integers(0, 40), min_size=len(pairs), max_size=len(pairs)))
    frame = frame_of(draw(st.permutations(pairs))).with_columns(time=pl.Series(times, dtype=pl.Int64))
    return frame.with_columns(pl.col("user").cast(draw(st.sampled_from([pl.Int64, pl.String]))))


def split(frame: pl.DataFrame, strategy: SplitStrategy, seed: int = 0) -> pl.DataFrame:
    """Splits ``frame``, or gives the example up if that leaves a split empty."""
    try:
        result = split_interactions(frame, strategy, seed)
    except DataError as error:
        if "split is empty" not in str(error):
            raise
        reject()
    assert result.drop("label").equals(frame)
    assert result["label"].is_in([0, 1, 2]).all()
    return result


def counts_by_user(frame: pl.DataFrame) -> dict[Any, tuple[int, int, int]]:
    """Training, validation and test interactions of each user."""
    return {
        user: tuple(part["label"].to_list().count(label) for label in (0, 1, 2))
        for (user,), part in frame.group_by("user")
    }


@given(logs(), st.integers(0, 2**32 - 1))
def test_random_split_takes_a_tenth_of_each_user_twice(frame: pl.DataFrame, seed: int) -> None:
    result = split(frame, "random", seed)
    for train, val, test in counts_by_user(result).values():
        total = train + val + test
        assert val == test == (max(1, round(total / 10)) if total >= 3 else 0)
    assert split_interactions(frame, "random", seed).equals(result)


def test_random_split_follows_its_seed_and_no_order_in_the_file() -> None:
    frame = frame_of([(user, item) for user in range(20) for item in range(20)])
    labels = [split_interactions(frame, "random", seed)["label"].to_list() for seed in range(40)]
    assert len(set(map(tuple, labels))) == 40
    held_out = (np.array(labels) > 0).reshape(-1, 20).mean(axis=0)
    assert np.abs(held_out - 0.2).max() < 0.07


@given(logs())
def test_leave_last_out_holds_out_the_latest_two(frame: pl.DataFrame) -> None:
    result = split(frame, "leave-last-out")
    for counts in counts_by_user(result).values():
        total = sum(counts)
        assert counts == ((total - 2, 1, 1) if total >= 3 else (total, 0, 0))
    for _, part in result.group_by("user"):
        latest = [part.filter(label=label)["time"] for label in (0, 1, 2)]
        for earlier, later in itertools.pairwise(latest):
            assert not len(earlier) or not len(later) or earlier.max() <= later.min()


def test_leave_last_out_takes_the_order_of_the_file_within_one_moment() -> None:
    frame = frame_of([(1, item) for item in range(5)]).with_columns(time=pl.Series([3, 3, 1, 3, 3]))
    assert split_interactions(frame, "leave-last-out", 0)["label"].to_list() == [0, 0, 0, 1, 2]


@given(logs())
def test_time_split_parts_at_moments(frame: pl.DataFrame) -> None:
    result = split(frame, "time")
    train, val, test = (result.filter(label=label)["time"] for label in (0, 1, 2))
    assert train.max() < val.min()
    assert val.max() < test.min()
    assert len(train) <= 0.8 * len(frame)
    assert len(train) + len(val) <= 0.9 * len(frame)


def test_time_split_is_8_1_1_without_ties() -> None:
    order = np.random.default_rng(0).permutation(50)
    frame = frame_of([(1, item) for item in range(50)]).with_columns(time=pl.Series(order))
    labels = split_interactions(frame, "time", 0)["label"].to_numpy()
    assert labels[np.argsort(order)].tolist() == [0] * 40 + [1] * 5 + [2] * 5


def test_labels_of_the_file_are_kept_and_preferred() -> None:
    frame = frame_of([(1, 1), (1, 2), (2, 1)]).with_columns(label=pl.Series([2, 0, 1], dtype=pl.Int8))
    for strategy in ("labels", "auto"):
        assert split_interactions(frame, strategy, 0)["label"].to_list() == [2, 0, 1]


def test_auto_is_random_without_labels() -> None:
    frame = frame_of([(1, item) for item in range(30)])
    assert split_interactions(frame, "auto", 3).equals(split_interactions(frame, "random", 3))


@pytest.mark.parametrize(
    ("strategy", "option"),
    [("labels", "--label-column"), ("time", "--time-column"), ("leave-last-out", "--time-column")],
)
def test_a_missing_column_for_the_split_is_named(strategy: SplitStrategy, option: str, refuses: Any) -> None:
    with refuses(f"--split {strategy}", option):
        split_interactions(frame_of([(1, 1)]), strategy, 0)


@pytest.mark.parametrize(
    ("strategy", "labels", "times", "empty"),
    [
        ("labels", [1, 2, 2], [1, 2, 3], "training"),
        ("labels", [0, 0, 2], [1, 2, 3], "validation"),
        ("labels", [0, 1, 1], [1, 2, 3], "test"),
        ("time", [0, 1, 2], [5, 5, 5], "training"),
        ("leave-last-out", [0, 1, 2], [1, 2, 3], "validation"),
        ("random", [0, 1, 2], [1, 2, 3], "validation"),
    ],
)
def test_an_empty_split_is_named(
    strategy: SplitStrategy, labels: list[int], times: list[int], empty: str, refuses: Any
) -> None:
    frame = frame_of([(1, 1), (2, 2), (3, 3)]).with_columns(label=pl.Series(labels), time=pl.Series(times))
    with refuses(f"{empty} split is empty", f"--split {strategy}"):
        split_interactions(frame, strategy, 0)
