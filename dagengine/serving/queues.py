"""Queues, for people: what they are told, and what goes on in them. Functions take an open store.

May import errors, model, units, validation, submission, the store's interface and modules of storage.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from dagengine.errors import BadOption
from dagengine.serving.submission import cancel_dropped, is_over
from dagengine.storage import queues as rows
from dagengine.storage.interface import Store
from dagengine.storage.queue_rules import QueueSettings
from dagengine.units import parse_duration
from dagengine.validation import did_you_mean

LIMITS = ("concurrency", "per_worker", "per_key")
MOST = 1_000_000

_RATE = re.compile(r"(\d{1,9})\s*/\s*(\S.*)", re.ASCII)
_PERIODS = {"s": "1s", "sec": "1s", "second": "1s", "m": "1m", "min": "1m", "minute": "1m", "h": "1h", "hour": "1h"}
_PERIODS |= {"d": "1d", "day": "1d", "w": "1w", "week": "1w"}


def parse_rate(text: str) -> tuple[int, float]:
    """So many in so many seconds, of `10/min`, `5/30s`, `100/1h`. Raises BadOption."""
    found = _RATE.fullmatch(text.strip().lower())
    try:
        if found is None:
            raise ValueError
        number, period = int(found[1]), parse_duration(_PERIODS.get(found[2], found[2]))
    except ValueError:
        raise BadOption(f"rate {text!r} is not known. Say how many in what time: 10/min, 5/30s.") from None
    if not 1 <= number <= MOST or period <= 0:
        raise BadOption(
            f"rate {text!r} lets nothing begin. Give at least 1 in more than no time; `queue pause` stops one."
        )
    return number, period


def set_queue(store: Store, name: str, *, rate: str | None = None, **limits: int | None) -> QueueSettings:
    """Make a queue, or change what it was told: limits `concurrency`, `per_worker`, `per_key`, 0 for none, and `rate`, ""
    for none. What is left out stays as it is. Raises BadOption."""
    if not name or len(name) > 200 or not name.isprintable() or "," in name or name != name.strip():
        raise BadOption(f"{name!r} can't be a queue's name. Give 1 to 200 printable characters, without commas.")
    settings = rows.queues(store).get(name, QueueSettings())
    for limit, value in limits.items():
        if limit not in LIMITS:
            raise BadOption(f"a queue has no limit {limit!r}.{did_you_mean(limit, LIMITS)}")
        if value is None:
            continue
        if type(value) is not int or not 0 <= value <= MOST:
            raise BadOption(
                f"{limit} is {value!r}. Give a whole number from 1, or 0 for no limit; `queue pause` stops one."
            )
        settings = QueueSettings.from_json({**settings.to_json(), limit: value or None})
    if rate is not None:
        settings = replace(settings, rate=parse_rate(rate) if rate else None)
    rows.save_queue(store, name, settings)
    return settings


def known_queue(store: Store, name: str) -> QueueSettings:
    """What the queue was told. Raises BadOption, with the nearest there is."""
    known = rows.queues(store)
    if name not in known:
        raise BadOption(f"there is no queue {name!r}.{did_you_mean(name, known)} `dagengine queue set` makes one.")
    return known[name]


def pause_queue(store: Store, name: str, paused: bool = True) -> None:
    """Let nothing begin any more, or again. What is under way is left alone."""
    rows.save_queue(store, name, replace(known_queue(store, name), paused=paused))


def purge_queue(store: Store, name: str, clock: Callable[[], float] = time.time) -> list[str]:
    """Cancel all runs that wait in it; returns their ids."""
    known_queue(store, name)
    dropped = rows.drop_waiting(store, name)
    cancel_dropped(store, clock)
    return dropped


def queue_view(store: Store, name: str, limit: int = 1_000) -> dict[str, Any]:
    """One queue as a JSON object: its settings, who waits in which order, who is under way."""
    settings = known_queue(store, name)
    return {
        "name": name,
        **settings.to_json(),
        "waiting": [_entry_view(entry) for entry in rows.entries(store, rows.WAITING, name, limit)],
        "started": [
            _entry_view(entry)
            for entry in rows.entries(store, rows.STARTED, name, limit)
            if not is_over(store, entry.id)  # ended with nobody there to note it
        ],
    }


def _entry_view(entry: rows.Entry) -> dict[str, Any]:
    view = entry._asdict()
    del view["state"], view["queue"]
    return view


def place_view(store: Store, run_id: str) -> dict[str, Any] | None:
    """Where a run that waits in a queue stands: `before` is how many go before it. None if it does not wait in one."""
    return place_views(store, [run_id]).get(run_id)


def place_views(store: Store, run_ids: Sequence[str]) -> dict[str, dict[str, Any]]:
    """As `place_view`, of those of many runs that wait in a queue, by their ids."""
    found = rows.entries_of(store, run_ids)
    waiting = [entry for entry in found if entry.state == rows.WAITING]
    before = rows.places(store, waiting)
    return {
        entry.id: {"queue": entry.queue, "before": before[entry.id], "not_before": entry.not_before}
        for entry in waiting
    }
