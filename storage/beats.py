"""The last heartbeat of attempts that run, for people who look from another process. Nothing reads it to decide.

May import nothing of ours but errors, model, the interface and modules of storage.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, NamedTuple

from sqlalchemy import bindparam, delete, select

from dagengine.storage.interface import Store
from dagengine.storage.side import upsert
from dagengine.storage.side_schema import BEAT
from dagengine.storage.statements import Query
from dagengine.storage.writes import SideWrite

SAVE = Query(upsert(BEAT, ("run", "seq")))
CLEAR = Query(lambda: delete(BEAT).where(BEAT.c.run == bindparam("run"), BEAT.c.seq == bindparam("seq")))

_OF_RUN = Query(
    lambda: select(BEAT.c.seq, BEAT.c.attempt, BEAT.c.at, BEAT.c.progress).where(BEAT.c.run == bindparam("run"))
)


class Beat(NamedTuple):
    """`progress`: what the task said, as JSON has it."""

    seq: int
    attempt: int
    at: float
    progress: Any


def save(beats: Iterable[Beat]) -> SideWrite:
    """The write of these heartbeats, each in place of the step's one before."""
    return SideWrite("beats:SAVE", tuple({**beat._asdict(), "progress": json.dumps(beat.progress)} for beat in beats))


def clear(seqs: Iterable[int]) -> SideWrite:
    """The write that forgets those of steps that have ended."""
    return SideWrite("beats:CLEAR", tuple({"seq": seq} for seq in seqs))


def beats(store: Store, run_number: int) -> dict[int, Beat]:
    """By seq."""

    def ask(connection: Any) -> list[tuple[int, int, float, str]]:
        return list(_OF_RUN(connection, run=run_number).fetchall())

    return {seq: Beat(seq, number, at, json.loads(said)) for seq, number, at, said in store.side(ask, write=False)}
