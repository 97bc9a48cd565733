"""Queues of runs, as rows: who waits, who is under way, and what each queue was told.

A run that is submitted has a row in `queued`, which is written in the transaction that records the run:

    WAITING ──▶ STARTED ──▶ gone: the run has ended      (◀── given back, where no host could begin)
       └──────▶ DROPPED ─────┘      purged or replaced: its run is to be cancelled

A row that is STARTED holds its place under the limits until the run has ended, whichever process works on it, or none:
nothing is given back by the death of anybody. Whoever takes or adds holds the queue's own row in his transaction, so two that take at once
take one after the other.

May import nothing of ours but errors and modules of storage.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from typing import Any, NamedTuple

from sqlalchemy import and_, bindparam, delete, func, null, or_, select, update

from dagengine.storage.interface import Store
from dagengine.storage.queue_rules import Bucket, Load, QueueSettings, Waits, choose
from dagengine.storage.servers import notify
from dagengine.storage.side import upsert
from dagengine.storage.side_schema import QUEUE, QUEUED
from dagengine.storage.statements import Query, is_listed
from dagengine.storage.writes import SideWrite

WAITING, STARTED, DROPPED = range(1, 4)

ACTIVE = (WAITING, STARTED)

DEFAULT = "default"
"""The queue that is always there."""

PAGE = 256
"""Rows looked at in one go for those that may begin."""

COUNTED = 50
"""Rows whose places are counted one by one: more are found by reading all that wait."""

_ROW = QUEUED.c


class Entry(NamedTuple):
    """A row of `queued`. The greatest priority goes first; `not_before`: not earlier than then."""

    id: str
    queue: str = DEFAULT
    priority: int = 0
    key: str | None = None
    dedup: str | None = None
    submitted_at: float = 0.0
    not_before: float = 0.0
    state: int = WAITING
    started_at: float | None = None
    server: str | None = None


class NoQueue(Exception):
    """There is no queue of that name."""


class Stands(Exception):
    """`entry`, with the same `dedup`, waits or is under way."""

    def __init__(self, entry: Entry) -> None:
        super().__init__(entry)
        self.entry = entry


class Taken(NamedTuple):
    """runs: these are the server's now; again_at: when there may be more, by the queue's rate"""

    runs: tuple[str, ...]
    again_at: float | None = None


_ADD_QUEUE = Query(upsert(QUEUE, ("name",), replace=False))
_SET_QUEUE = Query(
    lambda: update(QUEUE).where(QUEUE.c.name == bindparam("queue")).values(settings=bindparam("said"), tokens=null())
)
_LOCK = Query(
    lambda: (
        update(QUEUE)
        .where(QUEUE.c.name == bindparam("queue"))
        .values(name=QUEUE.c.name)
        .returning(QUEUE.c.settings, QUEUE.c.tokens, QUEUE.c.filled_at)
    )
)
_ONE_QUEUE = Query(
    lambda: select(QUEUE.c.settings, QUEUE.c.tokens, QUEUE.c.filled_at).where(QUEUE.c.name == bindparam("queue"))
)
_QUEUES = Query(lambda: select(QUEUE.c.name, QUEUE.c.settings).order_by(QUEUE.c.name))
_FILL = Query(
    lambda: (
        update(QUEUE)
        .where(QUEUE.c.name == bindparam("queue"))
        .values(tokens=bindparam("left"), filled_at=bindparam("at"))
    )
)

_ADD = Query(upsert(QUEUED, ("id",), replace=False))
AGAIN = Query(upsert(QUEUED, ("id",)))
_COLUMNS = (
    *(_ROW.id, _ROW.queue, _ROW.rank, _ROW.key, _ROW.dedup, _ROW.submitted_at, _ROW.not_before),
    *(_ROW.state, _ROW.started_at, _ROW.server),
)
_BY_ID = Query(lambda: select(*_COLUMNS).where(_ROW.id == bindparam("id")))
_BY_IDS = Query(lambda: select(*_COLUMNS).where(is_listed(_ROW.id, "ids")))
_IN_STATE = Query(
    lambda: select(*_COLUMNS).where(_ROW.state == bindparam("state")).order_by(_ROW.not_before, _ROW.id).limit(100_000)
)
_IN_ORDER = Query(
    lambda: (
        select(*_COLUMNS)
        .where(_ROW.queue == bindparam("queue"), _ROW.state == bindparam("state"))
        .order_by(_ROW.rank, _ROW.submitted_at, _ROW.id)
        .limit(bindparam("limit"))
    )
)
_SAME = Query(
    lambda: select(*_COLUMNS).where(
        _ROW.queue == bindparam("queue"), _ROW.dedup == bindparam("dedup"), _ROW.state < DROPPED
    )
)
_MOVE = Query(
    lambda: (
        update(QUEUED)
        .where(_ROW.id == bindparam("id_"), _ROW.state == bindparam("before"))
        .values(state=bindparam("after"))
    )
)
_START = Query(
    lambda: (
        update(QUEUED)
        .where(is_listed(_ROW.id, "ids"))
        .values(state=STARTED, started_at=bindparam("at"), server=bindparam("by"))
    )
)
_HAND_OVER = Query(
    lambda: (
        update(QUEUED)
        .where(_ROW.id == bindparam("id_"), _ROW.state == STARTED, _ROW.server == bindparam("before"))
        .values(server=bindparam("by"))
    )
)
_GIVE_BACK = Query(
    lambda: (
        update(QUEUED)
        .where(is_listed(_ROW.id, "ids"), _ROW.state == STARTED, _ROW.server == bindparam("before"))
        .values(state=WAITING, started_at=null(), server=null())
    )
)
_REMOVE = Query(lambda: delete(QUEUED).where(is_listed(_ROW.id, "ids"), _ROW.state == bindparam("before")))
_LOAD = Query(
    lambda: (
        select(_ROW.key, _ROW.server, func.count())
        .where(_ROW.queue == bindparam("queue"), _ROW.state == STARTED)
        .group_by(_ROW.key, _ROW.server)
    )
)
_COUNTS = Query(
    lambda: (
        select(_ROW.queue, _ROW.state, func.count())
        .where(_ROW.state >= WAITING, _ROW.state <= STARTED)
        .group_by(_ROW.queue, _ROW.state)
    )
)
_DUE = Query(  # a look at each queue's first rows, and not at all that wait
    lambda: (
        select(QUEUE.c.name)
        .where(
            select(_ROW.id)
            .where(_ROW.queue == QUEUE.c.name, _ROW.state == WAITING, _ROW.not_before <= bindparam("now"))
            .exists()
        )
        .order_by(QUEUE.c.name)
    )
)
_NEXT = Query(
    lambda: select(
        select(func.min(_ROW.not_before))
        .where(_ROW.queue == QUEUE.c.name, _ROW.state == WAITING, _ROW.not_before > bindparam("now"))
        .scalar_subquery()
    ).select_from(QUEUE)
)
_BEFORE = Query(
    lambda: select(func.count()).where(
        _ROW.queue == bindparam("queue"),
        _ROW.state == WAITING,
        or_(
            _ROW.rank < bindparam("rank"),
            and_(
                _ROW.rank == bindparam("rank"),
                or_(
                    _ROW.submitted_at < bindparam("at"),
                    and_(_ROW.submitted_at == bindparam("at"), _ROW.id < bindparam("id")),
                ),
            ),
        ),
    )
)


_ALL_IN_ORDER = Query(
    lambda: (
        select(_ROW.id)
        .where(_ROW.queue == bindparam("queue"), _ROW.state == WAITING)
        .order_by(_ROW.rank, _ROW.submitted_at, _ROW.id)
    )
)


def _next_page(per_key: bool) -> Query:
    """Those that may begin by time and key, in order."""

    def build() -> Any:
        found = select(_ROW.id, _ROW.key).where(
            _ROW.queue == bindparam("queue"),
            _ROW.state == WAITING,
            _ROW.not_before + 0.0 <= bindparam("now"),  # not by the index of times: the order of another one is wanted
        )
        if per_key:
            full = (
                select(_ROW.key)
                .where(_ROW.queue == bindparam("queue"), _ROW.state == STARTED, _ROW.key.is_not(None))
                .group_by(_ROW.key)
                .having(func.count() >= bindparam("most"))
            )
            found = found.where(or_(_ROW.key.is_(None), _ROW.key.not_in(full)))
        return found.order_by(_ROW.rank, _ROW.submitted_at, _ROW.id).limit(PAGE)

    return Query(build)


_PAGE = _next_page(per_key=False)
_PAGE_BY_KEY = _next_page(per_key=True)


def _entry(row: Any) -> Entry:
    id_, queue, rank, key, dedup, submitted_at, not_before, state, started_at, server = row
    return Entry(id_, queue, -rank, key, dedup, submitted_at, not_before, state, started_at, server)


def _locked(connection: Any, queue: str) -> tuple[QueueSettings, Bucket | None] | None:
    """What the queue was told, with nobody else at it until the transaction ends; None if there is none."""
    row = _LOCK(connection, queue=queue).fetchone()
    if row is None:
        return _locked(connection, queue) if _made(connection, queue) else None
    said, tokens, filled_at = row
    return QueueSettings.from_json(json.loads(said)), None if tokens is None else Bucket(tokens, filled_at)


def _made(connection: Any, queue: str) -> bool:
    """The queue that is always there is made when it is first looked for."""
    if queue == DEFAULT:
        _ADD_QUEUE(connection, name=DEFAULT, settings="{}", tokens=None, filled_at=None)
    return queue == DEFAULT


# ---- queues ---------------------------------------------------------------------------------


def queues(store: Store) -> dict[str, QueueSettings]:
    """All that there are, by name."""
    rows = store.ask(_QUEUES)
    return {DEFAULT: QueueSettings(), **{name: QueueSettings.from_json(json.loads(said)) for name, said in rows}}


def save_queue(store: Store, name: str, settings: QueueSettings) -> None:
    """Make the queue, or tell it something else. Its rate begins anew."""
    said = json.dumps(settings.to_json())

    def work(connection: Any) -> None:
        _ADD_QUEUE(connection, name=name, settings=said, tokens=None, filled_at=None)
        _SET_QUEUE(connection, queue=name, said=said)

    store.side(work)


def counts(store: Store) -> dict[str, tuple[int, int]]:
    """By queue that has any: how many wait, and how many are under way."""
    rows = store.ask(_COUNTS)
    found: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for queue, state, count in rows:
        found[queue][state - WAITING] = count
    return {queue: (waiting, started) for queue, (waiting, started) in found.items()}


# ---- adding -----------------------------------------------------------------------------------


def put(store: Store, connection: Any, entry: Entry, replace: bool = False) -> None:
    """Add a row in the transaction that is open. Servers of other machines are told with it.

    With `replace`, one with the same `dedup` that only waits gives way: it is DROPPED. Raises NoQueue, Stands.
    """
    if entry.dedup is None:  # nobody has to come one after the other
        if _ONE_QUEUE(connection, queue=entry.queue).fetchone() is None and not _made(connection, entry.queue):
            raise NoQueue(entry.queue)
    elif _locked(connection, entry.queue) is None:
        raise NoQueue(entry.queue)
    else:
        for row in _SAME(connection, queue=entry.queue, dedup=entry.dedup).fetchall():
            other = _entry(row)
            if not replace or other.state != WAITING:
                raise Stands(other)
            _MOVE(connection, id_=other.id, before=WAITING, after=DROPPED)
    fields = entry._asdict()
    rank = -fields.pop("priority")
    _ADD(connection, **fields, rank=rank)
    notify(store, connection)


def again(entry: Entry) -> SideWrite:
    """A run that has a row, or had one, WAITS in the queue. The row may be one of a run that has just ended, which its server is
    about to remove: it removes none that WAITS. Nobody looks whether there is such a queue, or at `dedup`."""
    fields = entry._asdict()
    rank = -fields.pop("priority")
    return SideWrite("queues:AGAIN", ({**fields, "rank": rank},))


def remove(store: Store, runs: Sequence[str], before: int) -> None:
    """Forget those of `runs` that are in state `before`: they have ended, or were never recorded."""
    if runs:
        store.side(lambda connection: _REMOVE(connection, ids=json.dumps(list(runs)), before=before) and None)


def drop_waiting(store: Store, queue: str) -> list[str]:
    """All that wait in the queue are DROPPED; their ids."""

    def work(connection: Any) -> list[str]:
        _locked(connection, queue)
        rows = _IN_ORDER(connection, queue=queue, state=WAITING, limit=1_000_000).fetchall()
        for row in rows:
            _MOVE(connection, id_=row[0], before=WAITING, after=DROPPED)
        return [row[0] for row in rows]

    return store.side(work)


# ---- taking -----------------------------------------------------------------------------------


def take(store: Store, queue: str, server: str, room: int, now: float) -> Taken:
    """Those that begin now, at most `room`: they are STARTED, and the server's."""

    def work(connection: Any) -> Taken:
        told = _locked(connection, queue)
        if told is None:
            return Taken(())
        settings, bucket = told
        before = bucket
        taken: list[str] = []
        again_at = None
        while len(taken) < room:
            waiting = _waiting(connection, queue, settings, now)
            load = _load(connection, queue, server)
            runs, bucket, again_at = choose(settings, bucket, load, waiting, room=room - len(taken), now=now)
            if runs:
                _START(connection, ids=json.dumps(list(runs)), at=now, by=server)
            taken += runs
            if not runs or again_at is not None or len(waiting) < PAGE:
                break
        if bucket != before:
            tokens, at = (None, None) if bucket is None else bucket
            _FILL(connection, queue=queue, left=tokens, at=at)
        return Taken(tuple(taken), again_at)

    return store.side(work)


def _waiting(connection: Any, queue: str, settings: QueueSettings, now: float) -> list[Waits]:
    if settings.per_key is None:
        rows = _PAGE(connection, queue=queue, now=now).fetchall()
    else:
        rows = _PAGE_BY_KEY(connection, queue=queue, now=now, most=settings.per_key).fetchall()
    return [Waits(*row) for row in rows]


def _load(connection: Any, queue: str, server: str) -> Load:
    total = here = 0
    by_key: dict[str, int] = defaultdict(int)
    for key, with_whom, count in _LOAD(connection, queue=queue).fetchall():
        total += count
        if with_whom == server:
            here += count
        if key is not None:
            by_key[key] += count
    return Load(total, here, by_key)


def hand_over(store: Store, run: str, before: str | None, to: str) -> bool:
    """A run that a dead server had begun is the server's `to` now; False if somebody was quicker."""

    def work(connection: Any) -> bool:
        row = _BY_ID(connection, id=run).fetchone()
        if row is None:
            return False
        entry = _entry(row)
        if entry.state != STARTED or entry.server not in (before, to):
            return False
        _HAND_OVER(connection, id_=run, before=before, by=to)
        return True

    return store.side(work)


def give_back(store: Store, runs: Sequence[str], server: str) -> None:
    """Those of `runs` that the server had taken, and has not begun, WAIT again, for whoever takes them."""
    if runs:
        store.side(lambda connection: _GIVE_BACK(connection, ids=json.dumps(list(runs)), before=server) and None)


# ---- looking ----------------------------------------------------------------------------------


def entry_of(store: Store, run: str) -> Entry | None:
    row = next(iter(store.ask(_BY_ID, id=run)), None)
    return None if row is None else _entry(row)


def entries_of(store: Store, runs: Sequence[str]) -> list[Entry]:
    """The rows of these runs, of those that have one, in no order."""
    return [_entry(row) for row in store.ask(_BY_IDS, ids=json.dumps(list(runs)))] if runs else []


def entries(store: Store, state: int, queue: str | None = None, limit: int = 1_000) -> list[Entry]:
    """Rows in that state: of one queue in the order in which they go, of all by their time."""

    if queue is None:
        rows = store.ask(_IN_STATE, state=state)
    else:
        rows = store.ask(_IN_ORDER, queue=queue, state=state, limit=limit)
    return [_entry(row) for row in rows]


def place_of(store: Store, entry: Entry) -> int:
    """How many go before it; 0: it is the next."""
    at, rank = entry.submitted_at, -entry.priority
    ((count,),) = store.ask(_BEFORE, queue=entry.queue, rank=rank, at=at, id=entry.id)
    return int(count)


def places(store: Store, entries: Sequence[Entry]) -> dict[str, int]:
    """As `place_of` of each, by the run's id. Of many, each queue is read once instead of being counted again and again."""
    if len(entries) <= COUNTED:
        return {entry.id: place_of(store, entry) for entry in entries}
    found: dict[str, int] = {}
    for queue in {entry.queue for entry in entries}:
        found |= {row[0]: place for place, row in enumerate(store.ask(_ALL_IN_ORDER, queue=queue))}
    return {entry.id: found.get(entry.id, 0) for entry in entries}  # 0: it began meanwhile


def due_queues(store: Store, now: float) -> list[str]:
    """Queues in which somebody waits who may begin by now. Writes nothing."""
    return [row[0] for row in store.ask(_DUE, now=now)]


def next_due(store: Store, now: float) -> float | None:
    """When the first of those that wait for a time may begin."""
    rows = store.ask(_NEXT, now=now)
    return min((float(at) for (at,) in rows if at is not None), default=None)
