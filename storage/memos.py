"""What the attempts at a step have noted for those after them: parts that are done, a task's own checkpoint.

Forgotten in the same commit in which the step succeeds. A digest here refers to an artifact, like one of a step's value.

May import nothing of ours but errors, model, the interface and modules of storage.
"""

from __future__ import annotations

from sqlalchemy import bindparam, delete, select

from dagengine.model import Value
from dagengine.storage.interface import Store
from dagengine.storage.side import upsert
from dagengine.storage.side_schema import MEMO
from dagengine.storage.statements import Query
from dagengine.storage.writes import SideWrite

SAVE = Query(upsert(MEMO, ("run", "seq", "name")))
FORGET = Query(lambda: delete(MEMO).where(MEMO.c.run == bindparam("run"), MEMO.c.seq == bindparam("seq")))

_FIND = Query(
    lambda: select(MEMO.c.digest, MEMO.c.size, MEMO.c.value).where(
        MEMO.c.run == bindparam("run"), MEMO.c.seq == bindparam("seq"), MEMO.c.name == bindparam("name")
    )
)
_NOTED = Query(lambda: select(MEMO.c.seq).where(MEMO.c.run == bindparam("run")).distinct())


def save(seq: int, name: str, value: Value, at: float) -> SideWrite:
    """The write that notes the value. A large one is durable among the artifacts by then."""
    row = {"seq": seq, "name": name, "at": at, "size": value.size, "digest": value.digest, "value": value.inline}
    return SideWrite("memos:SAVE", (row,))


def forget(seqs: list[int]) -> SideWrite:
    """The write that forgets all that was noted by attempts at these steps."""
    return SideWrite("memos:FORGET", tuple({"seq": seq} for seq in seqs))


def find(store: Store, run_number: int, seq: int, name: str) -> Value | None:
    """What was noted under the name."""
    row = next(iter(store.ask(_FIND, run=run_number, seq=seq, name=name)), None)
    return None if row is None else Value(row[0], row[1], row[2])


def noted(store: Store, run_number: int) -> set[int]:
    """The steps of the run with something noted."""
    return {seq for (seq,) in store.ask(_NOTED, run=run_number)}
