"""Times: numbers and dates are read right, refused, or read by a given format."""

import datetime
from typing import Any

import polars as pl
import pytest

from lirdrec_pyg.data.times import read_times
from lirdrec_pyg.errors import ConfigError

NOON, LATER = datetime.datetime(2020, 9, 1, 12, 5, 7), datetime.datetime(2020, 12, 25, 23, 0, 1)


def read(times: list[Any], format: str | None = None) -> pl.Series:
    return read_times(pl.Series("when", times), format, "Column 'when' of t.csv")


@pytest.mark.parametrize(
    "form",
    [
        "%Y-%m-%d %H:%M:%S",
        "%Y/%m/%dT%H:%M:%S",
        "%d/%m/%Y %H:%M:%S",
        "%m/%d/%Y %I:%M:%S %p",
        "%d.%m.%Y %H:%M:%S.%f",
        "%m-%d-%Y %I:%M:%S%p",
        "%Y-%m-%d %H:%M:%S UTC",
        "%Y-%m-%d %H:%M:%S GMT",
        "%Y-%m-%dT%H:%M:%SZ",
        "%Y-%m-%d %H:%M:%S.%f+00",
    ],
)
def test_dates_are_read(form: str) -> None:
    times = read([NOON.strftime(form), LATER.strftime(form)])
    assert times.dt.replace_time_zone(None).to_list() == [NOON, LATER]
    # Spaces around them do not matter, and other entries are not read.
    assert read([LATER.strftime(f" {form} "), "soon", None]).null_count() == 2


def test_offsets_are_taken_into_account() -> None:
    for offset in (" -0500", "-05:00", "-05"):
        times = read([f"2020-09-01 07:05:07{offset}", "2020-09-01 12:05:07+0000"])
        assert times.dt.replace_time_zone(None).to_list() == [NOON, NOON]


@pytest.mark.parametrize("form", ["%d/%m/%Y", "%d-%m-%Y", "%m.%d.%Y", "%d/%m/%Y %H:%M", "%d%m%Y"])
def test_dates_that_read_both_ways_need_a_format(form: str, refuses: Any) -> None:
    days = [datetime.datetime(2020, 9, 1), datetime.datetime(2020, 3, 12)]
    written = [day.strftime(form) for day in days]
    with refuses("Column 'when' of t.csv has dates", repr(form), "Pass `time_format` as '%d"):
        read(written)
    assert read(written, form).to_list() == days
    # A single day above 12 decides.
    if form != "%d%m%Y":
        days.append(datetime.datetime(2020, 3, 13))
        assert read([day.strftime(form) for day in days]).to_list() == days


@pytest.mark.parametrize(
    ("form", "written"),
    [
        ("%d/%m/%y", "01/09/20"),
        ("%d %b %Y", "1 Sep 2020"),
        ("%Y%m%d", "20200901"),
        ("%Y-%m-%d %H:%M EST", "2020-09-01 00:00 EST"),
        ("%a %b %d %H:%M:%S %z %Y", "Tue Sep 01 02:00:00 +0200 2020"),
        ("%d.%m.%Y %H:%M:%S.%f", "01.09.2020 00:00:00.0"),
    ],
)
def test_a_format_reads_other_dates(form: str, written: str) -> None:
    assert read([written], form).dt.replace_time_zone(None).to_list() == [datetime.datetime(2020, 9, 1)]
    # What does not fit, or only seems to, such as the year 20, is not read.
    assert read(["soon", "01/09/20"], form.replace("%y", "%Y")).null_count() == 2


def test_fractions_of_a_second_are_decimals() -> None:
    times = read(["2020-09-01 12:00:00.5", "2020-09-01 12:00:00.25"], "%Y-%m-%d %H:%M:%S.%f")
    assert times.dt.microsecond().to_list() == [500_000, 250_000]


def test_wrong_formats_are_refused() -> None:
    for format, times in (("%Y %H", ["2020 5"]), ("%Y %f", ["2020 5"]), ("%Y", [NOON])):
        with pytest.raises(ConfigError, match="`time_format`"):
            read(times, format)


@pytest.mark.parametrize("power", [3, 6, 9])
def test_units_are_not_mixed(power: int, refuses: Any) -> None:
    second = 1_606_322_707
    for times in ([second, second * 10**power], [str(second), str(second * 10**power)], [second + 0.5, second * 1e3]):
        with refuses("Column 'when' of t.csv mixes units of time", f"{second}"):
            read(times)
    assert read([second * 10**power, None]).to_list() == [second * 10**power, None]
    assert read([1, 5_000, 20_200_901, second]).to_list() == [1, 5_000, 20_200_901, second]


def test_rounded_times_and_times_of_day_are_not_read(refuses: Any) -> None:
    with refuses("rounded times such as '1.60632E+09'"):
        read(["1.60632E+09", "1.60633E+09"])
    assert read(["1.606322707e+09", "2e0"]).to_list() == [1_606_322_707.0, 2.0]
    for times in (["12:05:07"], [NOON.time()], [True]):
        assert read(times).to_list() == [None]
