"""Submitting a run: it is recorded, put into a queue, and left to whoever serves the store.

The run and its row in the queue are written in one transaction: a process that dies leaves a run that waits, or nothing.

May import base modules, recording, scopes, hints, the store's interface and modules of storage; the engine only when it
is called.
"""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, ParamSpec

from dagengine.errors import BadOption, DefinitionError, RunExists, RunNotFound
from dagengine.identity import new_id
from dagengine.model import RunRecord, RunState
from dagengine.serving.hints import hint, hint_here
from dagengine.units import parse_duration
from dagengine.validation import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Callable

    from dagengine.storage import queues
    from dagengine.storage.interface import ArtifactStore, Store
    from dagengine.workflows import Workflow

P = ParamSpec("P")

DUPLICATES = ("reject", "attach", "replace")
MOST = 2**31 - 1


@dataclass(frozen=True, slots=True)
class Submission:
    """Where a run waits, and for what.

    queue: one that exists; "default" always does
    priority: the greatest goes first
    key: the queue's `per_key` limit counts runs with the same one
    dedup: at most one run with it waits or is under way in the queue; `duplicate` says what becomes of a second one:
        "reject" raises RunExists; "attach" answers with the first one's id; "replace" takes the place of one that still
        waits (with `delay`, that is a debounce: only the last of many begins), and raises of one that has begun
    at, delay: not to begin before then: a time (a datetime, or seconds since the epoch), or so long from now
    run_id: the run's id, instead of one that is made up
    """

    queue: str = "default"
    priority: int = 0
    key: str | None = None
    dedup: str | None = None
    duplicate: str = "reject"
    at: datetime | float | None = None
    delay: str | float | timedelta | None = None
    run_id: str | None = None

    def __post_init__(self) -> None:
        if type(self.priority) is not int or not -MOST <= self.priority <= MOST:
            raise BadOption(f"priority={self.priority!r} has to be a whole number; the greatest goes first.")
        if self.duplicate not in DUPLICATES:
            raise BadOption(
                f"duplicate={self.duplicate!r} is not known.{did_you_mean(str(self.duplicate), DUPLICATES)}"
            )
        if self.at is not None and self.delay is not None:
            raise BadOption("a run can't have both a time (at) and a delay. Give one.")
        for name in ("queue", "key", "dedup"):
            value = getattr(self, name)
            if value is None and name != "queue":
                continue
            if not isinstance(value, str) or not value or len(value) > 200 or not value.isprintable():
                raise BadOption(f"{name}={value!r} has to be a text of 1 to 200 printable characters.")

    def not_before(self, now: float) -> float:
        """The time before which it does not begin; in the past if there is none."""
        if self.delay is not None:
            try:
                return now + parse_duration(self.delay)
            except ValueError:
                raise BadOption(f"delay={self.delay!r} is not a duration. Say 90s, 30m, 12h or 2d.") from None
        if isinstance(self.at, datetime):
            return self.at.timestamp()  # a naive one is local time
        return 0.0 if self.at is None else float(self.at)


def submit(
    store: Store,
    artifacts: ArtifactStore,
    control: Path,
    call: tuple[Workflow[..., Any], tuple[Any, ...], dict[str, Any]],
    how: Submission,
    *,
    facts: dict[str, Any] | None = None,
) -> tuple[str, bool]:
    """Submit a run of a workflow with these arguments. The run's id, and whether it is a new one.

    facts: further ones of the caller's (JSON), recorded with the run. Raises BadOption, BadArguments, Unpicklable, RunExists, StoreError.
    """
    from dagengine.recording import record_run

    workflow, args, kwargs = call
    workflow.check_arguments(args, kwargs)
    return place(
        store,
        control,
        how,
        lambda run_id, queued: record_run(
            store, artifacts, workflow, args, kwargs, run_id=run_id, also=queued, facts=facts
        ),
    )


def place(
    store: Store,
    control: Path,
    how: Submission,
    record: Callable[[str, Callable[[Any], None]], object],
    clock: Callable[[], float] = time.time,
) -> tuple[str, bool]:
    """Put a run into its queue, which `record` records under the id that it is given, and has what it is given called in
    the same transaction (`Store.create_run`). Raises what that raises."""
    from dagengine.storage import queues

    now = clock()
    run_id = how.run_id or new_id()
    entry = queues.Entry(run_id, how.queue, how.priority, how.key, how.dedup, now, how.not_before(now))
    stands = _record(store, entry, how.duplicate == "replace", record)
    if stands is not None:
        if how.duplicate == "attach":
            return stands.id, False
        under_way = "is under way" if stands.state == queues.STARTED else "waits"
        raise RunExists(
            f"run {stands.id} with dedup {how.dedup!r} {under_way} in queue {how.queue}. Wait for its end, or attach to it.",
            run_id=stands.id,
        )
    if how.duplicate == "replace":
        cancel_dropped(store)
    hint_here(control)
    return run_id, True


def _record(
    store: Store, entry: queues.Entry, replace: bool, record: Callable[[str, Callable[[Any], None]], object]
) -> queues.Entry | None:
    """What stands against the entry, if anything does that has not ended without its queue's having heard of it."""
    from dagengine.storage import queues

    def queued(connection: Any) -> None:
        queues.put(store, connection, entry, replace)

    while True:
        try:
            record(entry.id, queued)
        except queues.NoQueue:
            known = list(queues.queues(store))
            raise BadOption(
                f"there is no queue {entry.queue!r}.{did_you_mean(entry.queue, known)} `dagengine queue set` makes one."
            ) from None
        except queues.Stands as found:
            stands = found.entry
        else:
            return None
        if not is_over(store, stands.id):
            return stands
        queues.remove(store, [stands.id], stands.state)


def has_ended(run: RunRecord) -> bool:
    """Whether nothing is left for a queue to do with the run: it has ended, and not only for as long as nobody serves."""
    return run.state.ended and run.state is not RunState.INTERRUPTED


def is_over(store: Store, run_id: str) -> bool:
    """As `has_ended`; one that is not there is not over."""
    try:
        return has_ended(store.find_run(run_id))
    except RunNotFound:
        return False


def is_expected(store: Store, run_id: str) -> bool:
    """Whether the run is queued and has not ended: somebody is to work on it, or will again."""
    from dagengine.storage import queues

    entry = queues.entry_of(store, run_id)
    return entry is not None and entry.state in queues.ACTIVE and not is_over(store, run_id)


def dequeue(store: Store, control: Path, run_id: str) -> None:
    """The run was ended while nobody worked on it: its place in a queue, if it has one, is free."""
    from dagengine.storage import queues

    entry = queues.entry_of(store, run_id)
    if entry is not None:
        queues.remove(store, [run_id], entry.state)
        hint(store, control)


def cancel_dropped(store: Store, now: Callable[[], float] = time.time) -> int:
    """Cancel the runs that were purged or replaced; returns their number. Whoever dropped them may have died since."""
    from dagengine.storage import queues

    dropped = queues.entries(store, queues.DROPPED)
    for entry in dropped:
        with contextlib.suppress(RunNotFound):
            store.request_cancel(entry.id, now())
    queues.remove(store, [entry.id for entry in dropped], queues.DROPPED)
    return len(dropped)


class Queued(Generic[P]):
    """A workflow, and where its runs wait: `nightly.queued(queue="reports", priority=5).submit(2013)`."""

    def __init__(self, workflow: Workflow[P, Any], how: Submission) -> None:
        self._workflow = workflow
        self._how = how

    def submit(self, *args: P.args, **kwargs: P.kwargs) -> str:
        """Record a run, and leave it to `dagengine serve`. Returns its id at once."""
        from dagengine.engine import current_engine
        from dagengine.scopes import current_scope

        scope = current_scope.get()
        if scope is not None:
            raise DefinitionError(f"{self._workflow.name} is submitted in the body of {scope.path}. Do it in a task.")
        return current_engine().submit(self._workflow, args, kwargs, self._how)
