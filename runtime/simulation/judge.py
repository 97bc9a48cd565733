"""What may happen, told apart from what did: the judge sees all events and actions, and knows which faults there were.

Every task ends once, and in no other way than what befell it allows. No task has two attempts at a time. What the core
gives up was really lost.

May import nothing of ours but the simulator's other modules and the core's words.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from dagengine.runtime.core import actions as a
from dagengine.runtime.core import events as e
from dagengine.runtime.protocol import ActorId, GroupId, ObjectId, TaskId
from dagengine.runtime.simulation.attempts import Attempt
from dagengine.runtime.simulation.plans import Plan, Violation, name


@dataclass(slots=True)
class Case:
    """A task, and what has befallen it. `at`: (node, epoch, attempt) of the attempt that the core has out."""

    plan: Plan
    outcome: str | None = None
    at: tuple[int, int, int] | None = None
    newest: int = -1
    returned: int = -1  # the number of the last attempt that came back without having begun
    failed: bool = False
    losses: int = 0
    killed_for_memory: bool = False
    timed_out: bool = False
    cancelled: bool = False
    running: Attempt | None = None
    notes: list[str] = field(default_factory=list)


class Judge:
    """`exists`: whether an intact copy of an object can be reached by the core."""

    def __init__(self, exists: Callable[[ObjectId], bool], local_arena: int, smallest_arena: int) -> None:
        self.cases: dict[TaskId, Case] = {}
        self.epochs: dict[int, int] = {}
        self._exists = exists
        self._local_arena = local_arena
        self._smallest_arena = smallest_arena
        self._producer: dict[ObjectId, Case] = {}
        self._sizes: dict[ObjectId, int] = {}
        self._lost: set[ObjectId] = set()
        self._put: set[ObjectId] = set()
        self._actors_lost: set[ActorId] = set()
        self._groups_released: set[GroupId] = set()
        self._disaster = False  # whether bytes may have been lost
        self._closing = False
        self.full = False  # whether a disk has been full

    # ---- events ---------------------------------------------------------------------------------

    def told(self, event: e.Event) -> None:
        match event:
            case e.Submitted(requests):
                for request in requests:
                    self._submitted(request)
            case e.Cancelled(ids):
                for task in ids:
                    self.cases[task].cancelled = True
            case e.Finished(node, epoch, results):
                for done in results:
                    if (case := self._current(node, epoch, done.id, done.attempt)) is not None:
                        case.at = None
                        case.failed = done.failed
            case e.AttemptLost(node, epoch, task, attempt, ours):
                self._attempt_lost(node, epoch, task, attempt, ours)
            case e.AttemptTimedOut(node, epoch, task, attempt):
                if (case := self._current(node, epoch, task, attempt)) is not None:
                    case.timed_out, case.at = True, None
                    if (actor := case.plan.request.actor) is not None:
                        self._actors_lost.add(actor)
            case e.AttemptReturned(node, epoch, task, attempt):
                if (case := self._current(node, epoch, task, attempt)) is not None:
                    case.returned, case.at = attempt, None
            case e.NodeJoined(node):
                self.node_over(node)
            case e.NodeLost(node, epoch):
                if epoch == self.epochs.get(node):
                    self.node_over(node)
            case e.Stored(object_id, _, size):
                self._put.add(object_id)
                self._sizes[object_id] = 0 if event.inline else size
            case e.Spilled(ok=False):
                self.full = True
            case e.Damaged() | e.Restored(ok=False):
                self._disaster = True
            case e.ActorReleased(actor, _):
                self._actors_lost.add(actor)
            case e.GroupReleased(group):
                self._groups_released.add(group)
            case e.Closing():
                self._closing = True
            case _:
                pass

    def _submitted(self, request: e.Request) -> None:
        plan = request.spec
        assert isinstance(plan, Plan)
        case = self.cases[request.id] = Case(plan)
        for object_id in plan.outputs():
            self._producer[object_id] = case
            self._sizes[object_id] = 0 if plan.inline else plan.size

    def _attempt_lost(self, node: int, epoch: int, task: TaskId, attempt: int, ours: bool) -> None:
        case = self.cases[task]
        request = case.plan.request
        if request.actor is not None and epoch == self.epochs.get(node):
            self._actors_lost.add(request.actor)
        if (current := self._current(node, epoch, task, attempt)) is not None:
            current.at = None
            current.losses += not ours

    def _current(self, node: int, epoch: int, task: TaskId, attempt: int) -> Case | None:
        case = self.cases[task]
        return case if case.at == (node, epoch, attempt) else None

    def node_over(self, node: int) -> None:
        """The core gives the node up, or is told that it is gone."""
        if self.epochs.pop(node, None) is not None:
            self._disaster = True
        for case in self.cases.values():
            if case.at is not None and case.at[0] == node:
                case.at = None
                case.losses += 1
            actor = case.plan.request.actor
            if actor is not None and case.notes and case.notes[-1] == f"on {node}":
                self._actors_lost.add(actor)

    # ---- actions --------------------------------------------------------------------------------

    def leased(self, node: int, epoch: int, lease: a.Lease) -> None:
        case = self.cases.get(lease.request.id)
        task = name(lease.request.id)
        if case is None:
            raise Violation(f"{task} is leased, and nobody has submitted it")
        if epoch != self.epochs.get(node):
            raise Violation(f"{task} is leased to node {node} in epoch {epoch}, which is {self.epochs.get(node)}")
        if case.at is not None:
            raise Violation(f"{task} is leased to node {node}, and is on node {case.at[0]}")
        if lease.attempt < case.newest or (lease.attempt == case.newest and case.returned != lease.attempt):
            raise Violation(f"{task} is leased as attempt {lease.attempt} after attempt {case.newest}")
        if case.outcome is not None:
            request = lease.request
            rebuild = case.outcome == a.Outcome.DONE and request.output is not None and not case.failed
            if not rebuild or request.kind != e.TaskKind.CALL:
                raise Violation(f"{task} is leased, and has ended ({case.outcome})")
        for object_id in lease.request.inputs:
            producer = self._producer.get(object_id)
            if object_id not in self._put and (producer is None or producer.newest < 0):
                raise Violation(f"{task} is leased, and nobody has made its input {name(object_id)}")
        case.at, case.newest = (node, epoch, lease.attempt), lease.attempt
        case.notes.append(f"on {node}")

    def retried(self, action: a.Retried) -> None:
        case = self.cases[action.request.id]
        if case.losses > case.plan.request.losses and case.outcome is None:
            raise Violation(
                f"{name(action.request.id)} is tried again after {case.losses} losses; it has "
                f"{case.plan.request.losses} to spare"
            )
        if not case.losses and not case.killed_for_memory:
            raise Violation(f"{name(action.request.id)} is tried again, and nothing was lost")
        if case.losses and action.delay <= 0 and not case.killed_for_memory:
            raise Violation(f"{name(action.request.id)} is tried again at once; it should wait")

    def ended(self, action: a.Ended) -> None:
        case = self.cases.get(action.request.id)
        task = name(action.request.id)
        if case is None or case.outcome is not None:
            raise Violation(f"{task} ends ({action.outcome}), and {'has ended' if case else 'was never there'}")
        case.outcome = action.outcome
        if case.at is not None:
            raise Violation(f"{task} ends ({action.outcome}), and its attempt is still on node {case.at[0]}")
        if not self._allowed(case, action):
            raise Violation(
                f"{task} ends ({action.outcome}), and nothing that befell it says so: losses {case.losses} of "
                f"{case.plan.request.losses}, cancelled {case.cancelled}, timed out {case.timed_out}, cause "
                f"{action.cause}"
            )

    def _allowed(self, case: Case, action: a.Ended) -> bool:
        request = case.plan.request
        match action.outcome:
            case a.Outcome.DONE:
                return case.newest >= 0
            case a.Outcome.TIMED_OUT:
                return case.timed_out
            case a.Outcome.DROPPED:
                released = request.need.group in self._groups_released or request.actor in self._actors_lost
                return self._closing or case.cancelled or released
            case a.Outcome.LOST:
                return case.losses == request.losses + 1 or request.actor in self._actors_lost
            case a.Outcome.MEMORY | a.Outcome.TOO_LARGE if case.killed_for_memory:
                return True
            case a.Outcome.ACTOR:
                return self._actor_gone(request.actor)
            case a.Outcome.INPUT:
                return action.cause is not None and self._never(action.cause)
            case a.Outcome.STALLED:
                return self.full
            case _:  # said before it ever ran: its inputs and its output don't fit an arena together
                size = sum(self._sizes.get(object_id, 0) for object_id in set(request.inputs))
                return size + max(case.plan.size, request.expected or 0) > self._smallest_arena

    def _actor_gone(self, actor: ActorId | None) -> bool:
        if actor in self._actors_lost or self._closing:
            return True
        creates = [
            case for case in self.cases.values()
            if case.plan.request.actor == actor and case.plan.request.kind == e.TaskKind.CREATE
        ]  # fmt: skip
        return not creates or any(
            case.cancelled or case.failed or case.outcome not in (None, a.Outcome.DONE) for case in creates
        )

    def _never(self, object_id: ObjectId) -> bool:
        """The object will not come: nobody makes it, who should have did not, or it was lost with all its copies."""
        if object_id in self._lost:
            return True
        producer = self._producer.get(object_id)
        if producer is not None and (producer.failed or producer.outcome not in (None, a.Outcome.DONE)):
            return True
        if producer is None and object_id not in self._put:
            return True
        return self._disaster and not self._exists(object_id)

    def lost(self, object_id: ObjectId) -> None:
        if self._exists(object_id):
            raise Violation(f"{name(object_id)} is given up, and there is a copy of it")
        self._lost.add(object_id)

    def killed(self, task: TaskId, why: str) -> None:
        case = self.cases[task]
        if why == "memory":
            case.killed_for_memory = True
        elif not (
            self._closing
            or case.cancelled
            or case.plan.request.need.group in self._groups_released
            or case.plan.request.actor in self._actors_lost
        ):
            raise Violation(f"{name(task)} is killed as {why}, and nobody cancelled it")

    def ready(self, action: a.Ready) -> None:
        fits = self._sizes.get(action.object, 0) <= self._local_arena
        if not action.ok and fits and not self.full and not self._never(action.object) and self._exists(action.object):
            raise Violation(f"{name(action.object)} is said never to come, and is there")

    # ---- what really happens on the nodes -------------------------------------------------------

    def began(self, attempt: Attempt) -> None:
        case = self.cases[attempt.plan.id]
        if case.running is not None:
            raise Violation(f"{name(attempt.plan.id)} runs twice at a time")
        case.running = attempt

    def over(self, attempt: Attempt) -> None:
        case = self.cases[attempt.plan.id]
        if case.running is attempt:
            case.running = None

    # ---- the end --------------------------------------------------------------------------------

    def unfinished(self) -> list[TaskId]:
        return [task for task, case in self.cases.items() if case.outcome is None]

    def outcomes(self) -> dict[str, int]:
        found: dict[str, int] = {}
        for case in self.cases.values():
            if case.outcome is not None:
                found[case.outcome] = found.get(case.outcome, 0) + 1
        return found
