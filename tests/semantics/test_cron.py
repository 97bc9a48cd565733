"""Cron lines in time zones, clocks' changes included; and what is no cron line."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import islice

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dagengine.errors import BadOption
from dagengine.serving.cron import after, occurrences, parse, zone


def _first(line: str, tz: str, begin: datetime, many: int) -> list[str]:
    found = islice(occurrences(parse(line), zone(tz), begin), many)
    return [moment.astimezone(zone(tz)).strftime("%m-%d %H:%M%z") for moment in found]


@pytest.mark.parametrize(
    ("line", "begin", "due"),
    [
        ("30 2 * * *", datetime(2026, 3, 28, 12, tzinfo=UTC), ["03-29 03:00+0200", "03-30 02:30+0200"]),
        ("*/30 * * * *", datetime(2026, 3, 29, 0, 30, tzinfo=UTC), ["03-29 01:30+0100", "03-29 03:00+0200"]),
        ("30 2 * * *", datetime(2026, 10, 24, 12, tzinfo=UTC), ["10-25 02:30+0200", "10-26 02:30+0100"]),
        ("30 * * * *", datetime(2026, 10, 25, 0, 30, tzinfo=UTC), ["10-25 02:30+0200", "10-25 02:30+0100"]),
    ],
)
def test_the_changes_of_clocks_are_as_defined(line: str, begin: datetime, due: list[str]) -> None:
    """A fixed time in a skipped hour is due at the change, in a doubled one once; every hour is every real hour."""
    assert _first(line, "Europe/Paris", begin, 2) == due


def test_either_day_counts_where_both_are_given() -> None:
    """As cron has always had it; with a star in one field only the other counts."""
    begin = datetime(2026, 1, 1, tzinfo=UTC)
    assert _first("0 0 13 * fri", "UTC", begin, 4) == [f"01-{day:02} 00:00+0000" for day in (2, 9, 13, 16)]
    assert _first("0 0 13 * *", "UTC", begin, 2) == ["01-13 00:00+0000", "02-13 00:00+0000"]
    assert _first("@weekly", "UTC", begin, 2) == ["01-04 00:00+0000", "01-11 00:00+0000"]
    assert _first("0 12 29 feb *", "UTC", datetime(2097, 1, 1, tzinfo=UTC), 1) == ["02-29 12:00+0000"]


def test_a_line_is_due_after_a_moment_never_at_it() -> None:
    """So the next one of an occurrence is another one."""
    noon = datetime(2026, 5, 1, 12, tzinfo=UTC)
    assert after(parse("0 12 * * *"), zone("UTC"), noon) == noon + timedelta(days=1)
    assert after(parse("0 12 * * *"), zone("UTC"), noon - timedelta(microseconds=1)) == noon


_FIELDS = [(0, 59), (0, 23), (1, 28), (1, 12), (0, 6)]
_LINES = st.tuples(
    *(
        st.one_of(
            st.just("*"),
            st.integers(1, high).map(lambda step: f"*/{step}"),
            st.lists(st.integers(low, high), min_size=1, max_size=3).map(lambda n: ",".join(map(str, n))),
        )
        for low, high in _FIELDS
    )
).map(" ".join)


@settings(max_examples=60, deadline=None)
@given(_LINES, st.sampled_from(["UTC", "Europe/Paris", "America/New_York", "Australia/Lord_Howe"]), st.integers(0, 365))
def test_what_is_due_rises_and_fits_the_line(line: str, name: str, day: int) -> None:
    """Each occurrence is one of the wall clock's minutes that the line names, or the instant of a change."""
    cron, tz = parse(line), zone(name)
    found = list(islice(occurrences(cron, tz, datetime(2026, 1, 1, tzinfo=UTC) + timedelta(days=day)), 20))
    assert found == sorted(set(found))
    for moment in found:
        wall = moment.astimezone(tz)
        changed = wall.utcoffset() != (moment - timedelta(seconds=1)).astimezone(tz).utcoffset()
        assert changed or (wall.minute in cron.minutes and wall.hour in cron.hours and cron.falls_on(wall.date()))


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("61 * * * *", "minute 61 is not from 0 to 59"),
        ("* * *", "has 3 fields. Give five"),
        ("@dayly", "Did you mean @daily?"),
        ("0 0 30 2 *", "is never due"),
        ("* * * foo *", "month foo is not from 1 to 12, or jan to dec"),
        ("5-1 * * * *", "ends before it begins"),
        ("*/0 * * * *", "a number from 1 to 59"),
        ("* * * * 8", "day of the week 8"),
        ("1,,2 * * * *", "minute (empty)"),
        ("٣ * * * *", "is not from 0 to 59"),
    ],
)
def test_what_is_no_cron_line_is_one_line(line: str, what: str) -> None:
    """It names the field, and what would fit."""
    with pytest.raises(BadOption) as told:
        parse(line)
    assert what in str(told.value)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("name", "what"),
    [("Europe/Pari", "Did you mean Europe/Paris?"), ("paris", "Europe/Paris"), ("../../etc", "Say one as")],
)
def test_a_zone_that_does_not_exist_names_the_nearest(name: str, what: str) -> None:
    """Also for a city by itself, and for what is no zone at all."""
    with pytest.raises(BadOption) as told:
        zone(name)
    assert what in str(told.value)
