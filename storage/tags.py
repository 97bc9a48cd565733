"""The index of tags: which runs have one. What a run's tags are, its own facts say (`tags`); these rows are written with it.

May import nothing of ours but modules of storage.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from sqlalchemy import Integer, bindparam, select

from dagengine.storage.interface import Store
from dagengine.storage.side import upsert
from dagengine.storage.side_schema import TAG
from dagengine.storage.statements import Query

_ADD = Query(upsert(TAG, ("run", "name")))
_first, _last = bindparam("first", type_=Integer), bindparam("last", type_=Integer)
_BETWEEN = Query(lambda: select(TAG.c.run, TAG.c.name, TAG.c.value).where(TAG.c.run.between(_first, _last)))


def index(connection: Any, run_number: int, facts: Mapping[str, Any]) -> None:
    """Write the rows of a new run, in the transaction that records it."""
    for name, value in facts.get("tags", {}).items():
        _ADD(connection, run=run_number, name=name, value=value)


def has(facts: Mapping[str, Any], which: Iterable[tuple[str, str | None]]) -> bool:
    """Whether a run with these facts has all of these tags, with this text or, for None, any."""
    tags = facts.get("tags", {})
    return all(name in tags and text in (None, tags[name]) for name, text in which)


def tags_between(store: Store, first: int, last: int) -> dict[int, dict[str, str]]:
    """By run number, of the runs `first` … `last` that have any: their tags by name."""
    found: dict[int, dict[str, str]] = defaultdict(dict)
    rows = store.side(lambda connection: _BETWEEN(connection, first=first, last=last).fetchall(), write=False)
    for run, name, value in rows:
        found[run][name] = value
    return found
