"""Runs that wait without a process: until when, and who is to wake them.

    a run is let go of   ── `falls_asleep`, in the batch that makes it WAITING ──▶  asleep, wake_at; or 0, if it was
                                                                                    to be cancelled: due
    something comes      ── `wake`, or a signal ───────────────────────────────▶  wake_at 0: due
    somebody takes it up ── `awake`, with the first batch under the new claim ────▶  not asleep

Nothing may come between a run's last look and its falling asleep without being seen. So what comes counts up `latest`
in the run's row here, which both sides write and which therefore orders them: a run that falls asleep having seen fewer
signals than there are is due at once. That it is due is all that is said here; a run that wakes for nothing looks, and
falls asleep again. A request to cancel it writes the run's own row, as its falling asleep does: the later of the two knows
of the other one.

May import nothing of ours but model and modules of storage.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from sqlalchemy import Float, Integer, Text, and_, bindparam, case, func, literal_column, null, select, update
from sqlalchemy.dialects.postgresql import insert  # SQLite's compiler says it in the same words

from dagengine.model import RunRecord
from dagengine.storage.interface import Store
from dagengine.storage.schema import RUN
from dagengine.storage.side_schema import SLEEPER
from dagengine.storage.statements import Query, is_listed
from dagengine.storage.writes import SideWrite

_S = SLEEPER.c


class Sleeper(NamedTuple):
    run: int
    id: str
    wake_at: float | None
    process: str | None


def _given(name: str, kind: Any) -> Any:
    return bindparam(name, type_=kind)


def _fall_asleep() -> Any:
    at_once: Any = literal_column("0.0")
    cancelled = select(RUN.c.number).where(
        RUN.c.number == _given("run", Integer), RUN.c.cancel_requested_at.is_not(None)
    )
    new = insert(SLEEPER).values(
        run=_given("run", Integer),
        id=_given("id", Text),
        latest=literal_column("0"),
        asleep=literal_column("1"),
        wake_at=case((cancelled.exists(), at_once), else_=_given("wake_at", Float)),
        process=_given("process", Text),
    )
    due = case((_S.latest > _given("seen", Integer), at_once), else_=new.excluded.wake_at)
    changed = {"asleep": literal_column("1"), "wake_at": due, "process": new.excluded.process}
    return new.on_conflict_do_update(index_elements=["run"], set_=changed)


FALL_ASLEEP = Query(_fall_asleep)
AWAKE = Query(lambda: update(SLEEPER).where(_S.run == _given("run", Integer)).values(asleep=literal_column("0")))


def _come() -> Any:
    new = insert(SLEEPER).values(
        run=_given("run", Integer),
        id=_given("id", Text),
        latest=literal_column("1"),
        asleep=literal_column("0"),
        wake_at=literal_column("0.0"),
        process=null(),
    )
    changed = {"latest": _S.latest + literal_column("1"), "wake_at": literal_column("0.0")}
    return new.on_conflict_do_update(index_elements=["run"], set_=changed).returning(_S.latest)


COME = Query(_come)
"""Something came for the run: its row is locked, it is due, and the answer is the number of what came."""

LATEST = Query(lambda: select(_S.latest).where(_S.run == _given("run", Integer)))

_HELD = and_(_S.asleep == literal_column("1"), _S.wake_at.is_not(None))
_COLUMNS = (_S.run, _S.id, _S.wake_at, _S.process)
_DUE = Query(
    lambda: (
        select(*_COLUMNS)
        .where(_S.asleep == literal_column("1"), _S.wake_at <= _given("now", Float))
        .order_by(_S.wake_at)
        .limit(_given("limit", Integer))
    )
)
_NEXT = Query(lambda: select(func.min(_S.wake_at)).where(_HELD))
_NEXT_AFTER = Query(lambda: select(func.min(_S.wake_at)).where(_HELD, _S.wake_at > _given("now", Float)))
_OF_RUNS = Query(lambda: select(*_COLUMNS).where(is_listed(_S.run, "runs"), _S.asleep == literal_column("1")))


_NOTIFY = Query(lambda: select(func.pg_notify(_given("channel", Text), literal_column("''"))))


def falls_asleep(run_id: str, wake_at: float | None, seen: int, process: str | None) -> SideWrite:
    """The run is let go of, having seen `seen` signals. `process`: who wakes it itself."""
    return SideWrite("sleepers:FALL_ASLEEP", ({"id": run_id, "wake_at": wake_at, "seen": seen, "process": process},))


def awake() -> SideWrite:
    """A process has the run again."""
    return SideWrite("sleepers:AWAKE", ({},))


def wake(store: Store, run_number: int, run_id: str) -> None:
    """Something that the run may wait for has come: it is due at once."""
    store.side(lambda connection: COME(connection, run=run_number, id=run_id).fetchone() and None)


def wake_in(connection: Any, run: RunRecord) -> None:
    """As `wake`, in a transaction that is open."""
    COME(connection, run=run.number, id=run.id).fetchone()


def forget(store: Store, run_number: int) -> None:
    """The run does not wait any more, and nobody is to wake it."""
    store.side(lambda connection: AWAKE(connection, run=run_number) and None)


def due(store: Store, now: float, limit: int = 1_000) -> list[Sleeper]:
    """Runs that are to be woken, the longest due first. Of one that turns out to be not WAITING, say so: `forget` it."""
    rows: Iterable[Any] = store.ask(_DUE, now=now, limit=limit)
    return [Sleeper(*row) for row in rows]


def next_due(store: Store) -> float | None:
    """When the next run is to be woken; None if none is, but by somebody."""
    row = next(iter(store.ask(_NEXT)), None)
    return None if row is None else row[0]


def next_after(store: Store, now: float) -> float | None:
    """When the next run is to be woken that is not due yet."""
    row = next(iter(store.ask(_NEXT_AFTER, now=now)), None)
    return None if row is None else row[0]


def sleepers(store: Store, run_numbers: Sequence[int]) -> list[Sleeper]:
    """Those of these runs that wait without a process, and until when."""
    return [Sleeper(*row) for row in store.ask(_OF_RUNS, runs=json.dumps(list(run_numbers)))]


def sleeper(store: Store, run_number: int) -> Sleeper | None:
    """Until when the run waits without a process; None if it does not."""
    return next(iter(sleepers(store, [run_number])), None)


def notify(store: Store, process: str) -> None:
    """Tell the process that owns a run of this store, on whatever machine, to look. Where the database can do that."""
    from dagengine.storage.postgres import channel_of

    store.side(lambda connection: _NOTIFY(connection, channel=channel_of(process)) and None)
