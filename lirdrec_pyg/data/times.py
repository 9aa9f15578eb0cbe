"""Times of interactions: numbers, and dates as programs write them."""

import re

import polars as pl

from lirdrec_pyg.errors import ConfigError, DataError, first_line, shown

_DATE = re.compile(
    r"(?P<first>\d{4}|\d\d?)(?P<mark>[-/.])\d\d?(?P=mark)(?P<last>\d{4}|\d\d?)"
    r"(?:(?P<gap>[T ])\d\d?:\d\d(?P<seconds>:\d\d(?:\.\d+)?)?(?P<half>\s*[AaPp][Mm])?)?"
    r"(?P<zone>\s*(?:UTC|GMT|Z|[+-]\d\d(?::?\d\d)?))?"
)
# Seconds since 1970 that a spreadsheet rounded, such as 1.60632E+09.
_ROUNDED = r"^[0-9]([.][0-9]{1,5})?[eE]\+?(09|1[0-9])$"
_YEARS = (1900, 2200)


def read_times(column: pl.Series, format: str | None, source: str) -> pl.Series:
    """Convert numbers and dates; entries that are neither become null.

    Args:
        column: numbers, dates, or both as text.
        format: format of dates as text, as of ``strptime``; by default it is recognized.
        source: the column in messages.

    Raises:
        DataError: if a day and a month cannot be told apart, or the units of numbers differ.
        ConfigError: if ``format`` is invalid.
    """
    if format is not None:
        return _of_format(column, format, source)
    if column.dtype.is_temporal() and column.dtype != pl.Time:
        return column
    times = column
    if not column.dtype.is_numeric():
        text = column.cast(pl.String).str.strip_chars()
        # Integers first: the nanoseconds of a timestamp do not fit into a float.
        readings = [text.cast(pl.Int64, strict=False), text.cast(pl.Float64, strict=False)]
        times = min([*readings, _dates(text, source)], key=lambda reading: reading.null_count())
        if times.dtype.is_float() and (rounded := text.filter(text.str.contains(_ROUNDED))).len():
            raise DataError(f"{source} has rounded times such as {shown(rounded[0])}. Export them as text.")
    if times.dtype.is_float():
        times = times.fill_nan(None)
    if times.dtype.is_numeric():
        _check_numbers(times, source)
    return times


def _check_numbers(times: pl.Series, source: str) -> None:
    """Raise :class:`DataError` if some are seconds since 1970 and others milliseconds, or all are dates as digits."""
    of_unit = [times.filter((times >= 10.0**power) & (times < 10.0 ** (power + 2))) for power in (8, 11, 14, 17)]
    examples = [str(numbers[0]) for numbers in of_unit if len(numbers)]
    if len(examples) > 1:
        raise DataError(f"{source} mixes units of time, such as {' and '.join(examples)}. Write all in seconds.")
    numbers = times.drop_nulls()
    if numbers.dtype in (pl.Int128, pl.UInt128):
        numbers = numbers.cast(pl.Float64)
    if len(numbers) and (numbers.is_between(1_01_1900, 31_12_2100) & (numbers % 10_000).is_between(*_YEARS)).all():
        raise DataError(
            f"{source} has dates as digits such as {numbers[0]}. Pass `time_format` as '%d%m%Y' or '%m%d%Y'."
        )


def _dates(text: pl.Series, source: str) -> pl.Series:
    """Read dates that all have the form of the first one."""
    found = _DATE.fullmatch(next(iter(text.drop_nulls().head(1)), ""))
    if found is None or 4 not in (len(found["first"]), len(found["last"])):
        return text.cast(pl.Int64, strict=False)
    orders = ["Ymd"] if len(found["first"]) == 4 else ["dmY", "mdY"]
    gap, seconds, half, zone = (found[name] or "" for name in ("gap", "seconds", "half", "zone"))
    # Polars reads fractions slowly.
    seconds = seconds and (":%S%.f" if text.str.contains(r":\d\d\.").any() else ":%S")
    rest = gap and gap + ("%I" if half else "%H") + ":%M" + seconds + re.sub(r"\w+", "%p", half)
    rest += re.sub(r"Z$|[+-].*", "%#z", zone)
    formats = [found["mark"].join(f"%{part}" for part in order) + rest for order in orders]
    readings = [text.str.to_datetime(format, strict=False) for format in formats]
    complete = [reading for reading in readings if not reading.has_nulls()]
    if len(complete) == 2 and not complete[0].equals(complete[1]):
        raise DataError(
            f"{source} has dates such as {shown(text[0])}, in which day and month cannot be told apart. "
            f"Pass `time_format` as {formats[0]!r} or {formats[1]!r}."
        )
    return min(readings, key=lambda reading: reading.null_count())


def _of_format(column: pl.Series, format: str, source: str) -> pl.Series:
    if column.dtype.is_temporal():
        raise ConfigError(f"{source} has type {column.dtype}, so it needs no `time_format`.")
    # Polars counts the digits of %f as nanoseconds, Python as a fraction.
    format = format.replace(".%f", "%.f")
    if "%f" in format:
        raise ConfigError(
            "`time_format` may have fractions of a second as '%S.%f', or as '%3f' with a number of digits."
        )
    try:
        times = column.cast(pl.String).str.strip_chars().str.to_datetime(format, strict=False)
    except pl.exceptions.PolarsError as error:
        raise ConfigError(f"`time_format` is {format!r}, not a format of dates ({first_line(error)}).") from error
    # A format without a year gives the year 1, and so does %Y with 20 the year 20.
    return times.set(~times.dt.year().is_between(*_YEARS).fill_null(False), None)
