"""What people ask of the record: states as they look now.

The store holds few states (an unfinished step is WAITING, a run that somebody began is RUNNING). The others are derived
here, from open attempts, edges, and the proof that the owner is alive; nothing derived is ever written. No value and no
exception is unpickled: a view of a run runs nobody's code.

May import nothing of ours but errors, model, identity, validation, continuing, storage's interface and,
where a worker's output is, runtime.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dagengine.continuing import continued_as
from dagengine.errors import RunNotFound
from dagengine.identity import is_alive
from dagengine.model import AttemptRecord, Failure, ProcessRecord, RunRecord, RunState, StepKind, StepRecord, StepState
from dagengine.storage.interface import Store
from dagengine.validation import nearest

if TYPE_CHECKING:
    from dagengine.storage.beats import Beat

Alive = Callable[[ProcessRecord], bool]


def run_state(run: RunRecord, alive: Alive = is_alive) -> RunState:
    """The run's state as it is: RUNNING only while its owner lives, and says so where a store has leases."""
    if run.state is RunState.RUNNING and (run.owner is None or run.lease_expired or not alive(run.owner)):
        return RunState.CRASHED
    return run.state


@dataclass(frozen=True, slots=True)
class StepView:
    """A step as it looks now. `inputs`: seqs of the steps that it reads (of unfinished steps, or if asked for).
    `behind`: of an unfinished call on a stateful object, the unfinished calls on it that go before."""

    record: StepRecord
    state: StepState
    tries: tuple[AttemptRecord, ...]
    inputs: tuple[int, ...] = ()
    behind: tuple[int, ...] = ()

    @property
    def key(self) -> str:
        return self.record.key

    @property
    def word(self) -> str:
        """The state as people are told it: a step that is started at most once may have an unknown end."""
        failure = self.record.failure
        return "unknown" if failure is not None and failure.kind == "unknown" else str(self.state)

    @property
    def attempts(self) -> int:
        """Attempts that were begun."""
        return max(self.record.attempts, self.tries[-1].number if self.tries else 0)

    @property
    def started_at(self) -> float | None:
        """Of the last attempt."""
        return self.tries[-1].started_at if self.tries else None

    @property
    def seconds(self) -> float | None:
        """How long the last attempt took."""
        last = self.tries[-1] if self.tries else None
        return last.finished_at - last.started_at if last and last.finished_at is not None else None

    def to_json(self) -> dict[str, Any]:
        record = self.record
        return {
            "seq": record.seq,
            "key": record.key,
            "task": record.task,
            "kind": str(record.kind),
            "state": str(self.state),
            "attempts": self.attempts,
            "created_at": record.created_at,
            "started_at": self.started_at,
            "finished_at": record.finished_at,
            "seconds": self.seconds,
            "value": None
            if record.value_digest is None
            else {"digest": record.value_digest, "size": record.value_size},
            "failure": failure_view(record.failure),
        }


def failure_view(failure: Failure | None) -> dict[str, Any] | None:
    if failure is None:
        return None
    return {
        "kind": failure.kind,
        "type": failure.type,
        "message": failure.message,
        "traceback": failure.traceback,
        "facts": failure.facts,
    }


def owner_view(run: RunRecord, alive: Alive = is_alive) -> dict[str, Any] | None:
    owner = run.owner
    if owner is None:
        return None
    return {
        "host": owner.host,
        "pid": owner.pid,
        "since": owner.started_at,
        "alive": alive(owner),
        "process": owner.id,
    }


def inputs_of(store: Store, run_number: int) -> dict[int, list[int]]:
    """seq -> seqs of the steps that it reads."""
    inputs: dict[int, list[int]] = defaultdict(list)
    for reader, read in store.edges(run_number):
        inputs[reader].append(read)
    return inputs


def steps_view(store: Store, run: RunRecord, *, with_inputs: bool = False, alive: Alive = is_alive) -> list[StepView]:
    """All steps in the order of seq. Edges are read only if a step is unfinished, or with `with_inputs`."""
    records = store.steps(run.number)
    tries: dict[int, list[AttemptRecord]] = defaultdict(list)
    for attempt in store.attempts(run.number):
        tries[attempt.seq].append(attempt)
    unfinished = any(not record.state.ended for record in records)
    inputs = inputs_of(store, run.number) if unfinished or with_inputs else {}
    stored = {record.seq: record.state for record in records}
    behind = _behind(records, inputs) if unfinished else {}
    live = run.owner if run_state(run, alive) is RunState.RUNNING else None
    return [
        StepView(
            record,
            _state(
                record,
                tries[record.seq],
                [stored.get(seq) for seq in (*inputs.get(record.seq, ()), *behind.get(record.seq, ()))],
                live,
            ),
            tuple(tries[record.seq]),
            tuple(inputs.get(record.seq, ())),
            behind.get(record.seq, ()),
        )
        for record in records
    ]


def _behind(records: Sequence[StepRecord], inputs: dict[int, list[int]]) -> dict[int, tuple[int, ...]]:
    """For each unfinished call on a stateful object the unfinished ones right before it: calls that may change the state
    are alone, others run side by side."""
    kinds = {record.seq: record.kind for record in records}
    writers: dict[int, int] = {}  # by object: the last unfinished call that may change it
    readers: dict[int, list[int]] = defaultdict(list)  # and the read-only ones since
    behind = {}
    for record in records:
        if not record.kind.is_call or record.state.ended:
            continue
        made = next((seq for seq in inputs.get(record.seq, ()) if kinds.get(seq) is StepKind.CREATE), -1)
        before = [writers[made]] if made in writers else []
        if record.kind is StepKind.READONLY:
            readers[made].append(record.seq)
        else:
            before = readers.pop(made, before)
            writers[made] = record.seq
        behind[record.seq] = tuple(before)
    return behind


def _state(
    record: StepRecord,
    tries: Sequence[AttemptRecord],
    inputs: Iterable[StepState | None],
    live: ProcessRecord | None,
) -> StepState:
    if record.state.ended or live is None:
        return record.state
    last = tries[-1] if tries else None
    if last is not None and last.started_at >= live.started_at:  # an older one vanished with its process
        if last.outcome in (None, "succeeded"):  # succeeded, but not yet recorded as the step's end
            return StepState.RUNNING
        return StepState.RETRYING
    if all(state is StepState.SUCCEEDED for state in inputs):
        return StepState.READY
    return StepState.WAITING


def run_view(
    store: Store, run: RunRecord, *, with_steps: bool = True, alive: Alive = is_alive, now: float | None = None
) -> dict[str, Any]:
    """The run as one JSON object."""
    now = time.time() if now is None else now
    state = run_state(run, alive)
    steps = steps_view(store, run, alive=alive) if with_steps else []
    view: dict[str, Any] = {
        "id": run.id,
        "workflow": run.workflow,
        "state": str(state),
        "entry": entry_text(run),
        "created_at": run.created_at,
        "started_at": run.started_at,
        "finished_at": run.finished_at,
        "seconds": seconds_of(run, now),
        "owner": owner_view(run, alive),
        "resumable": resumable(run, alive),
        "cancel_requested_at": run.cancel_requested_at,
        "body_closed": run.body_closed,
        "failure": failure_view(run.failure),
        "continued_as": continued_as(run),
        "facts": run.facts,
        "counts": counts_view(store, run),
    }
    if with_steps:
        view["steps"] = [step.to_json() for step in steps]
        view["heartbeats"] = [beat._asdict() for beat in beats_of(store, run, steps)]
    return view


def beats_of(store: Store, run: RunRecord, steps: Sequence[StepView]) -> list[Beat]:
    """The last heartbeats of attempts that run."""
    running = {step.record.seq: step.attempts for step in steps if step.state is StepState.RUNNING}
    if not running:
        return []
    from dagengine.storage.beats import beats

    return [beat for seq, beat in beats(store, run.number).items() if running.get(seq) == beat.attempt]


def seconds_of(run: RunRecord, now: float) -> float | None:
    """From the first start to the end, or to now while it runs."""
    if run.started_at is None:
        return None
    return max(0.0, (run.finished_at if run.finished_at is not None and run.state.ended else now) - run.started_at)


def resumable(run: RunRecord, alive: Alive = is_alive) -> bool:
    return run_state(run, alive) not in (RunState.SUCCEEDED, RunState.RUNNING)


def entry_text(run: RunRecord) -> str:
    """FILE.py:WORKFLOW or module:workflow, as it can be typed again."""
    entry = run.entry
    return f"{entry.get('file') or entry.get('module', '?')}:{entry.get('qualname', run.workflow)}"


def counts_view(store: Store, run: RunRecord) -> dict[str, int]:
    """Stored state -> number of steps."""
    counts: dict[str, int] = defaultdict(int)
    for (_, state), count in store.counts(run.number).items():
        counts[str(state)] += count
    return dict(sorted(counts.items()))


# ---- one step -----------------------------------------------------------------------------


def find_step(store: Store, run: RunRecord, name: str) -> StepRecord:
    """The step of that key, of that key without its scope, that number (`#12`), or the only one of that function.

    Raises RunNotFound, which names what comes close.
    """
    for key in (name, f"{run.workflow}/{name}"):
        found = store.steps(run.number, key=key)
        if found:
            return found[0]
    steps = store.steps(run.number)
    number = name.removeprefix("#")
    if number.isascii() and number.isdigit():
        matching = [step for step in steps if step.seq == int(number[:12])]
    else:
        matching = [step for step in steps if step.key.endswith(f"/{name}") or step.task == name]
    if len(matching) == 1:
        return matching[0]
    short = run.id[:12]
    if matching:
        some = ", ".join(step.key for step in matching[:5])
        raise RunNotFound(
            f"{len(matching)} steps of run {short} are called {name!r}: {some}"
            f"{', …' if len(matching) > 5 else ''}. Give the whole key.",
            run_id=run.id,
        )
    named = ((text, step.key) for step in reversed(steps[:20000]) for text in _names(step))
    names = dict(named)
    close = nearest(name, names, 0.5)
    hint = f"Did you mean {names[close]}?" if close else f"`dagengine steps {short}` lists them."
    raise RunNotFound(f"run {short} has no step {name!r}. {hint}", run_id=run.id)


def _names(step: StepRecord) -> tuple[str, str, str]:
    return step.task, step.key.rpartition("/")[2], step.key


def live_output(attempt: AttemptRecord) -> Path | None:
    """Where the output of an attempt that runs can be read meanwhile; None if that is not known, or it runs no more."""
    from dagengine.runtime.output import live_path

    if attempt.pid is None:
        return None
    path = Path(live_path(attempt.pid))
    return path if path.exists() else None
