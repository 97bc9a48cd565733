"""How far steps of runs are, one or a group: what somebody asks who waits for them from outside, again and again.

A group is named by a pattern that ends in `*`:

    nightly/extract[0]     this step
    nightly/extract[*]     the calls of `extract` in that scope, and nothing below them
    nightly/child[0]/*     everything in that scope

The answer costs a look into an index for one step, and for a group in proportion to its steps.
May import nothing of ours but errors, model, the interface and modules of storage.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from sqlalchemy import Integer, Text, bindparam, func, select

from dagengine.errors import BadArguments
from dagengine.model import RunState, StepState
from dagengine.storage.interface import Store
from dagengine.storage.schema import RUN, STEP
from dagengine.storage.statements import Query

_AFTER_ANY = "\U0010ffff"


class StepStates(NamedTuple):
    """Of the steps that a key or pattern names: how many there are in which stored state, now.

    closed: the body has returned; what is called from here on is called by what is recorded
    """

    run: RunState
    closed: bool
    counts: dict[StepState, int]


_KEY = STEP.c.key
_BELOW = func.substr(_KEY, bindparam("below", type_=Integer))

_RUN = Query(
    lambda: select(RUN.c.number, RUN.c.state, RUN.c.body_closed).where(RUN.c.id == bindparam("id", type_=Text))
)
_ONE = Query(
    lambda: select(STEP.c.state).where(
        STEP.c.run == bindparam("run", type_=Integer), bindparam("key", type_=Text) == _KEY
    )
)


def _group(flat: bool) -> Query:
    def build() -> Any:
        found = select(STEP.c.state, func.count()).where(
            STEP.c.run == bindparam("run", type_=Integer),
            bindparam("low", type_=Text) <= _KEY,
            bindparam("high", type_=Text) > _KEY,
        )
        if flat:
            found = found.where(func.replace(_BELOW, "/", "") == _BELOW)
        return found.group_by(STEP.c.state)

    return Query(build)


_CALLS = _group(flat=True)
_SCOPE = _group(flat=False)


def check_pattern(name: str) -> None:
    """Raises BadArguments for a `*` that stands elsewhere than in `[*]` or `/*` at the end, and for what can't be a key."""
    if "*" in name and not (name.count("*") == 1 and name.endswith(("[*]", "]/*"))):
        raise BadArguments(
            f"{name!r} names no steps: a * stands for the calls of a function, SCOPE/FUNCTION[*], or for all that is in"
            " a scope, SCOPE/WORKFLOW[0]/*."
        )
    if not name.endswith(("]", "]/*")):
        raise BadArguments(
            f"{name!r} names no step: a key ends in which call it is, {name}[0]. {name}[*] are all calls of a function."
        )


def step_states(store: Store, asked: Iterable[tuple[str, str]]) -> dict[tuple[str, str], StepStates]:
    """The states of the steps that each (whole id of a run, key or pattern) names. What names no run is left out.

    Raises BadArguments for a pattern that can't be; StoreError.
    """
    questions = list(asked)
    for _, name in questions:
        check_pattern(name)

    def ask(connection: Any) -> dict[tuple[str, str], StepStates]:
        runs = {run_id: _RUN(connection, id=run_id).fetchone() for run_id in {run_id for run_id, _ in questions}}
        found = {}
        for run_id, name in questions:
            row = runs[run_id]
            if row is not None:
                number, state, closed = row
                found[run_id, name] = StepStates(RunState(state), bool(closed), _counts(connection, number, name))
        return found

    return store.side(ask, write=False)


def _counts(connection: Any, run: int, name: str) -> dict[StepState, int]:
    if "*" not in name:
        row = _ONE(connection, run=run, key=name).fetchone()
        return {} if row is None else {StepState(row[0]): 1}
    low = name.removesuffix("*").removesuffix("*]")
    given: dict[str, Any] = {"run": run, "low": low, "high": low + _AFTER_ANY}
    rows = _SCOPE(connection, **given) if name.endswith("/*") else _CALLS(connection, **given, below=len(low) + 1)
    return {StepState(state): count for state, count in rows.fetchall()}
