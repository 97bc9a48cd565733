"""Taking up recorded runs: their code is made sure of, they are claimed, and what is left of them is given to drivers.

Of one run, because somebody asks for it (`resume`), or because its time has come (`wake_up`); of many at once, as a host
is given them (`take_up_all`): these are looked up, claimed and looked up again together, so that each costs the store a
row and not a dozen questions.

Nothing is asked of what can't be there: a run that is claimed for the first time, and shares nothing of another one, has no
steps, whoever recorded it.

On any thread but the engine's. May import everything that the engine may.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from dagengine import compensating
from dagengine.adopting import supersede, superseded_by_adoption
from dagengine.below import forsake
from dagengine.changes import refuse_paused
from dagengine.code.pinning import PINNED, Pin, pin
from dagengine.continuing import last_of, refuse_early
from dagengine.core.events import CancelRequested
from dagengine.driver import Driver
from dagengine.life import Life
from dagengine.model import Claim, RunRecord
from dagengine.signals import left_by, taken_over
from dagengine.taking_over import in_other_hands
from dagengine.workflows import Workflow

if TYPE_CHECKING:
    from dagengine.engine import Engine
    from dagengine.run import Run


def resume(engine: Engine, run_id: str, *, takeover: bool, reopen: bool, code: str, adopt: bool) -> Run[Any]:
    """As `Engine.resume`."""
    record = last_of(engine.store, engine.store.find_run(run_id))
    with engine.hands.take([record.id]) as taken:
        if not taken:
            raise in_other_hands(record.id)
        return _resume(engine, record, takeover=takeover, reopen=reopen, code=code, adopt=adopt)


def _resume(engine: Engine, record: RunRecord, *, takeover: bool, reopen: bool, code: str, adopt: bool) -> Run[Any]:
    store = engine.store
    refuse_paused(record)
    refuse_early(store, record)
    pinned = pin(store, record, code, engine._shelf)
    workflow = None if record.body_closed else pinned.workflow()
    engine._open()
    works = (lambda owner: False) if takeover else partial(engine._works, record.id)
    superseded = superseded_by_adoption(store, record) if adopt else []
    reopen = reopen and not compensating.over(store, record)
    before = left_by(store, record)
    claim = store.claim(record.id, engine.process, works, reopen)
    if superseded:
        supersede(store, claim, superseded, engine.clock.now())
        forsake(engine, record, superseded)
    driver = _driver(engine, claim, store.find_run(record.id), _Ready(pinned, workflow, before))
    driver.adopt = adopt
    run = _begin(engine, driver, reopen)
    _hear(engine, [driver])
    return run


def wake_up(engine: Engine, record: RunRecord, life: Life) -> None:
    """Go on with a run that this engine let go of. Raises RunOwned, StoreError."""
    with engine.hands.take([record.id]) as taken:
        if not taken:
            raise in_other_hands(record.id)
        claim = engine.store.claim(record.id, engine.process, partial(engine._works, record.id), reopen=False)
        record = engine.store.find_run(record.id)
        if life.code is not None:
            record = replace(record, facts={**record.facts, "code": life.code})
        driver = engine.driver_for(claim, record, life)
        _begin(engine, driver, reopen=False)
        _hear(engine, [driver])


def take_up_all(engine: Engine, runs: Sequence[RunRecord]) -> dict[str, BaseException | None]:
    """As `resume` of each, by somebody who has not been asked to (`reopen=False`). By the run's id: what it raises."""
    with engine.hands.take(run.id for run in runs) as taken:
        told: dict[str, BaseException | None] = {run.id: in_other_hands(run.id) for run in runs if run.id not in taken}
        return {**told, **_take_up_all(engine, [run for run in runs if run.id not in told])}


def _take_up_all(engine: Engine, runs: Sequence[RunRecord]) -> dict[str, BaseException | None]:
    from dagengine.storage.code import used_packs

    store = engine.store
    told: dict[str, BaseException | None] = {}
    ready: dict[str, _Ready] = {}
    used = used_packs(store, [run.number for run in runs])
    pins: dict[tuple[str | None, str], Pin] = {}
    for run in runs:
        try:
            refuse_paused(run)
            refuse_early(store, run)
            of = (used.get(run.number) or run.code, str(run.entry))
            if of not in pins or of[0] is None:
                pins[of] = pin(store, run, PINNED, engine._shelf, of[0])
            pinned = pins[of]
            ready[run.id] = _Ready(pinned, None if run.body_closed else pinned.workflow(), left_by(store, run))
        except (Exception, SystemExit) as error:  # importing the user's modules is the user's code
            told[run.id] = error
    engine._open()
    claims = store.claim_all(list(ready), engine.process, engine._works) if ready else {}
    records = store.find_runs([run_id for run_id, claim in claims.items() if isinstance(claim, Claim)])
    drivers = []
    for run_id, claim in claims.items():
        if not isinstance(claim, Claim):
            told[run_id] = claim
            continue
        try:
            driver = _driver(engine, claim, records[run_id], ready[run_id])
            _begin(engine, driver, reopen=False)
            drivers.append(driver)
            told[run_id] = None
        except Exception as error:
            told[run_id] = error
    _hear(engine, drivers)
    return told


class _Ready(NamedTuple):
    """What has been seen to before the run is claimed. `left`: the process that had let go of it, and has to hear of it."""

    pinned: Pin
    workflow: Workflow[..., Any] | None
    left: str | None


def _driver(engine: Engine, claim: Claim, record: RunRecord, ready: _Ready) -> Driver:
    """Of a run that was claimed."""
    pinned, workflow, left = ready
    if left not in (None, engine.process.id):
        engine.helpers.submit(taken_over, engine.post, record.id, left)
    record = pinned.hold(record)
    load = lambda: cast("Workflow[..., Any]", workflow)  # noqa: E731 - shorter than a def
    life = engine.sleeping.taken(record.id) or Life(record, load)
    life.load, life.code = load, record.code
    return engine.driver_for(claim, record, life)


def _begin(engine: Engine, driver: Driver, reopen: bool) -> Run[Any]:
    number = driver.claim.run_number
    driver.reopened = reopen
    if driver.claim.token == 1 and driver.record.steps == 0 and not driver.was_cancelled:
        driver.load(None, {})
    else:
        driver.load(engine.store.frontier(number), engine.store.counts(number))
    return engine._add(driver)


def _hear(engine: Engine, drivers: Sequence[Driver]) -> None:
    """What was asked of these runs between their claim and the moment from which this engine knows whom to tell."""
    found = engine.store.find_runs([driver.run_id for driver in drivers]) if drivers else {}
    for driver in drivers:
        if driver.run_id in found and found[driver.run_id].cancel_requested_at is not None and not driver.was_cancelled:
            engine.tell(driver, [CancelRequested()])
