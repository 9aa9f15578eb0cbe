"""However a text table is written, it has the rows that Python's ``csv`` finds, or the reader refuses it or warns.

``LIRDREC_FUZZ_CASES=10000`` reads 3,000 files of each kind; by default they are 90, and the same ones every time.
"""

import csv
import io
import os
import random
import warnings
from contextlib import suppress
from itertools import zip_longest
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lirdrec_pyg.data import read_interactions
from lirdrec_pyg.data.tables import line_of, read_table
from lirdrec_pyg.errors import DataError

pytestmark = pytest.mark.fuzz

settings_of_size = settings(
    max_examples=int(os.environ.get("LIRDREC_FUZZ_CASES", "300")) * 3 // 10,
    derandomize="LIRDREC_FUZZ_CASES" not in os.environ,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)
seeds = st.integers(0, 2**32 - 1)

USUAL = ["1", "23", "u7", "lamp"]
ODD = [
    *("", " ", "x y", " 7", "é", "007", "#c", "%", "'", "\\", "nan", "::", "a,b", "a;b", "a\tb", "a|b", "sep=;"),
    *("a\nb", "a\r\nb", "\n", "#\n%", '"', '""', '5" x', '"q"', 'a"', '"a'),
]
# As they stand in a file.
RAW = ['"q"', '"a""b"', '"a', 'b"', ' "y"', '"a"b', '"a\nb"', '"a\nb', "\r", '"\r"', ",", "\t", ";", "\x00", '"', *ODD]
ABOVE = ["", "", "# of May\n", "% a b\n% 3 40 40\n", "\n\n", "  \n# x\n\n"]


def write_table(path: Path, rng: random.Random, raw: bool) -> tuple[str, str, int]:
    """Write a table; its entries are quoted as they should be unless it is ``raw``.

    Returns:
        Its text from the header on, its separator, and the number of lines above the header.
    """
    separator, end, width = rng.choice(",\t;"), rng.choice(["\n", "\r\n"]), rng.randint(2, 4)
    share, is_ragged = rng.choice([0.02, 0.1, 0.5]), rng.random() < 0.3

    def entry() -> str:
        return rng.choice(RAW if raw else ODD) if rng.random() < share else rng.choice(USUAL)

    def size() -> int:
        return rng.choice([width, 0, width - 1]) if is_ragged and rng.random() < 0.2 else width

    rows = [["user_id", "item_id", "title", "x"][:width]]
    rows += [[entry() for _ in range(size())] for _ in range(rng.randint(1, 12))]
    file = io.StringIO()
    if raw:
        file.write(end.join(map(separator.join, rows)))
    else:
        quoting = rng.choice([csv.QUOTE_MINIMAL, csv.QUOTE_ALL])
        csv.writer(file, delimiter=separator, lineterminator=end, quoting=quoting).writerows(rows)
    text = file.getvalue() + rng.choice(["", end, end * 3])
    above = rng.choice(ABOVE)
    path.write_bytes((rng.choice(["", "\ufeff"]) + above.replace("\n", end) + text).encode())
    return text, separator, above.count("\n")


def without_empty_end(rows: list[list[str]]) -> list[list[str]]:
    return rows[: max((n for n, row in enumerate(rows, 1) if any(row)), default=0)]


def rows_of(text: str, separator: str) -> tuple[list[list[str]], list[int]]:
    """Return the header and the rows that ``csv`` finds, and the lines before each."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
    rows, lines = [], [0]
    for row in reader:
        rows.append(row)
        lines.append(reader.line_num)
    width = len(rows[0])
    assert not any(any(row[width:]) for row in rows), "a long row has to be refused"
    rows = [[entry for _, entry in zip_longest(rows[0], row[:width], fillvalue="")] for row in rows]
    return without_empty_end(rows), lines


@pytest.mark.parametrize("raw", [False, True], ids=["regular", "raw"])
def test_no_row_is_lost_or_merged_silently(raw: bool, tmp_path: Path) -> None:
    path = tmp_path / "t.csv"

    @settings_of_size
    @given(seeds)
    def check(seed: int) -> None:
        rng = random.Random(seed)
        text, separator, above = write_table(path, rng, raw)
        options = {"separator": separator} if rng.random() < 0.5 else {}
        with warnings.catch_warnings(record=True) as caught, suppress(DataError if raw else ()):
            warnings.simplefilter("always")
            frame = read_table(path, **options)
            if raw and caught:
                return
            assert not caught
            wanted, lines = rows_of(text, separator)
            found = [frame.columns, *([entry or "" for entry in row] for row in frame.rows())]
            assert without_empty_end(found) == wanted
            if not raw:  # ``csv`` counts carriage returns, too
                found_lines = [line_of(path, row, **options) for row in range(len(wanted) - 1)]
                assert found_lines == [above + line + 1 for line in lines[1 : len(wanted)]]

    check()


def test_interactions_are_those_of_the_rows(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"

    @settings_of_size
    @given(seeds)
    def check(seed: int) -> None:
        text, separator, _ = write_table(path, random.Random(seed), raw=False)
        wanted, _ = rows_of(text, separator)
        with suppress(DataError):  # such as a missing ID
            frame = read_interactions(path)
            assert [[*map(str, row[:2])] for row in frame.rows()] == [row[:2] for row in wanted[1:]]

    check()
