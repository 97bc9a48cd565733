"""When a cron line is due, in a time zone: pure; lines and instants in, instants out.

A line names minutes of the wall clock, as crontab(5): minute, hour, day of the month, month, day of the week; lists, ranges,
steps, names of months and days; `@hourly` and its kin. Restricting both days means either of them, as cron has always
had it. What the clocks' changes do is said once, here:

    the hour is skipped        a line of a fixed time in it is due once, at the change; one of every hour is not due in it
    the hour comes twice       a line of a fixed time is due the first time only; one of every hour both times

A fixed time is one whose minute and hour fields do not begin with `*`. Instants are UTC, and so is what identifies an
occurrence: it is never twice the same.

May import nothing of ours but errors and validation.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from functools import cache
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

from dagengine.errors import BadOption
from dagengine.validation import did_you_mean, nearest

YEARS = 9
"""How far ahead is looked: from one 29th of February to the next it can be eight years. Nothing by then is never."""

_FIELDS = (("minute", 0, 59), ("hour", 0, 23), ("day of the month", 1, 31), ("month", 1, 12), ("day of the week", 0, 7))
_MONTHS = {
    name: n
    for n, name in enumerate(["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"], 1)
}
_DAYS = {name: n for n, name in enumerate(["sun", "mon", "tue", "wed", "thu", "fri", "sat"])}
_NAMES: dict[str, dict[str, int]] = {"month": _MONTHS, "day of the week": _DAYS}
_SHORT = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
_DAYS_OF = (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)


@dataclass(frozen=True, slots=True)
class Cron:
    """A line that was understood. Make it with `parse`."""

    line: str
    minutes: tuple[int, ...]
    hours: tuple[int, ...]
    days: frozenset[int]
    months: frozenset[int]
    weekdays: frozenset[int]  # 0 is Sunday
    any_day: bool  # the day of the month, or of the week, is restricted, but not both
    fixed: bool

    def falls_on(self, day: date) -> bool:
        if day.month not in self.months:
            return False
        of_month, of_week = day.day in self.days, day.isoweekday() % 7 in self.weekdays
        return of_month and of_week if self.any_day else of_month or of_week


def parse(line: str) -> Cron:
    """The line, understood. Raises BadOption, which names the field, what is wrong and what would fit."""
    text = " ".join(line.split()).lower()
    if text.startswith("@"):
        if text not in _SHORT:
            raise BadOption(f"cron line {line!r} is not known.{did_you_mean(text, _SHORT)}")
        text = _SHORT[text]
    words = text.split()
    if len(words) != len(_FIELDS):
        raise BadOption(
            f"cron line {line!r} has {len(words)} fields. Give five: minute hour day-of-month month day-of-week,"
            ' as "30 4 * * mon-fri".'
        )
    found = [_field(line, word, *field) for word, field in zip(words, _FIELDS, strict=True)]
    minutes, hours, days, months, weekdays = found
    weekdays = {day % 7 for day in weekdays}
    any_day = words[2].startswith("*") or words[4].startswith("*")
    if any_day and all(min(days) > _DAYS_OF[month - 1] for month in months):
        raise BadOption(f"cron line {line!r} is never due: no month that it names has a day {min(days)}.")
    fixed = not words[0].startswith("*") and not words[1].startswith("*")
    return Cron(
        line,
        tuple(sorted(minutes)),
        tuple(sorted(hours)),
        frozenset(days),
        frozenset(months),
        frozenset(weekdays),
        any_day,
        fixed,
    )


def _field(line: str, word: str, name: str, low: int, high: int) -> set[int]:
    found: set[int] = set()
    for part in word.split(","):
        span, slash, step = part.partition("/")
        if slash and not (step.isascii() and step.isdigit() and 0 < int(step[:9]) <= high):
            raise BadOption(f"cron line {line!r}: the step {part!r} of {name} has to be a number from 1 to {high}.")
        if span == "*":
            first, last = low, high
        else:
            begin, dash, end = span.partition("-")
            first = _number(line, begin, name, low, high)
            last = _number(line, end, name, low, high) if dash else high if slash else first
            if last < first:
                raise BadOption(f"cron line {line!r}: the range {span!r} of {name} ends before it begins. Write two.")
        found.update(range(first, last + 1, int(step) if slash else 1))
    return found


def _number(line: str, word: str, name: str, low: int, high: int) -> int:
    named = _NAMES.get(name, {}).get(word)
    if named is not None:
        return named
    if word.isascii() and word.isdigit() and len(word) < 10 and low <= int(word) <= high:
        return int(word)
    names = _NAMES.get(name)
    also = f", or {next(iter(names))} to {list(names)[-1]}" if names else ""
    what = f"{name} {word}" if word else f"{name} (empty)"
    raise BadOption(f"cron line {line!r}: {what} is not from {low} to {high}{also}.")


@cache
def zone(name: str) -> ZoneInfo:
    """The time zone of that name. Raises BadOption, with the nearest there is."""
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        pass
    known = {known.lower(): known for known in sorted(available_timezones())}
    wanted = name.lower()
    cities = {known.rpartition("/")[2].lower(): known for known in known.values()}
    whole, city = nearest(wanted, known), nearest(wanted, cities, 0.75)
    near = known[whole] if whole else cities[city] if city else None
    if not known:
        raise BadOption(f"there is no time zone {name!r}: this machine has no table of them. Install tzdata.")
    raise BadOption(
        f"there is no time zone {name!r}. {f'Did you mean {near}?' if near else 'Say one as Europe/Paris.'}"
    )


def after(cron: Cron, tz: ZoneInfo, moment: datetime) -> datetime | None:
    """The first time that it is due after `moment` (aware), in UTC; None if that is never."""
    return next(occurrences(cron, tz, moment + timedelta(microseconds=1)), None)


def occurrences(cron: Cron, tz: ZoneInfo, first: datetime, last: datetime | None = None) -> Iterator[datetime]:
    """When it is due from `first` on, and before `last`, in UTC, ascending."""
    first = first.astimezone(UTC)
    day = first.astimezone(tz).date() - timedelta(days=1)  # a change of clocks at midnight may move what is due
    final = date.max if last is None else last.astimezone(tz).date() + timedelta(days=1)
    until = day.year + YEARS
    latest: datetime | None = None
    while day <= final and day.year <= min(until, date.max.year - 1):
        for due in _of_day(cron, tz, day) if cron.falls_on(day) else ():
            if last is not None and due >= last:
                return
            if due >= first and (latest is None or due > latest):
                latest, until = due, day.year + YEARS
                yield due
        day += timedelta(days=1)


def _of_day(cron: Cron, tz: ZoneInfo, day: date) -> list[datetime]:
    """When it is due on that day of the wall clock: as many as it has, also on the days when clocks change."""
    found: set[datetime] = set()
    for hour in cron.hours:
        for minute in cron.minutes:
            wall = datetime.combine(day, time(hour, minute), tz)
            found.update(_instants(cron, wall))
    return sorted(found)


def _instants(cron: Cron, wall: datetime) -> list[datetime]:
    first, second = wall.replace(fold=0), wall.replace(fold=1)
    if first.utcoffset() == second.utcoffset():
        return [first.astimezone(UTC)]
    exists = first.astimezone(UTC).astimezone(wall.tzinfo).replace(tzinfo=None) == wall.replace(tzinfo=None)
    if exists:  # the hour comes twice
        return [first.astimezone(UTC)] if cron.fixed else [first.astimezone(UTC), second.astimezone(UTC)]
    return [_change(second.astimezone(UTC), first.astimezone(UTC), wall)] if cron.fixed else []


def _change(before: datetime, after: datetime, wall: datetime) -> datetime:
    """The instant between the two at which the zone's clocks are changed, to the second."""
    offset = before.astimezone(wall.tzinfo).utcoffset()
    while after - before > timedelta(seconds=1):
        middle = (before + (after - before) / 2).replace(microsecond=0)
        if middle <= before:
            break
        if middle.astimezone(wall.tzinfo).utcoffset() == offset:
            before = middle
        else:
            after = middle
    return after
