"""A random life of a small cluster: numbers become events, faults included; then everything heals and has to end."""

from __future__ import annotations

from collections.abc import Iterable

from dagengine.runtime.core import events as e
from dagengine.runtime.core.ledger import Ledger
from dagengine.runtime.protocol import ActorId, GroupId, ObjectId, TaskId
from tests.runtime.core.world import UNIT, Host, World, capacity

ARENA = 1_000_000
SIZES = (20_000, 150_000, 300_000, 600_000)
NEEDS = (
    e.Need(),
    e.Need(),
    e.Need(cpus=2 * UNIT),
    e.Need(cpus=UNIT // 2),
    e.Need(cpus=0),
    e.Need(memory=400),
    e.Need(gpus=UNIT // 2, gpu_memory=10),
    e.Need(gpus=UNIT),
    e.Need(custom=(("token", UNIT),)),
    e.Need(node="one", soft=True),
)

FOR_LIFE = (e.Need(cpus=0), e.Need(cpus=0, memory=100), e.Need(cpus=0, gpus=UNIT // 4, gpu_memory=5))
"""Of actors: none of it keeps a task waiting that its calls may wait for."""


def node(name: str) -> e.Capacity:
    return capacity(name, cpus=2, arena=ARENA, memory=1000, devices=(e.Device(0, 20), e.Device(1, 20)), token=1)


class Life:
    def __init__(self, nodes: int, faults: bool = True) -> None:
        self.world = World(*(node(name) for name in ("zero", "one", "two")[:nodes]))
        self.nodes = nodes
        self.faults = faults
        self.number = 0
        self.objects: list[ObjectId] = []
        self.freed: set[ObjectId] = set()
        self.actors: list[ActorId] = []
        self.groups: list[GroupId] = []
        self.readers: dict[int, tuple[ObjectId, int]] = {}
        self.wishes: list[int] = []
        self.held: list[tuple[Host, ObjectId]] = []
        self.steps = [
            self.submit,
            self.submit,
            self.submit,
            self.finish,
            self.finish,
            self.finish,
            self.finish,
            self.write,
            self.write,
            self.write,
            self.move,
            self.move,
            self.move,
            self.put,
            self.store,
            self.free,
            self.want,
            self.unwant,
            self.block,
            self.cancel,
            self.create,
            self.call,
            self.call,
            self.release,
            self.group,
            self.ungroup,
            self.time,
            self.durable,
            self.hold,
            self.let_go,
            self.give_back,
        ]
        if faults:
            self.steps += [self.lose, self.lose_node, self.damage, self.bad_move, self.memory, self.lose_actor]

    def live(self, numbers: Iterable[int]) -> None:
        """Each number is one step: which, and about what."""
        for number in numbers:
            kind, which = number % len(self.steps), number // len(self.steps)
            self.steps[kind](which)

    # ---- steps --------------------------------------------------------------------------------

    def pick(self, items: list, which: int):  # type: ignore[no-untyped-def,type-arg]
        return items[which % len(items)] if items else None

    def inputs(self, which: int) -> tuple[ObjectId, ...]:
        usable = [object_id for object_id in self.objects if object_id not in self.freed]
        count = which % 4
        return tuple(usable[(which // (7 + i)) % len(usable)] for i in range(count)) if usable else ()

    def submit(self, which: int) -> None:
        self.number += 1
        need = NEEDS[which % len(NEEDS)]
        if self.groups and which % 5 == 0:
            need = e.Need(group=self.pick(self.groups, which), bundle=(which % 3) - 1)
        output = (9, self.number) if which % 3 else None
        kind = e.TaskKind.STREAM if output is not None and which % 13 == 0 else e.TaskKind.CALL
        request = e.Request(
            (1, self.number),
            which % 3,
            need,
            self.inputs(which // 3),
            output,
            expected=SIZES[which % 4] if which % 2 else None,
            kind=kind,
            priority=which % 2,
            rank=float(which % 3),
            losses=which % 3,
            plain=need == e.Need(),
        )
        if output is not None:
            self.objects.append(output)
        self.world.submit(request)

    def running(self) -> list[TaskId]:
        return self.world.running()

    def finish(self, which: int) -> None:
        ready = [t for t in self.running() if not self.world.find(t)[1].asked and not self.world.find(t)[1].blocked]
        task = self.pick(ready, which)
        if task is not None:
            self.world.finish(task, failed=which % 11 == 10)

    def write(self, which: int) -> None:
        task = self.pick(self.running(), which)
        if task is None:
            return
        host, attempt = self.world.find(task)
        if attempt.lease.request.output is None or attempt.asked or attempt.rooms or attempt.blocked:
            return
        if attempt.lease.request.kind != e.TaskKind.STREAM:
            self.world.ask(task, SIZES[which % 4])
            return
        item = (*attempt.lease.request.output, attempt.items)
        attempt.items += 1
        self.objects.append(item)
        self.world.inline.add(item)
        made = e.Made(item, 50)
        self.world.tell(e.Yielded(host.id, host.epoch, task, attempt.lease.attempt, made))

    def move(self, which: int) -> None:
        for host in self.world.hosts.values():
            if host.spilling:
                self.world.spilled(host)
                return
            if host.restoring:
                self.world.restored(host, self.pick(list(host.restoring), which))
                return
            if host.fetching:
                self.world.fetched(host, self.pick(list(host.fetching), which))
                return

    def bad_move(self, which: int) -> None:
        for host in self.world.hosts.values():
            if host.spilling:
                self.world.spilled(host, ok=False, full=which % 2 == 1)
                return
            if host.restoring:
                self.world.restored(host, self.pick(list(host.restoring), which), ok=False)
                return
            if host.fetching:
                self.world.fetched(host, self.pick(list(host.fetching), which), ok=False)
                return

    def put(self, which: int) -> None:
        self.number += 1
        object_id = (9, self.number)
        self.wishes.append(self.world.requests + 1)
        if self.world.put(object_id, SIZES[which % 4]):
            self.objects.append(object_id)

    def store(self, which: int) -> None:
        del which
        for request, (object_id, _) in list(self.world.puts.items()):
            if self.world.store(request):
                self.objects.append(object_id)

    def free(self, which: int) -> None:
        object_id = self.pick([o for o in self.objects if o not in self.freed], which)
        if object_id is not None:
            self.freed.add(object_id)
            self.world.tell(e.Freed([object_id]))

    def want(self, which: int) -> None:
        object_id = self.pick([o for o in self.objects if o not in self.freed], which)
        if object_id is not None:
            self.number += 1
            self.readers[self.number] = (object_id, 0)
            self.world.tell(e.Wanted(object_id, 0, self.number))

    def unwant(self, which: int) -> None:
        reader = self.pick(list(self.readers), which)
        if reader is not None:
            object_id, host = self.readers.pop(reader)
            self.world.tell(e.Unwanted(object_id, host, reader))

    def block(self, which: int) -> None:
        task = self.pick(self.running(), which)
        if task is None:
            return
        host, attempt = self.world.find(task)
        attempt.blocked = not attempt.blocked
        kind = e.Blocked if attempt.blocked else e.Unblocked
        self.world.tell(kind(host.id, host.epoch, task, attempt.lease.attempt))

    def cancel(self, which: int) -> None:
        task = self.pick(list(self.world.live), which)
        if task is not None:
            self.world.tell(e.Cancelled([task], which % 2 == 0))

    def create(self, which: int) -> None:
        if len(self.actors) >= 3:
            return
        self.number += 1
        actor = (5, self.number)
        self.actors.append(actor)
        need = FOR_LIFE[which % len(FOR_LIFE)]
        self.world.submit(
            e.Request((1, self.number), 5, need, kind=e.TaskKind.CREATE, actor=actor, plain=False, losses=which % 2)
        )

    def call(self, which: int) -> None:
        actor = self.pick(self.actors, which)
        if actor is None:
            return
        self.number += 1
        output = (9, self.number) if which % 2 else None
        inputs = self.inputs(which // 2)
        if output is not None:
            self.objects.append(output)
        kind = e.TaskKind.METHOD
        self.world.submit(e.Request((1, self.number), 6, e.Need(cpus=0), inputs, output, kind=kind, actor=actor))

    def release(self, which: int) -> None:
        actor = self.pick(self.actors, which)
        if actor is not None:
            self.actors.remove(actor)
            self.world.tell(e.ActorReleased(actor, which % 2 == 0))

    def group(self, which: int) -> None:
        if len(self.groups) >= 2:
            return
        self.number += 1
        strategy = ("pack", "spread", "strict_pack", "strict_spread")[which % 4]
        self.groups.append((7, self.number))
        bundles = tuple(NEEDS[(which + i) % 8] for i in range(1 + which % 2))
        self.world.tell(e.GroupAsked((7, self.number), bundles, strategy))

    def ungroup(self, which: int) -> None:
        group = self.pick(self.groups, which)
        if group is not None:
            self.groups.remove(group)
            self.world.tell(e.GroupReleased(group))

    def time(self, which: int) -> None:
        self.world.wait(0.3 * (1 + which % 10))

    def durable(self, which: int) -> None:
        existing = set(self.world.inline).union(*(set(h.arena) | set(h.spilled) for h in self.world.hosts.values()))
        object_id = self.pick([o for o in self.objects if o in existing and o not in self.freed], which)
        if object_id is not None:
            self.world.durable.add(object_id)
            self.world.tell(e.Durable(object_id))

    def hold(self, which: int) -> None:
        task = self.pick(self.running(), which)
        if task is None:
            return
        host, attempt = self.world.find(task)
        object_id = self.pick([o for o in attempt.lease.request.inputs if o in host.arena], which)
        if object_id is not None:
            self.held.append((host, object_id))
            self.world.tell(e.Held(host.id, host.epoch, (object_id,)))

    def let_go(self, which: int) -> None:
        entry = self.pick(self.held, which)
        if entry is not None:
            self.held.remove(entry)
            host, object_id = entry
            self.world.tell(e.LetGo(host.id, host.epoch, (object_id,)))

    def give_back(self, which: int) -> None:
        task = self.pick(self.running(), which)
        if task is None:
            return
        _, attempt = self.world.find(task)
        if not (attempt.rooms or attempt.asked or attempt.items or attempt.blocked):
            self.world.give_back(task)

    def lose(self, which: int) -> None:
        task = self.pick(self.running(), which)
        if task is not None:
            self.world.lose(task)

    def lose_actor(self, which: int) -> None:
        actors = [actor for host in self.world.hosts.values() for actor in host.actors]
        if actors:
            self.world.lose_actor(self.pick(actors, which))

    def lose_node(self, which: int) -> None:
        """Node 0 is where puts and readers are: it stays."""
        if self.nodes > 1:
            number = 1 + which % (self.nodes - 1)
            self.world.lose_host(number)
            self.world.join(number, node(("zero", "one", "two")[number]))

    def damage(self, which: int) -> None:
        for host in self.world.hosts.values():
            object_id = self.pick(list(host.arena), which)
            if object_id is not None and not any(object_id in batch for batch in host.spilling):
                self.world.tell(e.Damaged(host.id, host.epoch, object_id))
                return

    def memory(self, which: int) -> None:
        host = self.world.hosts[0]
        usage = [
            e.Usage(t, attempt.lease.attempt, 100 * (i + 1)) for i, (t, attempt) in enumerate(host.attempts.items())
        ]
        self.world.tell(e.MemoryHigh(0, host.epoch, 800 + which % 200, 1000, usage))

    # ---- healing ------------------------------------------------------------------------------

    def heal(self) -> None:
        """No more faults: everything ends, and nothing is left."""
        world = self.world
        for reader in list(self.readers):
            self.unwant(0)
            del reader
        while self.held:
            self.let_go(0)
        for actor in self.actors:
            world.tell(e.ActorReleased(actor))
        idle = 0
        for _ in range(3000):
            moved = world.moves()
            self.store(0)
            before = len(world.ended)
            for task in list(self.running()):
                if task not in self.running():
                    continue
                _, attempt = world.find(task)
                if attempt.blocked:
                    self.block_one(task)
                if not attempt.asked:
                    world.finish(task)
            if not world.core.tasks and not world.puts and not self.running():
                break
            if moved or len(world.ended) > before:
                idle = 0
                continue
            idle += 1
            world.wait(1.0)
            if idle % 5 == 4:
                self._unstick()
            assert idle < 60, f"left: {world.core.waits()}"
        for group in self.groups:
            world.tell(e.GroupReleased(group))
        world.tell(e.Freed([o for o in self.objects if o not in self.freed]))
        world.moves()
        assert not world.live
        for host in world.hosts.values():
            assert not host.arena, f"left in the arena: {host.arena}"
            assert not host.spilled, f"left in the spill space: {host.spilled}"
            assert not host.actors
            node_of = world.core.nodes[host.id]
            full = Ledger.of(host.capacity)
            assert (node_of.ledger.cpus, node_of.ledger.devices) == (full.cpus, full.devices)
            assert node_of.used == node_of.reserved == 0
        assert not world.core.directory.objects, f"remembered: {list(world.core.directory.objects)}"
        assert not world.core.actors.actors
        assert not world.core.groups.groups

    def _unstick(self) -> None:
        """Only what whoever submits has to do is allowed to be waited for: objects that nobody makes, groups to end."""
        world = self.world
        objects = world.core.directory.objects
        for task_id, request in list(world.live.items()):
            if any(not objects[i].exists and objects[i].producer is None for i in request.inputs if i in objects):
                world.tell(e.Cancelled([task_id]))
                return
        if self.groups:
            world.tell(e.GroupReleased(self.groups.pop(0)))

    def block_one(self, task: TaskId) -> None:
        host, attempt = self.world.find(task)
        attempt.blocked = False
        self.world.tell(e.Unblocked(host.id, host.epoch, task, attempt.lease.attempt))
