"""Schedules as rows: what is begun when, and when next. May import nothing of ours but modules of storage."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from sqlalchemy import bindparam, delete, func, select, update

from dagengine.storage.interface import Store
from dagengine.storage.side import upsert
from dagengine.storage.side_schema import SCHEDULE
from dagengine.storage.statements import Query


class ScheduleRow(NamedTuple):
    """`settings`: JSON of `dagengine.serving.schedules.Schedule`; `call`: the encoded arguments; `next_at`: the logical time of the
    next run, None: there is none any more."""

    name: str
    settings: dict[str, Any]
    call: bytes
    paused: bool
    next_at: float | None


_ADD = Query(upsert(SCHEDULE, ("name",), replace=False))
_COLUMNS = (SCHEDULE.c.name, SCHEDULE.c.settings, SCHEDULE.c.call, SCHEDULE.c.paused, SCHEDULE.c.next_at)
_ALL = Query(lambda: select(*_COLUMNS).order_by(SCHEDULE.c.name))
_ONE = Query(lambda: select(*_COLUMNS).where(SCHEDULE.c.name == bindparam("schedule")))
_DUE = Query(
    lambda: (
        select(*_COLUMNS)
        .where(SCHEDULE.c.next_at <= bindparam("now"), SCHEDULE.c.paused.is_(False))
        .order_by(SCHEDULE.c.next_at, SCHEDULE.c.name)
    )
)
_NEXT = Query(lambda: select(func.min(SCHEDULE.c.next_at)).where(SCHEDULE.c.paused.is_(False)))
_ADVANCE = Query(
    lambda: (
        update(SCHEDULE)
        .where(SCHEDULE.c.name == bindparam("schedule"), SCHEDULE.c.next_at == bindparam("before"))
        .values(next_at=bindparam("after"))
    )
)
_PAUSE = Query(
    lambda: (
        update(SCHEDULE)
        .where(SCHEDULE.c.name == bindparam("schedule"))
        .values(paused=bindparam("is_paused"), next_at=bindparam("after"))
    )
)
_REMOVE = Query(lambda: delete(SCHEDULE).where(SCHEDULE.c.name == bindparam("schedule")))


def _row(row: Any) -> ScheduleRow:
    name, settings, call, paused, next_at = row
    return ScheduleRow(name, json.loads(settings), bytes.fromhex(call), bool(paused), next_at)


def add(store: Store, row: ScheduleRow) -> bool:
    """False if the name is taken."""
    fields = {**row._asdict(), "settings": json.dumps(row.settings, sort_keys=True), "call": row.call.hex()}

    def work(connection: Any) -> bool:
        found = _ONE(connection, schedule=row.name).fetchone()
        _ADD(connection, **fields)
        return found is None or tuple(found)[:3] == (fields["name"], fields["settings"], fields["call"])

    return store.side(work)


def all_rows(store: Store) -> list[ScheduleRow]:
    return [_row(row) for row in store.ask(_ALL)]


def one_row(store: Store, name: str) -> ScheduleRow | None:
    row = next(iter(store.ask(_ONE, schedule=name)), None)
    return None if row is None else _row(row)


def due_rows(store: Store, now: float) -> list[ScheduleRow]:
    """Those that are not paused and whose time has come."""
    return [_row(row) for row in store.ask(_DUE, now=now)]


def next_at(store: Store) -> float | None:
    row = next(iter(store.ask(_NEXT)), None)
    return None if row is None or row[0] is None else float(row[0])


def advance(store: Store, name: str, before: float, after: float | None) -> None:
    """The run of `before` has been begun: the next is that of `after`. Nothing happens if somebody said so already."""
    store.side(lambda connection: _ADVANCE(connection, schedule=name, before=before, after=after) and None)


def pause(store: Store, name: str, paused: bool, after: float | None) -> None:
    store.side(lambda connection: _PAUSE(connection, schedule=name, is_paused=paused, after=after) and None)


def remove(store: Store, name: str) -> None:
    store.side(lambda connection: _REMOVE(connection, schedule=name) and None)
