"""Runs whose steps are to be undone, and how such a run ends when that is done. The note stays with the run.

May import nothing of ours but errors, model, the interface and modules of storage.
"""

from __future__ import annotations

import json

from sqlalchemy import bindparam, select

from dagengine.model import Failure, RunState
from dagengine.storage.interface import Store
from dagengine.storage.side import upsert
from dagengine.storage.side_schema import COMPENSATION
from dagengine.storage.statements import Query

NOTE = Query(upsert(COMPENSATION, ("run",)))

_OF_RUN = Query(
    lambda: select(COMPENSATION.c.state, COMPENSATION.c.failure).where(COMPENSATION.c.run == bindparam("run"))
)


def request(store: Store, run_number: int, at: float) -> None:
    """Have the run compensated, and then be CANCELLED: by its owner, who is told to cancel it, or by whoever resumes it."""
    cancelled = str(RunState.CANCELLED)
    store.side(
        lambda connection: NOTE(connection, run=run_number, at=at, state=cancelled, failure=None) and None,
    )


def requested(store: Store, run_number: int) -> tuple[RunState, Failure | None] | None:
    """How the run ends when it is compensated; None: it is not to be."""
    row = next(iter(store.ask(_OF_RUN, run=run_number)), None)
    if row is None:
        return None
    return RunState(row[0]), None if row[1] is None else Failure(**json.loads(row[1]))
