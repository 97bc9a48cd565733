"""How many steps a run has of each task, without looking at each of millions of them.

Steps are counted while they are recorded, by blocks of BLOCK seqs: whoever has recorded all of a block writes one row that
says how many of each definition there are in it. A block that two processes have recorded, or in which seqs were left out,
has none. What a row says stays true, because steps are only ever added; a step that is dropped takes its block's row along.

So counting reads these rows, looks at the steps of blocks without one, and at those that have not succeeded, which indexes
find: it costs in proportion to what is left, and to the number of blocks. Nothing reads it to decide.

May import nothing of ours but modules of storage.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

from sqlalchemy import BigInteger, Integer, bindparam, cast, delete, func, literal_column, select
from sqlalchemy.sql.base import Executable

from dagengine.storage import statements
from dagengine.storage.blocks import BLOCK
from dagengine.storage.schema import STEP
from dagengine.storage.side import upsert
from dagengine.storage.side_schema import TALLY
from dagengine.storage.statements import Query

WORTH_WHILE = 2 * BLOCK
"""Steps from which on a run is counted so; one with fewer is looked at as it is."""

SHARE_LEFT = 8
"""Looking up steps one by one costs some times what reading all of them in their order does: where more than one in so
many has not succeeded, all are read."""

_run = bindparam("run", type_=Integer)
_limit = bindparam("limit", type_=Integer)

NOTE = Query(upsert(TALLY, ("run", "block")))
DROP = Query(lambda: delete(TALLY).where(TALLY.c.run == _run, TALLY.c.block == bindparam("block")))

_TALLIES = Query(lambda: select(TALLY.c.block, TALLY.c.tasks).where(TALLY.c.run == _run).order_by(TALLY.c.block))


def _by_definition(*conditions: Any) -> Any:
    found = select(STEP.c.definition, STEP.c.state, cast(func.count(), BigInteger))
    return found.where(STEP.c.run == _run, *conditions).group_by(STEP.c.definition, STEP.c.state)


def _between() -> Executable:
    first, last = bindparam("first", type_=Integer), bindparam("last", type_=Integer)
    found: Executable = _by_definition(STEP.c.seq.between(first, last))
    return found


def _how_many(condition: Any, hint: tuple[Any, ...]) -> Executable:
    """At most `limit`."""
    some: Any = select(literal_column("1")).select_from(STEP).with_hint(*hint).where(STEP.c.run == _run, condition)
    return select(func.count()).select_from(some.limit(_limit).subquery())


_BETWEEN = Query(_between)
_LEFT = (
    (statements.WAITING, statements.BY_WAITING),
    (statements.UNSUCCESSFUL, statements.BY_UNSUCCESSFUL),
)
_LEFT_COUNTED = tuple(Query(lambda c=condition, h=hint: _how_many(c, h)) for condition, hint in _LEFT)  # type: ignore[misc]
_LEFT_BY_DEFINITION = tuple(
    Query(lambda c=condition, h=hint: _by_definition(c).with_hint(*h))  # type: ignore[misc]
    for condition, hint in _LEFT
)

Counts = Counter[tuple[int, str]]
"""(number of a definition, stored state) -> number of steps."""


def counts(connection: Any, run: int, next_seq: int) -> Counts | None:
    """How many steps of each definition are in each state; None: read all of them."""
    if next_seq < WORTH_WHILE:
        return None
    known = {block: json.loads(tasks) for block, tasks in _TALLIES(connection, run=run)}
    if not known:
        return None
    most = next_seq // SHARE_LEFT
    left = sum(query(connection, run=run, limit=most).fetchone()[0] for query in _LEFT_COUNTED)
    if left >= most:
        return None
    found: Counts = Counter()
    for tasks in known.values():
        found.update({(int(definition), "succeeded"): count for definition, count in tasks.items()})
    for first, last in _gaps(known.keys(), next_seq):
        for definition, _, count in _BETWEEN(connection, run=run, first=first, last=last):
            found[definition, "succeeded"] += count
    for query in _LEFT_BY_DEFINITION:
        for definition, state, count in query(connection, run=run).fetchall():
            found[definition, state] += count
            found[definition, "succeeded"] -= count
    return +found


def _gaps(known: Iterable[int], next_seq: int) -> Iterator[tuple[int, int]]:
    """First and last seq of the stretches between the blocks that are known."""
    at = 0
    for block in sorted(known):
        if block * BLOCK > at:
            yield at, block * BLOCK - 1
        at = (block + 1) * BLOCK
    if at < next_seq:
        yield at, next_seq - 1
