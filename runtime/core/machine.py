"""The scheduler core: what happens to tasks, objects and nodes. Pure: `apply` an event, carry out the actions.

No clock, I/O, thread or chance: time comes with each event, so a recorded list of events replays to the same actions
and the same state. This module is the door; each kind of decision has a module of its own:

    lives      a task from submission to its end        actors     calls in order
    leasing    admission: who gets what a node has      groups     bundles set aside together
    placement  which node is best                       recovery   what is lost is found again
    objects    the directory, and arenas' accounts      rooms      room in arenas, spilling
    watchdog   what each task waits for                 invariants what is true after each event

An event changes facts and notes which nodes and classes were touched; then those are served until nothing moves. The
invariants are in invariants.py. May import nothing of ours but errors, runtime.protocol and the core's other modules.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

from dagengine.errors import InternalError
from dagengine.model import INLINE_LIMIT
from dagengine.runtime.core import events as e
from dagengine.runtime.core.actions import Action, EndActor, Ended, Kill, Outcome, Ready, Run
from dagengine.runtime.core.actors import Actors
from dagengine.runtime.core.groups import Groups
from dagengine.runtime.core.leasing import Leasing
from dagengine.runtime.core.limits import KILL_SHARE, PRESSED_SHARE
from dagengine.runtime.core.lives import Lives
from dagengine.runtime.core.model import Actor, Estimate, Klass, Node, Reader, Task
from dagengine.runtime.core.objects import Directory
from dagengine.runtime.core.recovery import Recovery
from dagengine.runtime.core.rooms import Rooms
from dagengine.runtime.core.states import STATE_NAMES, Place, State
from dagengine.runtime.core.timers import Timers
from dagengine.runtime.core.watchdog import Watchdog
from dagengine.runtime.protocol import TaskId


class Scheduler:
    """`apply` an event, then carry out the actions in their order, each exactly once."""

    def __init__(self) -> None:
        self.now = 0.0
        self.closing = False
        self.tasks: dict[TaskId, Task] = {}
        self.nodes: dict[e.NodeId, Node] = {}
        self.estimates: dict[int, Estimate] = {}
        self.learned: dict[int, int] = {}
        self.active: dict[int, Klass] = {}
        self.topology = 0
        self.actions: list[Action] = []
        self.timers = Timers()
        self._klasses: dict[tuple[e.Need, bool, bool, bool], Klass] = {}
        self._disturbed: dict[e.NodeId, Node] = {}
        self._fresh: dict[int, Klass] = {}
        self._actors_due: dict[int, Actor] = {}
        self.directory = Directory(self)
        self.rooms = Rooms(self)
        self.leasing = Leasing(self)
        self.actors = Actors(self)
        self.groups = Groups(self)
        self.recovery = Recovery(self)
        self.lives = Lives(self)
        self.watchdog = Watchdog(self)
        self._handlers: dict[type, Callable[[Any], None]] = {
            e.Submitted: self._submitted,
            e.Cancelled: self._cancelled,
            e.Stored: self._stored,
            e.Freed: self._freed,
            e.Durable: self._durable,
            e.Wanted: self._wanted,
            e.Unwanted: self._unwanted,
            e.GroupAsked: self._group_asked,
            e.GroupReleased: self._group_released,
            e.ActorReleased: self._actor_released,
            e.NodeJoined: self._node_joined,
            e.NodeHeard: self._node_heard,
            e.NodeLost: self._node_lost,
            e.RoomAsked: self._room_asked,
            e.RoomReturned: self._room_returned,
            e.Finished: self._finished,
            e.Yielded: self._yielded,
            e.AttemptLost: self._attempt_lost,
            e.AttemptTimedOut: self._attempt_timed_out,
            e.AttemptReturned: self._attempt_returned,
            e.Blocked: self._blocked,
            e.Unblocked: self._unblocked,
            e.Held: self._held,
            e.LetGo: self._let_go,
            e.Spilled: self._spilled,
            e.Restored: self._restored,
            e.Fetched: self._fetched,
            e.Damaged: self._damaged,
            e.MemoryHigh: self._memory_high,
            e.Tick: self._tick,
            e.Closing: self._close,
        }

    # ---- the door -----------------------------------------------------------------------------

    def apply(self, event: e.Event, now: float) -> list[Action]:
        actions: list[Action] = []
        self.actions = actions
        self.now = max(now, self.now)
        self._handlers[type(event)](event)
        self._serve()
        runs = self.leasing.runs
        if runs:
            for node, leases in runs.items():
                actions.append(Run(node.id, node.epoch, leases))
            self.leasing.runs = {}
        timer = self.timers.announce()
        if timer is not None:
            actions.append(timer)
        return actions

    def explain(self, task_id: TaskId) -> dict[str, Any]:
        """Where the task is and why; JSON. {} if it has ended."""
        return self.watchdog.explain(task_id)

    def waits(self) -> dict[TaskId, str]:
        """For every unfinished task what it waits for."""
        return self.watchdog.waits()

    def state_hash(self) -> str:
        """Equal for cores that have seen the same events."""
        digest = hashlib.blake2b(digest_size=16)
        for task in self.tasks.values():
            node = task.node.id if task.node is not None else -1
            digest.update(repr((task.request.id, STATE_NAMES[task.state], task.attempt, node, task.missing)).encode())
        for obj in self.directory.objects.values():
            copies = [(c.node.id, c.place, c.spilled, c.pins) for c in obj.copies.values()]
            digest.update(repr((obj.id, obj.size, obj.inline, obj.durable, obj.dead, obj.users, copies)).encode())
        for host in self.nodes.values():
            ledger = host.ledger
            free = (ledger.cpus, ledger.memory, ledger.custom, ledger.devices)
            digest.update(repr((host.id, host.epoch, free, host.used, host.reserved, host.pinned, host.pool)).encode())
        return digest.hexdigest()

    # ---- what was touched -----------------------------------------------------------------------

    def disturbed(self, node: Node) -> None:
        """Something on the node is free that was not before, or is asked for."""
        if not node.dead:
            self._disturbed[node.id] = node

    def fresh(self, klass: Klass) -> None:
        """The class has new tasks."""
        self._fresh[klass.number] = klass
        self.active[klass.number] = klass

    def push_later(self, actor: Actor) -> None:
        self._actors_due[id(actor)] = actor

    def klass(self, need: e.Need, plain: bool, light: bool, heavy: bool) -> Klass:
        key = (need, plain, light, heavy)
        klass = self._klasses.get(key)
        if klass is None:
            klass = self._klasses[key] = Klass(self._next_klass(), need, plain, light, heavy)
        return klass

    def _next_klass(self) -> int:
        return 1 + max((klass.number for klass in self._klasses.values()), default=0)

    def largest_memory(self) -> int:
        return max((node.capacity.memory for node in self.nodes.values()), default=0)

    def _serve(self) -> None:
        """Until nothing moves any more."""
        disturbed, fresh, due, lives = self._disturbed, self._fresh, self._actors_due, self.lives
        while True:
            if lives.fail():
                continue
            if due:
                actor = due.pop(next(iter(due)))
                self.actors.push(actor)
            elif disturbed:
                node = disturbed.pop(next(iter(disturbed)))
                if node.dead:
                    continue
                if node.asking or node.readers or node.bundle is not None or node.used:
                    self.rooms.settle(node)
                if self.groups.waiting:
                    self.groups.serve()
                self.leasing.feed(node)
            elif fresh:
                self._place_fresh()
            else:
                break
        self.rooms.throttle()

    def _place_fresh(self) -> None:
        fresh = list(self._fresh.values())
        self._fresh.clear()
        if len(self.nodes) == 1:
            if any(not klass.stuck or klass.heavy for klass in fresh) or self.leasing.claims:
                node = next(iter(self.nodes.values()))
                self.leasing.feed(node)
                for klass in fresh:
                    klass.stuck = klass.queue.head() is not None
            return
        for klass in self.leasing.in_order(fresh):
            self.leasing.spread(klass)

    # ---- from whoever submits -------------------------------------------------------------------

    def _submitted(self, event: e.Submitted) -> None:
        self.lives.submit(event.requests)

    def _cancelled(self, event: e.Cancelled) -> None:
        for task_id in event.ids:
            self.lives.cancel(task_id, event.force)

    def _stored(self, event: e.Stored) -> None:
        node = self.nodes.get(event.node)
        if node is None:
            return
        number = -1
        if not event.inline and not event.overflow:
            number = event.request
            if number < 0:
                fitting = (
                    r.number for r in node.rooms.values() if r.task is None and r.granted and r.size == event.size
                )
                number = next(fitting, -1)
            if number not in node.rooms:
                raise InternalError(f"object {event.object} was stored in a room that nobody was granted")
        self.directory.made(e.Made(event.object, event.size, number, event.overflow), node)

    def _freed(self, event: e.Freed) -> None:
        for object_id in event.objects:
            self.directory.freed(object_id)

    def _durable(self, event: e.Durable) -> None:
        obj = self.directory.objects.get(event.object)
        if obj is None or obj.durable:
            return
        existed = obj.exists
        obj.durable = obj.made = True
        obj.dead = False
        self.directory.forget_lineage(obj)
        for copy in list(obj.copies.values()):
            if copy.spilled and not copy.pins and copy.place in (Place.PRESENT, Place.AWAY):
                self.directory.remove(copy)
            self.disturbed(copy.node)
        if not existed:
            self.directory.arisen(obj)
        for node in self.nodes.values():
            for reader in [reader for reader in node.readers if reader.object is obj]:
                node.readers.remove(reader)
                reader.room = 0
                self.rooms.wanted(reader)

    def _wanted(self, event: e.Wanted) -> None:
        node = self.nodes.get(event.node)
        if node is None:
            self.actions.append(Ready(event.object, event.node, event.reader, False))
            return
        obj = self.directory.get(event.object)
        reader = Reader(obj, node, event.reader, self.now)
        if obj.wanted is None:
            obj.wanted = {}
        obj.wanted[node.id, event.reader] = reader
        if not obj.exists and not self.recovery.needed(obj):
            self.rooms.refuse(reader)
            return
        self.rooms.wanted(reader)

    def _unwanted(self, event: e.Unwanted) -> None:
        obj = self.directory.objects.get(event.object)
        reader = obj.wanted.pop((event.node, event.reader), None) if obj is not None and obj.wanted else None
        if reader is not None:
            self.rooms.unwanted(reader)

    def _group_asked(self, event: e.GroupAsked) -> None:
        self.groups.asked(event.group, event.bundles, event.strategy)

    def _group_released(self, event: e.GroupReleased) -> None:
        self.groups.released(event.group)

    def _actor_released(self, event: e.ActorReleased) -> None:
        self.actors.release(event.actor, event.force)

    # ---- from nodes -----------------------------------------------------------------------------

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
                    self.directory.remember(obj, task)
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
            self.leasing.unclaim(node.claim)
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

    def _tick(self, event: e.Tick) -> None:
        self.timers.tick(self.now)

    def _close(self, event: e.Closing) -> None:
        self.closing = True
        for task in list(self.tasks.values()):
            if task.state in (State.LEASED, State.BLOCKED):
                self.lives.kill(task, "cancelled", event.force)
            elif task.state != State.ENDED:
                self.lives.end(task, Outcome.DROPPED, task.state == State.PAUSED)
