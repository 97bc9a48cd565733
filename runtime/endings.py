"""How tasks end, in the protocol's words: the core says that it is over, the node agent knows what came of it.

A large result is told when the core has pinned it: from then on it is the receiver's, until it closes it.

May import nothing of ours but model and runtime modules.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from dagengine.model import Failure
from dagengine.runtime.core import actions as core
from dagengine.runtime.core.actions import Outcome
from dagengine.runtime.core.events import Cancelled, Request
from dagengine.runtime.events import result_event
from dagengine.runtime.messages import Erred
from dagengine.runtime.node import Death, NodeAgent
from dagengine.runtime.protocol import (
    ActorLost,
    Content,
    Dropped,
    Failed,
    Lost,
    ObjectId,
    ObjectLost,
    Succeeded,
    TaskId,
    TaskSpec,
    TimedOut,
)
from dagengine.runtime.quarantine import Quarantine
from dagengine.runtime.results import Ready
from dagengine.runtime.shared import LentFile

if TYPE_CHECKING:
    from dagengine.runtime.shell import Shell


class Endings:
    """`actions`: by the type of what the core says, what does it."""

    def __init__(self, shell: Shell, agent: NodeAgent) -> None:
        self._shell = shell
        self._agent = agent
        self._quarantine = Quarantine()
        self._refused: dict[TaskId, Failure] = {}
        self._failures: dict[ObjectId, Failure] = {}  # of tasks whose outputs others may wait for
        self.actions: dict[type, Callable[[Any], None]] = {
            core.Ended: self._ended,
            core.Retried: self._retried,
            core.Lost: self._object_lost,
            core.ActorGone: self._actor_gone,
        }
        self._by_outcome: dict[str, Callable[[core.Ended, TaskSpec], None]] = {
            Outcome.TIMED_OUT: self._timed_out,
            Outcome.LOST: self._lost,
            Outcome.MEMORY: self._memory,
            Outcome.TOO_LARGE: self._memory,
            Outcome.DROPPED: self._dropped,
            Outcome.INPUT: self._input,
            Outcome.ACTOR: self._actor,
            Outcome.STALLED: self._stalled,
        }

    def refuse(self, requests: list[Request]) -> list[TaskId]:
        """Of new tasks those that are quarantined: what they wait for will never be, and they are to be dropped."""
        if not self._quarantine:
            return []
        refused = []
        for request in requests:
            failure = self._quarantine.refuses(_spec(request))
            if failure is not None:
                request.inputs = (*request.inputs, self._agent.objects.private())
                self._refused[request.id] = failure
                refused.append(request.id)
        return refused

    def _ended(self, action: core.Ended) -> None:
        request = action.request
        self._shell.ended(request.id)
        spec = _spec(request)
        if self._refused and request.id in self._refused:
            now = time.time()
            failure = self._refused.pop(request.id)
            self._tell_lost(spec, Death(-1, now, now, failure), failure)
            return
        if action.outcome == Outcome.DONE:
            self._done(spec)
            return
        self._agent.results.forget(request.id)
        handler = self._by_outcome.get(action.outcome)
        if handler is None:
            self._other(action, spec)
        else:
            handler(action, spec)

    def _tell_failed(self, spec: TaskSpec, failure: Failure, worker: int = -1) -> None:
        now = time.time()
        self._note_failure(spec, failure)
        self._shell.told.append(Failed(spec.id, worker, now, now, failure))

    def _note_failure(self, spec: TaskSpec, failure: Failure) -> None:
        if spec.output is not None:
            self._failures[spec.output] = failure

    # ---- by themselves ------------------------------------------------------------------------

    def _done(self, spec: TaskSpec) -> None:
        ready = self._agent.results.ready.pop(spec.id)
        self._shell.counts["tasks"] += 1
        if self._quarantine:
            self._quarantine.ended(spec)
        if ready.value is None and ready.state is None:
            result = ready.result
            if isinstance(result, Erred):
                self._shell.counts["failed"] += 1
                self._note_failure(spec, result.failure)
            state = None
            if getattr(result, "state", None) is not None:
                state = _inline(result.state)  # type: ignore[union-attr]
            self._shell.told.append(result_event(ready.worker, result, None, state))
            return
        Handing(self._shell, ready).begin()

    # ---- by something else --------------------------------------------------------------------

    def _timed_out(self, action: core.Ended, spec: TaskSpec) -> None:
        death = self._death(action, spec)
        failure = Failure("timeout", "dagengine.errors.StepTimeout", f"ran past its timeout of {spec.timeout} s")
        self._note_failure(spec, failure)
        self._shell.told.append(TimedOut(spec.id, death.worker, death.started_at, death.finished_at))

    def _death(self, action: core.Ended, spec: TaskSpec) -> Death:
        death = self._agent.deaths.pop(spec.id, None)
        if death is None:
            now = time.time()
            failure = Failure("lost", "dagengine.errors.WorkerLost", "the worker that was to run this is gone")
            death = Death(-1, now, now, failure)
        return death

    def _lost(self, action: core.Ended, spec: TaskSpec) -> None:
        death = self._death(action, spec)
        self._tell_lost(spec, death, self._quarantine.died(spec, death.failure))

    def _tell_lost(self, spec: TaskSpec, death: Death, failure: Failure) -> None:
        self._shell.counts["lost"] += 1
        self._note_failure(spec, failure)
        self._shell.told.append(Lost(spec.id, death.worker, death.started_at, death.finished_at, failure))

    def _retried(self, action: core.Retried) -> None:
        spec = _spec(action.request)
        self._shell.again(spec.id)
        self._shell.counts["retried"] += 1
        death = self._agent.deaths.pop(spec.id, None)
        if death is not None:
            self._quarantine.died(spec, death.failure)
            failure = self._quarantine.refuses(spec)
            if failure is not None:
                self._refused[spec.id] = failure
                self._shell.happen(Cancelled([spec.id]))

    def _memory(self, action: core.Ended, spec: TaskSpec) -> None:
        death = self._death(action, spec)
        facts = action.facts or {}
        alone = action.outcome == Outcome.TOO_LARGE
        failure = Failure(
            "memory",
            "dagengine.errors.OutOfMemory",
            _memory_text(facts, alone),
            retriable=not alone,
            facts=dict(facts),
        )
        if alone:
            self._note_failure(spec, failure)
            self._shell.told.append(Failed(spec.id, death.worker, death.started_at, death.finished_at, failure))
        else:
            self._tell_lost(spec, death, failure)

    def _dropped(self, action: core.Ended, spec: TaskSpec) -> None:
        self._agent.deaths.pop(spec.id, None)
        self._note_failure(spec, Failure("cancelled", "dagengine.errors.TaskCancelled", "the task was cancelled"))
        self._shell.told.append(Dropped(spec.id, action.started))

    def _input(self, action: core.Ended, spec: TaskSpec) -> None:
        cause = action.cause
        failure = self._failures.get(cause) if cause is not None else None
        if failure is None and cause is not None:
            failure = self._failures.get(cause[:-1])  # an item of a stream
        if failure is None:
            failure = lost_object(cause, self._agent.mover.trouble.get(cause) if cause is not None else None)
        self._tell_failed(spec, failure)

    def _actor(self, action: core.Ended, spec: TaskSpec) -> None:
        death = self._agent.deaths.pop(spec.id, None) if action.started else None
        actor = spec.actor.id if spec.actor is not None else None
        cause = death.failure if death is not None else self._agent.actor_deaths.get(actor) if actor else None
        why = f": {cause.message}" if cause is not None else ""
        failure = Failure(
            "actor",
            "dagengine.errors.ActorLost",
            f"the actor's process is gone{why}",
            facts=dict(cause.facts) if cause is not None else {},
        )
        now = time.time()
        self._tell_lost(spec, death or Death(-1, now, now, failure), failure)

    def _stalled(self, action: core.Ended, spec: TaskSpec) -> None:
        facts = action.facts or {}
        spill = self._agent.spill
        text = (
            f"there was no room for {facts.get('needed', 0):,} bytes that it reads, for {facts.get('seconds', 0):,} s: of the"
            f" memory for objects ({facts.get('arena', 0):,} bytes) {facts.get('unwritten', 0):,} can't be spilled, because"
            f" {spill.trouble.text or f'{spill.where} is full'}, and {facts.get('in use', 0):,} are in use. Make room there, or give"
            f" another place to spill to or more memory for objects"
        )
        failure = Failure("objects", "dagengine.errors.ObjectStoreFull", text, retriable=False, facts=dict(facts))
        self._tell_failed(spec, failure)

    def _other(self, action: core.Ended, spec: TaskSpec) -> None:
        facts = action.facts or {}
        figures = ", ".join(f"{name} {value:,} bytes" for name, value in facts.items())
        text = (
            f"the objects that it reads and makes can't be in the memory for objects at once ({figures}):"
            " give more, or have it read less at a time"
        )
        failure = Failure("objects", "dagengine.errors.ObjectStoreFull", text, retriable=False, facts=dict(facts))
        self._tell_failed(spec, failure)

    # ---- objects and actors -------------------------------------------------------------------

    def _object_lost(self, action: core.Lost) -> None:
        failure = lost_object(action.object, self._agent.mover.trouble.get(action.object))
        self._failures.setdefault(action.object, failure)
        self._shell.told.append(ObjectLost(action.object, failure))

    def _actor_gone(self, action: core.ActorGone) -> None:
        cause = self._agent.actor_deaths.pop(action.actor, None)
        why = f": {cause.message}" if cause is not None else ""
        failure = Failure(
            "actor",
            "dagengine.errors.ActorLost",
            f"the actor's process is gone{why}",
            facts=dict(cause.facts) if cause is not None else {},
        )
        self._shell.told.append(ActorLost(action.actor, failure))


class Handing:
    """A result whose parts have to be pinned before it is told."""

    def __init__(self, shell: Shell, ready: Ready) -> None:
        self._shell = shell
        self._ready = ready
        self._parts: dict[ObjectId, Content | None] = {}

    def begin(self) -> None:
        large = [part for part in (self._ready.value, self._ready.state) if isinstance(part, tuple)]
        self._parts = dict.fromkeys(large)
        for object_id in large:
            self._shell.requests.lend(object_id, lambda found, name=object_id: self._found(name, found), own=True)  # type: ignore[misc]
        if not large:
            self._tell()

    def _found(self, object_id: ObjectId, found: Content | Failure) -> None:
        if isinstance(found, Failure):
            if self._parts is not None:
                result = self._ready.result
                self._parts = {}
                self._shell.told.append(
                    Failed(result.id, self._ready.worker, result.started_at, result.finished_at, found)
                )
            return
        self._parts[object_id] = found
        if None not in self._parts.values():
            self._tell()

    def _tell(self) -> None:
        ready = self._ready
        event = result_event(ready.worker, ready.result, self._content(ready.value), self._state())
        assert isinstance(event, Succeeded)
        self._shell.told.append(event)

    def _content(self, part: ObjectId | LentFile | None) -> Content | None:
        if part is None:
            return None
        if isinstance(part, LentFile):
            return Content(part.digest, part.size, shared=part)
        return self._parts[part]

    def _state(self) -> Content | None:
        written = getattr(self._ready.result, "state", None)
        if written is None:
            return None
        return self._content(self._ready.state) or _inline(written)


def _spec(request: Request) -> TaskSpec:
    spec = request.spec
    assert isinstance(spec, TaskSpec)
    return spec


def _inline(written: Any) -> Content:
    return Content(written.digest, written.size, written.data)


def lost_object(object_id: ObjectId | None, trouble: str | None) -> Failure:
    why = f": {trouble}" if trouble else ", and nobody can make it again"
    return Failure(
        "object",
        "dagengine.errors.ObjectLost",
        f"object {object_id} is gone{why}",
        facts={"object": list(object_id or ())},
    )


def _memory_text(facts: dict[str, int], alone: bool) -> str:
    had, limit = facts.get("memory", 0), facts.get("limit", 0)
    if alone:
        return (
            f"the task had {had:,} bytes of memory of {limit:,} that there are, with nobody beside it, and was ended: "
            f"let it hold less, or give it a machine with more"
        )
    beside = facts.get("neighbours", 0)
    return (
        f"memory ran out ({limit:,} bytes), and the task, which had {had:,} of them beside {beside} others, was ended: "
        f"its next attempt gets more room; say memory= so that fewer run at once"
    )
