"""The scheduler core: what happens to tasks, objects and nodes. Pure: `apply` an event, carry out the actions.

No clock, I/O, thread or chance: time comes with each event, so a recorded list of events replays to the same actions
and the same state. This module is the door; each kind of decision has a module of its own:

    core       the tables, and the order of serving      news       what nodes report
    lives      a task from submission to its end         actors     calls in order
    leasing    which task gets what a node has           groups     bundles set aside together
    admission  all at one time, or nothing               claims     nobody is overtaken for ever
    placement  which node is best                        recovery   what is lost is found again
    objects    the directory, and arenas' accounts       rooms      room in arenas, spilling
    lineage    how objects were made                     timers     what is to happen at a time
    watchdog   what each task waits for                  stalls     what would wait for ever for room
    invariants what is true after each event

An event changes facts and notes which nodes and classes were touched; then those are served until nothing moves. The
invariants are in invariants.py. May import nothing of ours but errors, runtime.protocol and the core's other modules.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

from dagengine.errors import InternalError
from dagengine.runtime.core import events as e
from dagengine.runtime.core.actions import Action, Outcome, Ready, Run
from dagengine.runtime.core.limits import STALL_SECONDS
from dagengine.runtime.core.model import Reader
from dagengine.runtime.core.news import News
from dagengine.runtime.core.states import STATE_NAMES, Place, State
from dagengine.runtime.protocol import TaskId


class Scheduler(News):
    """`apply` an event, then carry out the actions in their order, each exactly once."""

    def __init__(self, stall_seconds: float = STALL_SECONDS) -> None:
        super().__init__(stall_seconds)
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
        self.serve()
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
        self.lineage.forget(obj)
        for copy in list(obj.copies.values()):
            if copy.spilled and not copy.pins and copy.place in (Place.PRESENT, Place.AWAY):
                self.directory.remove(copy)
            self.disturbed(copy.node)
        if not existed:
            self.directory.arisen(obj)
        for reader in list((obj.wanted or {}).values()):
            if not reader.ready and reader.copy is None:
                if reader.room:
                    reader.node.readers.remove(reader)
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

    def _tick(self, event: e.Tick) -> None:
        self.timers.tick(self.now)

    def _close(self, event: e.Closing) -> None:
        self.closing = True
        for task in list(self.tasks.values()):
            if task.state in (State.LEASED, State.BLOCKED):
                self.lives.kill(task, "cancelled", event.force)
            elif task.state != State.ENDED:
                self.lives.end(task, Outcome.DROPPED, task.state == State.PAUSED)
