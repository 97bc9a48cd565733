"""Where the value of a step came from that was not computed in its run: another run's step, or the cache.

May import nothing of ours but errors, model, the interface and modules of storage.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from sqlalchemy import bindparam, select

from dagengine.storage.interface import Store
from dagengine.storage.side import upsert
from dagengine.storage.side_schema import ORIGIN
from dagengine.storage.statements import Query, is_listed
from dagengine.storage.writes import SideWrite

ADD = Query(upsert(ORIGIN, ("run", "seq")))

_OF_RUN = Query(lambda: select(ORIGIN.c.seq, ORIGIN.c.source).where(ORIGIN.c.run == bindparam("run")))
_OF_STEPS = Query(
    lambda: select(ORIGIN.c.seq, ORIGIN.c.source).where(
        ORIGIN.c.run == bindparam("run"), is_listed(ORIGIN.c.seq, "seqs")
    )
)


def origin(seq: int, source: dict[str, Any]) -> SideWrite:
    """The write that says where the value of step `seq` came from."""
    return SideWrite("origins:ADD", ({"seq": seq, "source": json.dumps(source)},))


def origins(store: Store, run_number: int, seqs: Sequence[int] | None = None) -> dict[int, dict[str, Any]]:
    """By seq: {"by": "fork" or "cache", "run": id, "seq": number} of the steps that have one; of all, or of `seqs`."""

    def ask(connection: Any) -> list[tuple[int, str]]:
        if seqs is None:
            return list(_OF_RUN(connection, run=run_number).fetchall())
        return list(_OF_STEPS(connection, run=run_number, seqs=json.dumps(list(seqs))).fetchall())

    return {seq: json.loads(source) for seq, source in store.side(ask, write=False)}
