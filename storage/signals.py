"""Signals: what somebody sends to a run under a name, kept until a step of the run takes it.

A signal has its number in the run before it can be seen, because the run's row among the `sleepers` is locked first: so
numbers become visible in their order, and a run that has seen number n has seen all before it. A step takes a signal in
the batch of its own end, so each is given to one step, once, whatever is killed in between.

May import nothing of ours but model and modules of storage.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from sqlalchemy import Float, Integer, LargeBinary, Text, bindparam, insert, select, update
from sqlalchemy.types import BigInteger

from dagengine.model import Value
from dagengine.storage.interface import Store
from dagengine.storage.side_schema import SIGNAL
from dagengine.storage.sleepers import COME, LATEST
from dagengine.storage.statements import Query
from dagengine.storage.writes import SideWrite

_S = SIGNAL.c


class Signal(NamedTuple):
    number: int
    name: str
    at: float
    value: Value
    taken: int | None  # seq of the step that took it


def _given(name: str, kind: Any) -> Any:
    return bindparam(name, type_=kind)


_KINDS = {
    "run": Integer,
    "number": Integer,
    "id": Text,
    "name": Text,
    "at": Float,
    "size": BigInteger,
    "digest": Text,
    "value": LargeBinary,
}
_ADD = Query(lambda: insert(SIGNAL).values({name: _given(name, kind) for name, kind in _KINDS.items()}))
_SAME = Query(lambda: select(_S.number).where(_S.run == _given("run", Integer), _S.id == _given("id", Text)))
_COLUMNS = (_S.number, _S.name, _S.at, _S.digest, _S.size, _S.value, _S.taken)


def _after() -> Any:
    return select(*_COLUMNS).where(_S.run == _given("run", Integer), _S.number > _given("after", Integer))


_AFTER = Query(lambda: _after().order_by(_S.number))
_UNTAKEN = Query(lambda: _after().where(_S.taken.is_(None)).order_by(_S.number))
TAKE = Query(
    lambda: (
        update(SIGNAL)
        .where(_S.run == _given("run", Integer), _S.number == _given("number", Integer), _S.taken.is_(None))
        .values(taken=_given("seq", Integer))
    )
)


def send(
    store: Store, run_number: int, run_id: str, *, signal_id: str, name: str, value: Value, at: float
) -> int | None:
    """Keep a signal for the run, which is due if it waits; its number. None if one with this `signal_id` was sent before.

    A large payload is among the artifacts by now.
    """

    def work(connection: Any) -> int | None:
        number: int = COME(connection, run=run_number, id=run_id).fetchone()[0]  # locks the run's signals
        if _SAME(connection, run=run_number, id=signal_id).fetchone() is not None:
            return None  # a number that is left out does no harm
        row = {"run": run_number, "number": number, "id": signal_id, "name": name, "at": at}
        _ADD(connection, **row, size=value.size, digest=value.digest, value=value.inline)
        return number

    return store.side(work)


def signals(store: Store, run_number: int, after: int = 0) -> list[Signal]:
    """The run's signals above number `after`, in the order in which they were sent."""
    rows = store.ask(_AFTER, run=run_number, after=after)
    return [_signal(row) for row in rows]


def untaken(store: Store, run_number: int, after: int = 0) -> tuple[int, list[Signal]]:
    """The number up to which all signals are seen by this, and those above `after` that no step has taken yet."""

    def ask(connection: Any) -> tuple[int, list[Any]]:
        # In this order: what comes in between is seen now, and found once more later.
        row = LATEST(connection, run=run_number).fetchone()
        return row[0] if row else 0, _UNTAKEN(connection, run=run_number, after=after).fetchall()

    latest, rows = store.side(ask, write=False)
    return latest, [_signal(row) for row in rows if row[0] <= latest]


def _signal(row: Any) -> Signal:
    number, name, at, digest, size, value, taken = row
    return Signal(number, name, at, Value(digest, size, None if value is None else bytes(value)), taken)


def take(number: int, seq: int) -> SideWrite:
    """Step `seq` takes the signal: to be written with the step's end."""
    return SideWrite("signals:TAKE", ({"number": number, "seq": seq},))
