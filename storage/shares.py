"""What a new run shares of another one, in SQL: a handful of statements, whatever the number of steps.

Rows are copied, and bytes are not: large values are artifacts, which both runs name by their digest. The copies have the
seqs, keys and places in the order of completion of the donor's, and no attempts. Called in the transaction that records the
new run. May import nothing of ours but model and modules of storage.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from sqlalchemy import (
    Boolean,
    ColumnElement,
    Float,
    Integer,
    LargeBinary,
    Text,
    and_,
    bindparam,
    cast,
    exists,
    insert,
    literal_column,
    null,
    select,
    update,
)
from sqlalchemy.sql.base import Executable

from dagengine.model import Share
from dagengine.storage.lifetime_notes import is_expired
from dagengine.storage.lookup import donor_gone
from dagengine.storage.schema import DEFINITION, EDGE, RUN, STATE_VERSION, STEP, UNSAVED_CALL
from dagengine.storage.statements import Query, is_listed

if TYPE_CHECKING:
    from dagengine.storage.side import Connection

_run = bindparam("run", type_=Integer)
_donor = bindparam("donor", type_=Integer)
_at = bindparam("at", type_=Float)

_HOLD_DONOR = Query(lambda: select(RUN.c.number).where(RUN.c.number == _donor).with_for_update(read=True))
_COUNT = Query(
    lambda: (
        update(RUN)
        .where(RUN.c.number == _run)
        .values(next_seq=bindparam("next_seq", type_=Integer), token=bindparam("token", type_=Integer))
    )
)


def _copied(table: Any, changed: dict[str, ColumnElement[Any]], fit: ColumnElement[bool]) -> Executable:
    """The donor's rows as the new run's, with these columns `changed`."""
    names = [column.name for column in table.c]
    found = [_run if name == "run" else changed.get(name, table.c[name]).label(name) for name in names]
    return insert(table).from_select(names, select(*found).where(table.c.run == _donor, fit))


def _none(kind: Any) -> ColumnElement[Any]:
    return cast(null(), kind)


_DEFINITIONS = Query(lambda: _copied(DEFINITION, {}, literal_column("1") == literal_column("1")))

_FRESH: dict[str, ColumnElement[Any]] = {
    "handled": cast(literal_column("0"), Boolean),
    "attempts": literal_column("0", Integer),
    "created_at": _at,
    "failure": _none(Text),
    "failure_pickled": _none(LargeBinary),
}
_UNFINISHED: dict[str, ColumnElement[Any]] = {
    "state": literal_column("'waiting'", Text),
    "finish_order": _none(Integer),
    "finished_at": _none(Float),
    "value_size": _none(Integer),
    "value_digest": _none(LargeBinary),
    "value": _none(LargeBinary),
}
_KEPT = Query(
    lambda: _copied(
        STEP,
        {**_FRESH, "finished_at": _at},
        and_(is_listed(STEP.c.seq, "seqs"), STEP.c.state == literal_column("'succeeded'")),
    )
)
_REOPENED = Query(lambda: _copied(STEP, {**_FRESH, **_UNFINISHED}, is_listed(STEP.c.seq, "seqs")))
_EDGES = Query(lambda: _copied(EDGE, {}, is_listed(EDGE.c.child, "seqs")))


@Query
def _given() -> Executable:
    """A step that has another value, and for which nothing was called."""
    changed: dict[str, ColumnElement[Any]] = {
        **_FRESH,
        "state": literal_column("'succeeded'", Text),
        "finish_order": bindparam("finish_order", type_=STEP.c.finish_order.type),
        "finished_at": _at,
        "items_first": _none(Integer),
        "items_count": _none(Integer),
        "value_size": bindparam("size", type_=STEP.c.value_size.type),
        "value_digest": bindparam("digest", type_=LargeBinary),
        "value": bindparam("inline", type_=LargeBinary),
        "call": bindparam("call", type_=LargeBinary),
    }
    return _copied(STEP, changed, STEP.c.seq == bindparam("seq", type_=Integer))


def _is_shared(seq: ColumnElement[Any]) -> ColumnElement[bool]:
    other = STEP.alias("shared")
    return exists(select(other.c.seq).where(other.c.run == _run, other.c.seq == seq))


_STATES = Query(lambda: _copied(STATE_VERSION, {}, _is_shared(STATE_VERSION.c.after)))
_UNSAVED = Query(lambda: _copied(UNSAVED_CALL, {}, _is_shared(UNSAVED_CALL.c.seq)))


def _chained() -> Executable:
    """A call is not saved, if there is no saved state of its object, and it is not known for one that is not."""
    of, call = bindparam("instance", type_=Integer), bindparam("seq", type_=Integer)
    saved = select(STATE_VERSION.c.after).where(STATE_VERSION.c.run == _run, STATE_VERSION.c.instance == of)
    known = select(UNSAVED_CALL.c.seq).where(
        UNSAVED_CALL.c.run == _run, UNSAVED_CALL.c.instance == of, UNSAVED_CALL.c.seq == call
    )
    row = select(_run, of, call).where(~exists(saved), ~exists(known))
    return insert(UNSAVED_CALL).from_select(["run", "instance", "seq"], row)


CHAINED = Query(_chained)


def share_steps(connection: Connection, run: int, share: Share, at: float) -> None:
    """Copy what is shared into the new run. Raises RunConflict if the donor is gone, or its values are, since it was looked
    at; from here to the end of the transaction, neither goes."""
    if _HOLD_DONOR(connection, donor=share.donor).fetchone() is None or is_expired(connection, share.donor):
        raise donor_gone()
    shared: dict[str, Any] = {"run": run, "donor": share.donor, "at": at}
    _COUNT(connection, run=run, next_seq=share.next_seq, token=share.token)
    _DEFINITIONS(connection, run=run, donor=share.donor)
    if share.kept:
        _KEPT(connection, seqs=json.dumps(share.kept), **shared)
    if share.reopened:
        _REOPENED(connection, seqs=json.dumps(share.reopened), **shared)
    recorded = share.kept + share.reopened
    if recorded:
        _EDGES(connection, seqs=json.dumps(recorded), run=run, donor=share.donor)
    for place, (seq, value) in enumerate(share.values):
        row = {"size": value.size, "digest": bytes.fromhex(value.digest), "inline": value.inline}
        _given(connection, seq=seq, call=share.no_call, finish_order=given_order(share, place), **row, **shared)
    if share.kept:
        _STATES(connection, run=run, donor=share.donor)
        _UNSAVED(connection, run=run, donor=share.donor)
        for instance, seq in share.chained:
            CHAINED(connection, run=run, instance=instance, seq=seq)


def given_order(share: Share, place: int) -> int:
    """After all ends that are shared, before all ends of the new run's own."""
    return ((share.token + 1) << 32) - len(share.values) + place
