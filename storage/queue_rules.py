"""Who of a queue goes next: pure; rows in, names out.

A queue holds back for four reasons: too many of its runs are under way, everywhere (`concurrency`), with one server
(`per_worker`) or with one key (`per_key`), or too many began lately (`rate`). All but the last are counted from the rows of
runs that are under way, so nothing is given back and nothing can leak. A rate is a bucket: it holds `n` tokens, a run
that begins takes one, and it fills by `n` in each period.

Those that wait come sorted: by priority, then the oldest first. One whose key is at its limit is passed over, and
holds up nobody else.

May import nothing of ours.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple


@dataclass(frozen=True, slots=True)
class QueueSettings:
    """What a queue was told. None: no limit."""

    concurrency: int | None = None  # runs under way at once
    per_worker: int | None = None  # of these, with one `dagengine serve`
    per_key: int | None = None  # of these, with one key
    rate: tuple[int, float] | None = None  # so many may begin in so many seconds
    paused: bool = False

    def to_json(self) -> dict[str, Any]:
        return {
            "concurrency": self.concurrency,
            "per_worker": self.per_worker,
            "per_key": self.per_key,
            "rate": None if self.rate is None else list(self.rate),
            "paused": self.paused,
        }

    @classmethod
    def from_json(cls, said: Mapping[str, Any]) -> QueueSettings:
        rate = said.get("rate")
        return cls(
            said.get("concurrency"),
            said.get("per_worker"),
            said.get("per_key"),
            None if rate is None else (int(rate[0]), float(rate[1])),
            bool(said.get("paused")),
        )


class Bucket(NamedTuple):
    """What was left of a rate at `at`."""

    tokens: float
    at: float

    def filled(self, rate: tuple[int, float], now: float) -> Bucket:
        """As it is now. A clock that went back fills nothing, and does not stop the filling either."""
        most, period = rate
        return Bucket(min(float(most), self.tokens + max(0.0, now - self.at) * most / period), now)


class Waits(NamedTuple):
    run: str
    key: str | None


@dataclass(frozen=True, slots=True)
class Load:
    """The runs of a queue that are under way: all of them, those of the server that asks, and those of each key."""

    total: int = 0
    here: int = 0
    by_key: Mapping[str, int] = field(default_factory=dict)


class Choice(NamedTuple):
    """runs: who goes now; bucket: what is left of the rate; again_at: when a token is there for those who wait for one"""

    runs: tuple[str, ...]
    bucket: Bucket | None
    again_at: float | None = None


def choose(
    settings: QueueSettings, bucket: Bucket | None, load: Load, waiting: Iterable[Waits], *, room: int, now: float
) -> Choice:
    """Who of `waiting` begins now, at most `room` of them, each at most once."""
    rate = settings.rate
    if rate is not None:
        bucket = Bucket(float(rate[0]), now) if bucket is None else bucket.filled(rate, now)
    else:
        bucket = None
    if settings.paused:
        return Choice((), bucket)
    slots = room
    if settings.concurrency is not None:
        slots = min(slots, settings.concurrency - load.total)
    if settings.per_worker is not None:
        slots = min(slots, settings.per_worker - load.here)
    runs: list[str] = []
    keys = dict(load.by_key)
    for one in waiting:
        if len(runs) >= slots:
            break
        if one.key is not None and settings.per_key is not None and keys.get(one.key, 0) >= settings.per_key:
            continue
        if rate is not None and bucket is not None:
            if bucket.tokens < 1.0:
                # A little later rather than a little early: what is missing then would be waited for once more.
                return Choice(tuple(runs), bucket, now + (1.0 - bucket.tokens) * rate[1] / rate[0] + 0.001)
            bucket = Bucket(bucket.tokens - 1.0, now)
        if one.key is not None:
            keys[one.key] = keys.get(one.key, 0) + 1
        runs.append(one.run)
    return Choice(tuple(runs), bucket)
