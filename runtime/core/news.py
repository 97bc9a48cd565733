"""What nodes report. News of an epoch or an attempt that is over are dropped here, and nowhere else.

May import nothing of ours but runtime.protocol and the core's other modules.
"""

from __future__ import annotations

from dagengine.model import INLINE_LIMIT
from dagengine.runtime.core import events as e
from dagengine.runtime.core.actions import EndActor, Ended, Kill, Outcome
from dagengine.runtime.core.core import Core
from dagengine.runtime.core.limits import KILL_SHARE, PRESSED_SHARE
from dagengine.runtime.core.model import Node, Task
from dagengine.runtime.core.states import Place, State
from dagengine.runtime.protocol import TaskId


class News(Core):
    """The handlers of events from nodes."""

    def _node(self, node_id: e.NodeId, epoch: int) -> Node | None:
        """The node, if it is in the epoch of which news have come."""
        node = self.nodes.get(node_id)
        return node if node is not None and node.epoch == epoch else None

    def _attempt(
        self, event: e.AttemptLost | e.AttemptTimedOut | e.AttemptReturned | e.Blocked | e.Unblocked
    ) -> Task | None:
        """The task, if the attempt is its current one, and on that node."""
        return self._current(self._node(event.node, event.epoch), event.id, event.attempt)

    def _current(self, node: Node | None, task_id: TaskId, attempt: int) -> Task | None:
        task = node.leases.get(task_id) if node is not None else None
        return task if task is not None and task.attempt == attempt else None

    def _node_joined(self, event: e.NodeJoined) -> None:
        self.recovery.join(event.node, event.capacity, event.holds)

    def _node_heard(self, event: e.NodeHeard) -> None:
        node = self._node(event.node, event.epoch)
        if node is not None:
            self.recovery.heard(node)

    def _node_lost(self, event: e.NodeLost) -> None:
        node = self._node(event.node, event.epoch)
        if node is not None:
            self.recovery.lose_node(node)

    def _room_asked(self, event: e.RoomAsked) -> None:
        node = self._node(event.node, event.epoch)
        if node is None or event.request in node.rooms:
            return
        task = None
        if event.task is not None:
            task = self._current(node, event.task, event.attempt)
            if task is None:
                return
        self.rooms.asked(node, event.request, event.size, task)

    def _room_returned(self, event: e.RoomReturned) -> None:
        node = self._node(event.node, event.epoch)
        room = node.rooms.pop(event.request, None) if node is not None else None
        if node is not None and room is not None:
            if room.task is not None:
                room.task.more.rooms.discard(room.number)
            self.rooms.close(node, room)

    def _finished(self, event: e.Finished) -> None:
        node = self._node(event.node, event.epoch)
        if node is None:
            return
        leases, tasks, actions, estimates = node.leases, self.tasks, self.actions, self.estimates
        for done in event.results:
            task_id = done.id
            task = leases.get(task_id)
            if task is None or task.attempt != done.attempt:
                continue
            if not task.light or task.extra is not None or done.made:
                self._ended(task, node, done)
                continue
            # The short way of a light task; the long one is _ended, Lives.end and Lives.unload.
            del leases[task_id], tasks[task_id]
            known = estimates.get(task.request.function)
            if known is None or known.seconds < 0:
                self.lives.learn(task.request.function, done.seconds)
            else:
                known.seconds += 0.2 * (done.seconds - known.seconds)
            task.state = State.ENDED
            self.lives.leave_pool(task, node)
            actions.append(Ended(task.request, task.attempt, Outcome.DONE, True, node.id))
        self.disturbed(node)

    def _ended(self, task: Task, node: Node, done: e.Done) -> None:
        known = self.lives.learn(task.request.function, done.seconds)
        extra = task.extra
        cancelled = extra is not None and extra.doomed in ("cancelled", "released")
        for made in done.made:
            if cancelled:
                self.directory.discard(made, node)
                continue
            obj = self.directory.made(made, node)
            if obj is task.output and not done.failed:
                size = made.size if made.size > INLINE_LIMIT else 0
                known.output = max(size, (7 * known.output + size) // 8)
                if task.request.kind == e.TaskKind.CALL:
                    self.lineage.remember(obj, task)
        if cancelled:
            released = extra is not None and extra.doomed == "released"
            if task.request.kind == e.TaskKind.CREATE and task.request.actor is not None and not done.failed:
                self.actions.append(EndActor(node.id, node.epoch, task.request.actor, True))
            self.lives.end(task, Outcome.ACTOR if released else Outcome.DROPPED, True)
            return
        if task.request.kind == e.TaskKind.CREATE and not done.failed and task.actor is not None:
            self.lives.unload(task, keep=True)
            self.actors.made(task)
        self.lives.end(task, Outcome.DONE, True)

    def _yielded(self, event: e.Yielded) -> None:
        node = self._node(event.node, event.epoch)
        task = self._current(node, event.id, event.attempt)
        if task is not None and node is not None:
            task.more.yielded = True
            self.directory.made(event.made, node)

    def _attempt_lost(self, event: e.AttemptLost) -> None:
        node = self._node(event.node, event.epoch)
        if node is None:
            return
        actor = self.actors.created.get(event.id)
        if actor is not None and actor.creation.attempt == event.attempt:
            self.actors.process_gone(actor)
            return
        task = self._current(node, event.id, event.attempt)
        if task is None:
            return
        actor = task.actor
        self.lives.lose(task)
        if actor is not None and task is not actor.creation:
            self.actors.process_gone(actor)

    def _attempt_timed_out(self, event: e.AttemptTimedOut) -> None:
        task = self._attempt(event)
        if task is None:
            return
        actor = task.actor
        self.lives.end(task, Outcome.TIMED_OUT, True)
        if actor is not None and task is not actor.creation:
            self.actors.process_gone(actor)

    def _attempt_returned(self, event: e.AttemptReturned) -> None:
        task = self._attempt(event)
        if task is not None:
            self.lives.take_back(task)

    def _blocked(self, event: e.Blocked) -> None:
        task = self._attempt(event)
        if task is None or task.state != State.LEASED or task.node is None:
            return
        node, extra = task.node, task.more
        extra.awaits = event.objects
        node.reserved -= extra.reserved
        extra.reserved = 0
        node.blocked += 1
        if node.claim is not None:
            self.claims.unclaim(node.claim)
        if task.pooled:
            self.lives.leave_pool(task, node)
        elif extra.ledger is not None and task.klass is not None:
            extra.ledger.cpus += task.klass.need.cpus
        task.move(State.BLOCKED)
        self.watchdog.blocked()
        self.disturbed(node)

    def _unblocked(self, event: e.Unblocked) -> None:
        task = self._attempt(event)
        if task is None or task.state != State.BLOCKED or task.node is None:
            return
        node, extra = task.node, task.more
        extra.awaits = ()
        node.blocked -= 1
        if task.pooled:
            node.pool += 1
            node.held += 1
            node.ledger.cpus -= e.UNIT
            node.backlog += task.estimate
        elif extra.ledger is not None and task.klass is not None:
            extra.ledger.cpus -= task.klass.need.cpus
        task.move(State.LEASED)

    def _held(self, event: e.Held) -> None:
        node = self._node(event.node, event.epoch)
        for object_id in event.objects if node is not None else ():
            copy = node.copies.get(object_id) if node is not None else None
            if copy is not None and copy.place in (Place.PRESENT, Place.DAMAGED):
                self.directory.pin(copy)
                copy.held += 1

    def _let_go(self, event: e.LetGo) -> None:
        node = self._node(event.node, event.epoch)
        for object_id in event.objects if node is not None else ():
            copy = node.copies.get(object_id) if node is not None else None
            if copy is not None and copy.held:
                copy.held -= 1
                self.directory.unpin(copy)

    def _spilled(self, event: e.Spilled) -> None:
        node = self._node(event.node, event.epoch)
        if node is None:
            return
        if event.ok:
            node.spill_tries = 0
        else:
            # Tried again after a while: others may have made room on the disk.
            node.spill_full = event.full
            node.spill_tries += 1
            node.spill_later = self.now + 0.5 * 2.0 ** min(node.spill_tries, 6)
            self.timers.wake(node.spill_later, self._spill_again, node)
        for object_id in event.objects:
            copy = node.copies.get(object_id)
            if copy is not None and copy.place == Place.SPILLING:
                self.directory.written(copy, event.ok)

    def _spill_again(self, node: Node) -> None:
        if node.spill_later <= self.now:
            node.spill_full = False
        self.disturbed(node)

    def _restored(self, event: e.Restored) -> None:
        self._came(event)

    def _fetched(self, event: e.Fetched) -> None:
        self._came(event)

    def _came(self, event: e.Restored | e.Fetched) -> None:
        node = self._node(event.node, event.epoch)
        copy = node.copies.get(event.object) if node is not None else None
        if copy is not None and copy.place == Place.INCOMING:
            self.rooms.came(copy, event.ok)

    def _damaged(self, event: e.Damaged) -> None:
        node = self._node(event.node, event.epoch)
        if node is not None:
            self.recovery.damaged(node, event.object)

    def _memory_high(self, event: e.MemoryHigh) -> None:
        node = self._node(event.node, event.epoch)
        if node is None:
            return
        if event.used < PRESSED_SHARE * event.limit:
            node.pressed = 0.0
            self.disturbed(node)
            return
        node.pressed = self.now + 1.0
        self.timers.wake(node.pressed, self.disturbed, node)
        if event.used < KILL_SHARE * event.limit:
            return
        running = []
        for usage in event.usage:
            task = self._current(node, usage.id, usage.attempt)
            if task is not None:
                if task.extra is not None and task.extra.doomed is not None and task.extra.doomed != "unwanted":
                    return  # its end will free some
                running.append((task, usage.used))
        if running:
            self._kill_largest(node, event, running)

    def _kill_largest(self, node: Node, event: e.MemoryHigh, running: list[tuple[Task, int]]) -> None:
        """The largest overshoot over its claim, then the newest; those that can be tried again first."""

        def order(entry: tuple[Task, int]) -> tuple[bool, int, int]:
            task, used = entry
            return task.request.kind == e.TaskKind.CALL, used - task.request.need.memory, task.order

        task, used = max(running, key=order)
        extra, function = task.more, task.request.function
        claim = task.klass.need.memory if task.klass is not None else 0
        extra.facts = {"memory": used, "limit": event.limit, "neighbours": len(running) - 1}
        self.learned[function] = max(self.learned.get(function, 0), used * 6 // 5, claim * 3 // 2)
        why = "memory" if len(running) > 1 else "alone"
        extra.doomed = why
        self.actions.append(Kill(node.id, node.epoch, task.request.id, task.attempt, "memory"))
