"""The word of a child run's end for its parent, written with that end.

May import nothing of ours but modules of storage.
"""

from __future__ import annotations

import json
from typing import Any

from sqlalchemy import Integer, Text, bindparam, literal_column, null, select
from sqlalchemy.dialects.postgresql import insert  # SQLite's compiler says it in the same words

from dagengine.storage.schema import RUN
from dagengine.storage.side_schema import SLEEPER
from dagengine.storage.statements import Query


def _come() -> Any:
    """As `sleepers.COME`, of another run than the one that writes."""
    new = insert(SLEEPER).values(
        run=bindparam("parent", type_=Integer),
        id=bindparam("id", type_=Text),
        latest=literal_column("1"),
        asleep=literal_column("0"),
        wake_at=literal_column("0.0"),
        process=null(),
    )
    changed = {"latest": SLEEPER.c.latest + literal_column("1"), "wake_at": literal_column("0.0")}
    return new.on_conflict_do_update(index_elements=["run"], set_=changed)


COME = Query(_come)

_FACTS = Query(lambda: select(RUN.c.facts).where(RUN.c.number == bindparam("run", type_=Integer)))
_NUMBER = Query(lambda: select(RUN.c.number).where(RUN.c.id == bindparam("id", type_=Text)))


def come_to_parent(connection: Any, run_number: int) -> None:
    """The run ends in this transaction, and nobody works on it who would write the word. For stores in SQL."""
    parent = json.loads(_FACTS(connection, run=run_number).fetchone()[0]).get("parent")
    found = None if parent is None else _NUMBER(connection, id=parent[0]).fetchone()
    if found is not None:
        COME(connection, parent=found[0], id=parent[0])
