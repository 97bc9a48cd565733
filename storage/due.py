"""What there is for a server to do, now and next, as one question: it is asked at each look, and mostly there is nothing.

May import nothing of ours but modules of storage.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from sqlalchemy import Float, Text, and_, bindparam, func, literal_column, select, union_all

from dagengine.storage.interface import Store
from dagengine.storage.queues import WAITING
from dagengine.storage.side_schema import QUEUE, QUEUED, SCHEDULE, SLEEPER
from dagengine.storage.statements import Query


class Due(NamedTuple):
    """queues: in which somebody waits who may begin now; times, None where there is none: queued: when the next one may begin
    that may not now; scheduled, sleeping: when the first schedule, or sleeper, is due, or was; sleeping_after: the first
    sleeper that is not due yet"""

    queues: tuple[str, ...] = ()
    queued: float | None = None
    scheduled: float | None = None
    sleeping: float | None = None
    sleeping_after: float | None = None


def _all() -> Any:
    def answer(name: str, text: Any, at: Any) -> Any:
        return select(literal_column(f"'{name}'", Text), text, at)

    nothing, never = literal_column("''", Text), literal_column("0.0", Float)
    now = bindparam("now", type_=Float)
    waits = and_(QUEUED.c.queue == QUEUE.c.name, QUEUED.c.state == literal_column(str(WAITING)))
    some = select(QUEUED.c.id).where(waits, QUEUED.c.not_before <= now).exists()
    later = select(func.min(QUEUED.c.not_before)).where(waits, QUEUED.c.not_before > now).scalar_subquery()
    held = and_(SLEEPER.c.asleep == literal_column("1"), SLEEPER.c.wake_at.is_not(None))
    first = func.min(SLEEPER.c.wake_at)
    return union_all(
        answer("queues", QUEUE.c.name, never).where(some),
        answer("queued", nothing, later).select_from(QUEUE),
        answer("scheduled", nothing, func.min(SCHEDULE.c.next_at)).where(SCHEDULE.c.paused.is_(False)),
        answer("sleeping", nothing, first).where(held),
        answer("sleeping_after", nothing, first).where(held, SLEEPER.c.wake_at > now),
    )


_ALL = Query(_all)


def due(store: Store, now: float) -> Due:
    """Writes nothing."""
    queues, times = [], dict[str, float]()
    for name, text, at in store.ask(_ALL, now=now):
        if name == "queues":
            queues.append(text)
        elif at is not None:
            times[name] = min(at, times.get(name, at))
    return Due(tuple(sorted(queues)), **times)
