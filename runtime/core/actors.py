"""Actors: made by one task, called by others, in the order of submission.

    CREATE submitted ──▶ waits and is placed like any task ──done──▶ alive ──▶ ends: released, or its process is gone
                                      │ did not come to its end                    │
                                      └────────────▶ gone ◀────────────────────────┘

A call goes out when all before it have gone out, its inputs are pinned on the actor's node, and fewer than AHEAD_TASKS
are there. The worker keeps the order from there on. An actor that is gone leaves nothing: later calls end at once.

May import nothing of ours but the model, runtime.protocol and the core's other modules.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dagengine.runtime.core.actions import ActorGone, EndActor, Outcome
from dagengine.runtime.core.events import TaskKind
from dagengine.runtime.core.limits import AHEAD_TASKS
from dagengine.runtime.core.lives import arena_bytes
from dagengine.runtime.core.model import Actor, Node, Task
from dagengine.runtime.core.states import State
from dagengine.runtime.protocol import ActorId, TaskId

if TYPE_CHECKING:
    from dagengine.runtime.core.core import Core


class Actors:
    """blocked: by node, the actors whose next call did not fit in its arena."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self.actors: dict[ActorId, Actor] = {}
        self.created: dict[TaskId, Actor] = {}
        self.blocked: dict[int, dict[ActorId, Actor]] = {}

    def submitted(self, task: Task) -> bool:
        """A CREATE or METHOD. False: the actor is gone."""
        request = task.request
        if request.actor is None:
            return False
        if request.kind == TaskKind.CREATE:
            if request.actor in self.actors:
                return False
            task.actor = self.actors[request.actor] = Actor(request.actor, task)
            return True
        actor = self.actors.get(request.actor)
        if actor is None or actor.gone or actor.releasing:
            return False
        task.actor = actor
        actor.mailbox.append(task)
        return True

    def node_of(self, actor: Actor) -> Node | None:
        return actor.creation.node if actor.alive else None

    # ---- calls go out -------------------------------------------------------------------------

    def ready(self, task: Task) -> None:
        """The inputs of a call exist."""
        if task.actor is not None:
            self.push(task.actor)

    def push(self, actor: Actor) -> None:
        """Send what can go out."""
        node = self.node_of(actor)
        if node is None or node.dead:
            return
        mailbox = actor.mailbox
        while mailbox and not self._core.closing:
            task = mailbox[0]
            if task.state == State.ENDED:
                mailbox.popleft()
                continue
            if task.state != State.MAILED or len(actor.sent) >= AHEAD_TASKS:
                break
            if actor.sent and next(reversed(actor.sent.values())).order > task.order:
                break  # it came back, and the later one is about to
            size = arena_bytes(task) if task.inputs else 0
            if size > node.limit:
                self._core.lives.no_room(task, size, node.limit)
                continue
            if not self._core.admission.plan_call(task, node):
                self.blocked.setdefault(node.id, {})[actor.id] = actor
                break
        self._end_if_done(actor)

    def push_on(self, node: Node) -> None:
        """Something is free on the node."""
        blocked = self.blocked.pop(node.id, None)
        for actor in (blocked or {}).values():
            if self.actors.get(actor.id) is actor:
                self.push(actor)

    def went(self, task: Task) -> None:
        """A call was leased."""
        actor = task.actor
        if actor is None:
            return
        actor.sent[task.request.id] = task
        if actor.mailbox and actor.mailbox[0] is task:
            actor.mailbox.popleft()
        self._core.push_later(actor)

    def returned(self, task: Task) -> None:
        """A call comes back that has not begun (or could not go out)."""
        actor = task.actor
        if actor is None:
            return
        sent = actor.sent.pop(task.request.id, None)
        if actor.gone:
            self._core.lives.end(task, Outcome.ACTOR, False)
            return
        if sent is not None:
            # Calls come back one by one; each goes to where it was.
            later = [task]
            while actor.mailbox and actor.mailbox[0].order < task.order:
                later.insert(-1, actor.mailbox.popleft())
            actor.mailbox.extendleft(reversed(later))
        self._core.lives.place(task)

    # ---- ends ---------------------------------------------------------------------------------

    def ended(self, task: Task, outcome: str) -> None:
        """A CREATE or METHOD has ended."""
        actor = task.actor
        if actor is None:
            return
        if task is actor.creation:
            if not actor.alive:
                self._gone(actor)
            return
        actor.sent.pop(task.request.id, None)
        if not actor.gone:
            self._core.push_later(actor)
        elif not actor.sent:
            self._forget(actor)

    def made(self, task: Task) -> None:
        """A CREATE has come to its end, well."""
        actor = task.actor
        if actor is None:
            return
        actor.alive = True
        self.created[task.request.id] = actor
        self._core.push_later(actor)

    def process_gone(self, actor: Actor) -> None:
        """Its worker, or its node, is no more."""
        node = actor.creation.node
        if actor.gone:
            return
        idle = not actor.sent
        self._gone(actor)
        if idle and not actor.releasing and node is not None:
            self._core.actions.append(ActorGone(actor.id, node.id))

    def release(self, actor_id: ActorId, force: bool) -> None:
        actor = self.actors.get(actor_id)
        if actor is None or actor.gone or actor.force:
            return
        actor.releasing = True
        actor.force = force
        if not force:
            if actor.alive:
                self._end_if_done(actor)
            return
        lives = self._core.lives
        node = self.node_of(actor)
        if node is None:
            # Not made yet: nothing of it is to come.
            lives.cancel(actor.creation.request.id, True, "released")
        else:
            self._core.actions.append(EndActor(node.id, node.epoch, actor.id, True))
            for task in actor.sent.values():
                task.more.doomed = "released"
        self._empty(actor)
        if node is not None and not actor.sent:
            self._gone(actor)

    def _end_if_done(self, actor: Actor) -> None:
        """Of an actor that is to end when it has nothing to do."""
        node = self.node_of(actor)
        if not actor.releasing or actor.sent or actor.gone or node is None:
            return
        if any(task.state != State.ENDED for task in actor.mailbox):
            return
        if not actor.force:
            self._core.actions.append(EndActor(node.id, node.epoch, actor.id, False))
        self._gone(actor)

    def _gone(self, actor: Actor) -> None:
        """It takes no more calls. What it held is free."""
        actor.gone = True
        self.created.pop(actor.creation.request.id, None)
        if actor.alive:
            self._core.lives.unload(actor.creation)
        actor.alive = False
        self._core.groups.actor_gone(actor.creation.request.need)
        self._empty(actor)
        if not actor.sent:
            self._forget(actor)

    def _empty(self, actor: Actor) -> None:
        mailbox, lives = list(actor.mailbox), self._core.lives
        actor.mailbox.clear()
        for task in mailbox:
            if task.state != State.ENDED:
                lives.end(task, Outcome.ACTOR, False)

    def _forget(self, actor: Actor) -> None:
        if self.actors.get(actor.id) is actor:
            del self.actors[actor.id]
