"""The workers of a simulated node: attempts on its cpus, and actors with their calls in order.

Each attempt is a generator that yields how long its next stretch takes, or None until somebody resumes it. What ends
from outside (a death, a kill) leaves the generator where it is: nobody wakes it again.

May import nothing of ours but the simulator's other modules and the core's words.
"""

from __future__ import annotations

from typing import Final

from dagengine.runtime.core import actions as a
from dagengine.runtime.core import events as e
from dagengine.runtime.protocol import ActorId, ObjectId
from dagengine.runtime.simulation.attempts import Actor, Attempt, Host, Key, Life
from dagengine.runtime.simulation.plans import Violation, computed, name
from dagengine.runtime.simulation.store import Copy

GRACE_SECONDS: Final = 0.05
START_SECONDS: Final = 0.01


class Crew:
    def __init__(self, node: Host) -> None:
        self.node = node
        self.attempts: dict[Key, Attempt] = {}
        self.queue: list[Attempt] = []
        self.actors: dict[ActorId, Actor] = {}
        self._free_cpus = node.capacity.cpus

    def run(self, run: a.Run, mapped: frozenset[ObjectId]) -> None:
        for lease in run.leases:
            attempt = Attempt(lease, mapped)
            if attempt.key in self.attempts:
                raise Violation(
                    f"{self.node.capacity.name}: {name(lease.request.id)}#{lease.attempt} was leased here twice"
                )
            for object_id in lease.request.inputs:
                if object_id in mapped:
                    continue
                if object_id not in self.node.store.arena:
                    raise Violation(
                        f"{self.node.capacity.name}: {name(lease.request.id)} was leased, and its input {name(object_id)} "
                        "is not here"
                    )
                self.node.store.view(object_id)
            self.attempts[attempt.key] = attempt
            actor = self.actors.get(lease.request.actor) if lease.request.actor is not None else None
            if lease.request.kind == e.TaskKind.METHOD:
                if actor is None:  # it died while this was under way
                    self._leave(attempt)
                    self.node.say(e.AttemptReturned(self.node.number, self.node.epoch, *attempt.key))
                    continue
                actor.calls.append(attempt)
            else:
                self.queue.append(attempt)
        self._check_ledgers()
        self._start()

    def revoke(self, revoke: a.Revoke) -> None:
        for task, number in revoke.attempts:
            attempt = self.attempts.get((task, number))
            if attempt is not None and attempt.state == "queued":
                self._leave(attempt)
                self.node.say(e.AttemptReturned(self.node.number, self.node.epoch, task, number))
        self._start()

    def kill(self, kill: a.Kill) -> None:
        attempt = self.attempts.get((kill.id, kill.attempt))
        if attempt is None:
            return
        if attempt.state == "queued":
            self._leave(attempt)
            self.node.say(e.AttemptReturned(self.node.number, self.node.epoch, *attempt.key))
            self._start()
        elif not attempt.ending:
            attempt.ending = True
            self.node.world.later(self.node.world.rng.uniform(0, GRACE_SECONDS), self._killed, attempt)

    def _killed(self, attempt: Attempt) -> None:
        if attempt.state in ("running", "blocked"):
            self.lose(attempt, ours=True)

    def end_actor(self, end: a.EndActor) -> None:
        actor = self.actors.get(end.actor)
        if actor is None:
            return
        running = [attempt for attempt in actor.calls if attempt.state != "queued"]
        if running and not end.force:
            raise Violation(f"{self.node.capacity.name}: actor {name(end.actor)} is to end politely, and is at work")
        del self.actors[end.actor]
        for attempt in running:
            self._leave(attempt)
            self.node.say(e.AttemptLost(self.node.number, self.node.epoch, *attempt.key, ours=True))
        for attempt in actor.calls:
            if attempt.state == "queued":
                self._leave(attempt)
                self.node.say(e.AttemptReturned(self.node.number, self.node.epoch, *attempt.key))
        actor.calls.clear()
        self._leave(actor.create)
        self._start()

    def _start(self) -> None:
        for attempt in list(self.queue):
            if attempt.state == "queued" and attempt.lease.request.need.cpus <= self._free_cpus:
                self.queue.remove(attempt)
                attempt.cpus = attempt.lease.request.need.cpus
                self._free_cpus -= attempt.cpus
                self._begin(attempt)
        for actor in list(self.actors.values()):
            for attempt in list(actor.calls):
                alone = not attempt.lease.request.concurrent
                others = [other for other in actor.calls if other.state != "queued"]
                if attempt.state == "queued":
                    if others and (alone or any(not other.lease.request.concurrent for other in others)):
                        break
                    self._begin(attempt)
                if alone:
                    break

    def _begin(self, attempt: Attempt) -> None:
        attempt.state = "running"
        attempt.life = self._live(attempt)
        self.node.world.began(attempt)
        if attempt.plan.timeout is not None:
            self.node.world.later(attempt.plan.timeout, self._timed_out, attempt)
        self._step(attempt)

    def _live(self, attempt: Attempt) -> Life:
        plan, store = attempt.plan, self.node.store
        values = []
        for object_id in attempt.lease.request.inputs:
            if object_id in attempt.mapped:
                value = self.node.world.outside(object_id)
                if value is None:
                    raise Violation(f"{name(plan.id)} reads {name(object_id)}, which can't be mapped")
            else:
                copy = store.arena[object_id]
                if copy.damaged:
                    self._damaged(attempt, object_id)
                    return
                value = copy.value
            if value != self.node.world.values.expected(object_id):
                raise Violation(f"{name(plan.id)} reads another {name(object_id)} than was made")
            values.append(value)
        if plan.ordinal >= 0:
            self._check_order(attempt)
        yield START_SECONDS
        if plan.children or plan.blocks_on is not None:
            yield plan.seconds / 2
            attempt.state = "blocked"
            self._free_cpus += attempt.cpus
            objects = [object_id for child in plan.children for object_id in child.outputs()]
            if plan.blocks_on is not None:
                objects.append(plan.blocks_on)
            self.node.say(e.Blocked(self.node.number, self.node.epoch, *attempt.key, objects=tuple(objects)))
            self.node.world.nested(self.node.number, attempt)
            self._start()
            yield None
            attempt.state = "running"
            self._free_cpus -= attempt.cpus
            self.node.say(e.Unblocked(self.node.number, self.node.epoch, *attempt.key))
            yield plan.seconds / 2
        elif not plan.yields:
            yield plan.seconds
        made: list[e.Made] = []
        if not plan.fails:
            for object_id in plan.outputs():
                if plan.yields:
                    yield plan.seconds / plan.yields
                yield from self._write(attempt, object_id, computed(plan, object_id, values), made)
                if not made or made[-1].object != object_id:
                    self._finish(attempt, failed=True)
                    return
                if plan.yields:
                    self.node.say(e.Yielded(self.node.number, self.node.epoch, *attempt.key, made=made.pop()))
                    made.append(e.Made(object_id, 0))  # told already; kept so that the next one is seen as new
        self._finish(attempt, failed=plan.fails, made=() if plan.yields else tuple(made))

    def _write(self, attempt: Attempt, object_id: ObjectId, value: int, made: list[e.Made]) -> Life:
        size = attempt.plan.size
        if attempt.plan.inline:
            made.append(e.Made(object_id, size))
            return
        request = self.node.ask_room(size, lambda request, answer: self._answered(attempt, answer), *attempt.key)
        attempt.rooms.add(request)
        yield None
        if attempt.answer == "granted":
            yield size / self.node.write_rate
            attempt.rooms.discard(request)
            self.node.seal(request, object_id, Copy(size, value))
            made.append(e.Made(object_id, size, request))
            return
        attempt.rooms.discard(request)
        if attempt.answer == "disk" and self.node.store.fits_disk(size):
            yield size / self.node.disk_rate
            if self.node.store.fits_disk(size):
                self.node.store.overflow(object_id, Copy(size, value))
                made.append(e.Made(object_id, size, request, overflow=True))

    def _finish(self, attempt: Attempt, failed: bool, made: tuple[e.Made, ...] = ()) -> None:
        request = attempt.lease.request
        if request.inputs and self.node.world.rng.random() < 0.1:
            self._hold(attempt)
        if request.kind == e.TaskKind.CREATE and not failed:
            assert request.actor is not None
            attempt.state = "actor"
            self.actors[request.actor] = Actor(attempt)
            for object_id in self._viewed(attempt):
                self.node.store.unview(object_id)
        else:
            self._leave(attempt)
        self.node.result(e.Done(*attempt.key, attempt.plan.seconds, made, failed))
        self._start()

    def lose(self, attempt: Attempt, ours: bool = False, timed_out: bool = False) -> None:
        """The worker under it dies. An actor's calls that have not begun are given back, and so is the actor lost."""
        actor_id = attempt.lease.request.actor
        actor = self.actors.pop(actor_id, None) if actor_id is not None else None
        calls = [] if actor is None else actor.calls
        for call in list(calls):
            if call.state == "queued":
                self._leave(call)
                self.node.say(e.AttemptReturned(self.node.number, self.node.epoch, *call.key))
            elif call is not attempt:
                self._die(call, ours)
        self._die(attempt, ours, timed_out)
        if actor is not None and attempt is not actor.create:
            self._die(actor.create, ours)
        self._start()

    def _die(self, attempt: Attempt, ours: bool, timed_out: bool = False) -> None:
        number, epoch = self.node.number, self.node.epoch
        rooms = sorted(attempt.rooms)
        self._leave(attempt)
        news: list[e.Event] = [e.RoomReturned(number, epoch, request) for request in rooms]
        if timed_out:
            news.append(e.AttemptTimedOut(number, epoch, *attempt.key))
        else:
            news.append(e.AttemptLost(number, epoch, *attempt.key, ours=ours))
        if self.node.world.rng.random() < 0.5:
            news.reverse()
        for event in news:
            self.node.say(event)

    def _timed_out(self, attempt: Attempt) -> None:
        if attempt.state in ("running", "blocked"):
            self.lose(attempt, timed_out=True)

    def resume(self, attempt: Attempt) -> None:
        """What it waited for inside itself has come."""
        if attempt.state == "blocked":
            self._step(attempt)

    def _step(self, attempt: Attempt) -> None:
        attempt.stage += 1
        assert attempt.life is not None
        try:
            delay = next(attempt.life)
        except StopIteration:
            return
        if delay is not None:
            self.node.world.later(delay, self._wake, attempt, attempt.stage)

    def _wake(self, attempt: Attempt, stage: int) -> None:
        if attempt.state != "over" and attempt.stage == stage:
            self._step(attempt)

    def _leave(self, attempt: Attempt) -> None:
        """All that the attempt has on this node is given back."""
        if attempt.state in {"running", "actor"}:
            self._free_cpus += attempt.cpus
        if attempt.state != "actor":
            for object_id in self._viewed(attempt):
                self.node.store.unview(object_id)
        begun = attempt.state != "queued"
        attempt.state = "over"
        self.attempts.pop(attempt.key, None)
        if attempt in self.queue:
            self.queue.remove(attempt)
        actor_id = attempt.lease.request.actor
        if actor_id in self.actors and attempt in self.actors[actor_id].calls:
            self.actors[actor_id].calls.remove(attempt)
        for request in attempt.rooms:
            self.node.abandon_room(request)
        attempt.rooms.clear()
        if begun:
            self.node.world.ended(attempt)

    def _viewed(self, attempt: Attempt) -> list[ObjectId]:
        return [object_id for object_id in attempt.lease.request.inputs if object_id not in attempt.mapped]

    def _damaged(self, attempt: Attempt, object_id: ObjectId) -> None:
        """It can't read its inputs. A task is given back, to begin again on better ones; a call on an actor fails: those
        after it may have been begun by the time in which it could come again."""
        self.node.say(e.Damaged(self.node.number, self.node.epoch, object_id))
        if attempt.lease.request.kind == e.TaskKind.METHOD:
            self._finish(attempt, failed=True)
        else:
            self._leave(attempt)
            self.node.say(e.AttemptReturned(self.node.number, self.node.epoch, *attempt.key))
            self._start()

    def _hold(self, attempt: Attempt) -> None:
        """The worker keeps views on some of what it has read."""
        held = tuple(dict.fromkeys(self._viewed(attempt)))[:2]
        if held:
            for object_id in held:
                self.node.store.view(object_id)
            self.node.say(e.Held(self.node.number, self.node.epoch, held))
            self.node.world.later(self.node.world.rng.uniform(0.01, 1.0), self._let_go, self.node.life, held)

    def _let_go(self, life: int, held: tuple[ObjectId, ...]) -> None:
        if life == self.node.life and self.node.up:
            for object_id in held:
                self.node.store.unview(object_id)
            self.node.say(e.LetGo(self.node.number, self.node.epoch, held))

    # ---- what it checks by itself -----------------------------------------------------------------

    def _check_ledgers(self) -> None:
        """What has been leased fits what there is, whatever the core's own ledgers say."""
        memory = 0
        shares: dict[int, int] = {}
        device_memory: dict[int, int] = {}
        sizes = {device.id: device.memory for device in self.node.capacity.devices}
        for attempt in self.attempts.values():
            need = attempt.lease.request.need
            memory += attempt.lease.memory
            whole = need.gpus // e.UNIT if need.gpus >= e.UNIT else bool(need.gpus)
            if len(set(attempt.lease.devices)) != whole and attempt.lease.request.kind != e.TaskKind.METHOD:
                raise Violation(
                    f"{self.node.capacity.name}: {name(attempt.plan.id)} asks for {need.gpus} and gets devices "
                    f"{attempt.lease.devices}"
                )
            for device in attempt.lease.devices:
                shares[device] = shares.get(device, 0) + min(need.gpus, e.UNIT)
                device_memory[device] = device_memory.get(device, 0) + need.gpu_memory
        if memory > self.node.capacity.memory:
            raise Violation(
                f"{self.node.capacity.name}: {memory:,} bytes of memory leased, of {self.node.capacity.memory:,}"
            )
        for device, share in shares.items():
            if share > e.UNIT or device_memory[device] > sizes[device]:
                raise Violation(f"{self.node.capacity.name}: device {device} is given to more than it can serve")

    def _check_order(self, attempt: Attempt) -> None:
        request = attempt.lease.request
        assert request.actor is not None
        actor = self.actors[request.actor]
        if attempt.plan.ordinal <= actor.last:
            raise Violation(f"actor {name(request.actor)} runs call {attempt.plan.ordinal} after {actor.last}")
        actor.last = attempt.plan.ordinal

    # ---- the rest -----------------------------------------------------------------------------------

    def _answered(self, attempt: Attempt, answer: str) -> None:
        attempt.answer = answer
        self._step(attempt)

    def stop(self) -> None:
        """All of them end at once, and nobody says so."""
        for attempt in list(self.attempts.values()):
            begun = attempt.state != "queued"
            attempt.state = "over"
            attempt.rooms.clear()
            if begun:
                self.node.world.ended(attempt)
        self.attempts.clear()
        self.queue.clear()
        self.actors.clear()
        self._free_cpus = self.node.capacity.cpus
