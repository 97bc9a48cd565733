"""Who of a queue goes next: no limit is ever passed, nobody is held up without need, for any rows."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dagengine.storage.queue_rules import Bucket, Load, QueueSettings, Waits, choose

LIMIT = st.none() | st.integers(1, 5)
KEYS = st.none() | st.sampled_from("abc")
SETTINGS = st.builds(
    QueueSettings, LIMIT, LIMIT, LIMIT, st.none() | st.tuples(st.integers(1, 4), st.floats(0.5, 100)), st.booleans()
)
UNDER_WAY = st.lists(st.tuples(KEYS, st.sampled_from(["here", "there"])), max_size=8)


def _load(under_way: list[tuple[str | None, str]]) -> Load:
    keys = Counter(key for key, _ in under_way if key is not None)
    return Load(len(under_way), sum(server == "here" for _, server in under_way), keys)


@settings(max_examples=300, deadline=None)
@given(SETTINGS, UNDER_WAY, st.lists(KEYS, max_size=12), st.integers(0, 10), st.none() | st.floats(0, 4))
def test_no_limit_is_passed_and_no_place_is_left(
    told: QueueSettings,
    under_way: list[tuple[str | None, str]],
    keys: list[str | None],
    room: int,
    tokens: float | None,
) -> None:
    """Those who go keep all limits; each one who stays does so for a limit that is reached."""
    waiting = [Waits(f"r{n}", key) for n, key in enumerate(keys)]
    load = _load(under_way)
    bucket = None if tokens is None else Bucket(tokens, 100.0)
    choice = choose(told, bucket, load, waiting, room=room, now=100.0)
    chosen = [one for one in waiting if one.run in choice.runs]
    assert [one.run for one in chosen] == list(choice.runs)  # each once, and in order
    together = Counter(load.by_key) + Counter(one.key for one in chosen if one.key is not None)
    begun = len(chosen)
    full = {key for key, count in together.items() if told.per_key is not None and count >= told.per_key}
    assert begun <= room
    for key in {one.key for one in chosen if one.key is not None}:
        assert told.per_key is None or together[key] <= told.per_key
    if begun:
        assert not told.paused
        assert told.concurrency is None or load.total + begun <= told.concurrency
        assert told.per_worker is None or load.here + begun <= told.per_worker
    if told.rate is not None:
        assert choice.bucket is not None
        assert choice.bucket.tokens >= 0
    stopped = (
        told.paused
        or begun >= room
        or (told.concurrency is not None and load.total + begun >= told.concurrency)
        or (told.per_worker is not None and load.here + begun >= told.per_worker)
        or choice.again_at is not None
    )
    for one in waiting:
        assert one in chosen or stopped or one.key in full
    if choice.again_at is not None:
        assert choice.again_at > 100.0


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 5), st.floats(1, 50), st.lists(st.floats(0.01, 30), min_size=1, max_size=30))
def test_a_rate_holds_over_any_time(most: int, period: float, pauses: list[float]) -> None:
    """In a time T at most what the bucket held and T's share begin, whenever somebody looks."""
    told = QueueSettings(rate=(most, period))
    bucket, now, begun = None, 0.0, 0
    for pause in pauses:
        choice = choose(told, bucket, Load(), [Waits(f"r{n}", None) for n in range(50)], room=50, now=now)
        bucket, begun = choice.bucket, begun + len(choice.runs)
        assert begun <= most + now * most / period + 1e-6
        assert choice.again_at is not None
        later = choose(told, bucket, Load(), [Waits("r", None)], room=1, now=choice.again_at)
        assert later.runs == ("r",)
        now += pause


def test_a_clock_that_goes_back_gives_nothing_and_takes_nothing() -> None:
    """Servers' clocks differ: a bucket that was filled in the future is not emptied by it."""
    assert Bucket(0.5, 100.0).filled((1, 10.0), 90.0) == Bucket(0.5, 90.0)
    assert Bucket(0.5, 100.0).filled((1, 10.0), 105.0).tokens == pytest.approx(1.0)
