"""A scenario: nodes, what clients do, and what goes wrong. All of it follows from one seed.

Each seed takes some of the features and leaves the others out, so that rare pairs of them meet often. A unit is a part
of the work that stands for itself (a graph, an actor and its calls, a group, …), so that a failing scenario can be cut
down: `without` leaves units and faults out and changes nothing in the others.

May import nothing of ours but the simulator's other modules and the core's words.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from random import Random
from typing import Any, Final

from dagengine.runtime.core.events import UNIT, Capacity, Device, Need, Request, TaskKind
from dagengine.runtime.protocol import ActorId, GroupId, ObjectId, TaskId
from dagengine.runtime.simulation.plans import Plan

KB: Final = 1_000
ARENA: Final = 10_000 * KB
"""Sizes of objects are well above model.INLINE_LIMIT, below which the core takes none for an object with room."""

FULL_DISK: Final = 3_000 * KB

FAULT_SECONDS: Final = 20.0
"""Faults begin within so many seconds; afterwards everything heals."""


@dataclass(frozen=True, slots=True)
class NodePlan:
    capacity: Capacity
    disk: int


@dataclass(frozen=True, slots=True)
class Fault:
    """`kind` with a node, from `at` for `seconds`; `amount` means what the kind needs it to mean."""

    at: float
    kind: str
    node: int
    seconds: float = 0.0
    amount: float = 0.0


@dataclass(slots=True)
class Unit:
    """Steps are (at, what, argument): see clients.py, which takes them."""

    number: int
    kind: str
    steps: list[tuple[float, str, Any]] = field(default_factory=list)
    plans: list[Plan] = field(default_factory=list)
    puts: list[tuple[ObjectId, int, bool]] = field(default_factory=list)
    early: set[ObjectId] = field(default_factory=set)  # freed as soon as their last reader is submitted
    durable: set[ObjectId] = field(default_factory=set)  # become durable some time after they were made
    actor: ActorId | None = None
    group: GroupId | None = None
    cycle: tuple[TaskId, ...] = ()  # tasks that wait for one another


@dataclass(frozen=True, slots=True)
class Scenario:
    seed: int
    nodes: tuple[NodePlan, ...]
    units: tuple[Unit, ...]
    faults: tuple[Fault, ...]
    features: frozenset[str]

    def without(self, units: set[int], faults: set[int]) -> Scenario:
        """Smaller: without the units of these numbers, and the faults at these places."""
        return replace(
            self,
            units=tuple(unit for unit in self.units if unit.number not in units),
            faults=tuple(fault for place, fault in enumerate(self.faults) if place not in faults),
        )


FEATURES: Final = (
    *("nodes", "large", "memory", "gpus", "custom", "priorities", "actors", "groups", "streams", "nested", "cycle"),
    *("wants", "early", "durable", "cancels", "failures", "timeouts", "retries", "small arena", "wide", "soft"),
    *("handed", "crowd"),
)
FAULTS: Final = (
    *("worker", "crash", "cut", "cut up", "cut down", "line", "spills", "disk", "damage", "pressure", "echo"),
    "closing",
)
FULL: Final = "full for good"
"""The spill spaces are small, and stay so when all else is healed: what can't be spilled has to end by itself."""

FULL_SHARE: Final = 0.15
"""Of the seeds. Chosen apart from the others, whose scenarios it leaves as they are."""


def make(seed: int, features: frozenset[str] | None = None) -> Scenario:
    """The scenario of a seed; `features`: these instead of a choice of its own."""
    rng = Random(seed)
    if features is None:
        chance = rng.choice((0.2, 0.4, 0.7))
        chosen = {feature for feature in FEATURES if rng.random() < chance}
        if rng.random() < 0.8:
            chosen |= {fault for fault in FAULTS if rng.random() < rng.choice((0.1, 0.3, 0.5))}
        if Random(-1 - seed).random() < FULL_SHARE:
            chosen.add(FULL)
        features = frozenset(chosen)
    maker = _Maker(rng, features)
    nodes = maker.nodes()
    units = tuple(maker.unit(number) for number in range(rng.choice((1, 2, 3, 5, 8))))
    return Scenario(seed, nodes, units, maker.faults(len(nodes)), features)


class _Maker:
    def __init__(self, rng: Random, features: frozenset[str]) -> None:
        self.rng = rng
        self.features = features
        self._next = 0

    # ---- nodes ----------------------------------------------------------------------------------

    def nodes(self) -> tuple[NodePlan, ...]:
        count = self.rng.randint(2, 8 if "crowd" in self.features else 4) if "nodes" in self.features else 1
        return tuple(self._node(number) for number in range(count))

    def _node(self, number: int) -> NodePlan:
        rng = self.rng
        slots = rng.randint(1, 4)
        arena = rng.choice((4_000 * KB, 6_000 * KB)) if "small arena" in self.features else ARENA
        capacity = Capacity(
            name=f"n{number}",
            cpus=slots * UNIT,
            memory=8_000 * KB,
            arena=arena,
            devices=tuple(Device(device, 1_000 * KB) for device in range(2)) if "gpus" in self.features else (),
            custom=(("licence", 2 * UNIT),) if "custom" in self.features else (),
            slots=slots,
        )
        disk = rng.choice((20_000 * KB, 200_000 * KB)) if "disk" in self.features else 1_000_000 * KB
        return NodePlan(capacity, FULL_DISK if FULL in self.features else disk)

    # ---- units ----------------------------------------------------------------------------------

    def unit(self, number: int) -> Unit:
        kinds = ["graph"] * 3
        kinds += [kind for kind in ("actors", "groups", "streams", "nested", "cycle") if kind in self.features]
        kinds += ["wide"] if "wide" in self.features else []
        unit = Unit(number, self.rng.choice(kinds))
        {
            "graph": self._graph,
            "wide": self._wide,
            "actors": self._actor,
            "groups": self._group,
            "streams": self._stream,
            "nested": self._nested,
            "cycle": self._cycle,
        }[unit.kind](unit, self.rng.uniform(0, 6))
        self._policies(unit)
        return unit

    def _graph(self, unit: Unit, at: float) -> None:
        """Layers of tasks on what was put and on each other; submitted in one or several batches."""
        rng = self.rng
        objects = [self._put(unit, at) for _ in range(rng.randint(0, 4))]
        batch: list[Plan] = []
        for _ in range(rng.randint(1, 12)):
            inputs = rng.sample(objects, min(len(objects), rng.randint(0, 3)))
            if inputs and rng.random() < 0.05:
                inputs.append(inputs[0])
            plan = self._plan(unit, tuple(inputs))
            batch.append(plan)
            objects += plan.named()
            if rng.random() < 0.2:
                unit.steps.append((at, "submit", batch))
                at, batch = at + rng.uniform(0, 0.5), []
        unit.steps.append((at, "submit", batch))

    def _wide(self, unit: Unit, at: float) -> None:
        """A fan-out of small ones and a gather."""
        rng = self.rng
        source = self._put(unit, at)
        middle = [self._plan(unit, (source,), small=True) for _ in range(rng.randint(8, 30))]
        outputs = tuple(output for plan in middle for output in plan.named())
        unit.steps.append((at, "submit", [*middle, self._plan(unit, outputs, small=True)]))

    def _actor(self, unit: Unit, at: float) -> None:
        rng = self.rng
        unit.actor = (unit.number, 1)
        # No cpu: an actor that holds the last one would wait for ever for an object that a task of its unit makes.
        need = self._need()._replace(cpus=0)
        create = self._plan(unit, (), need, TaskKind.CREATE, output=False)
        objects = [self._put(unit, at) for _ in range(rng.randint(0, 2))]
        batch = [create]
        for ordinal in range(rng.randint(1, 8)):
            if rng.random() < 0.3:
                maker = self._plan(unit, tuple(rng.sample(objects, min(1, len(objects)))), Need())
                batch.append(maker)
                objects += maker.named()
            call = self._plan(
                unit, tuple(rng.sample(objects, min(len(objects), rng.randint(0, 2)))), Need(cpus=0), TaskKind.METHOD
            )
            call.ordinal = ordinal
            call.request.concurrent = rng.random() < 0.3
            if "timeouts" in self.features and rng.random() < 0.05:
                call.timeout = 0.1
            batch.append(call)
            objects += call.named()
            if rng.random() < 0.3:
                unit.steps.append((at, "submit", batch))
                at, batch = at + rng.uniform(0, 0.5), []
        unit.steps.append((at, "submit", batch))
        if rng.random() < 0.3:
            unit.steps.append((at + rng.uniform(0, 1), "release", rng.random() < 0.5))

    def _group(self, unit: Unit, at: float) -> None:
        rng = self.rng
        unit.group = (unit.number, 2)
        strategy = rng.choice(("pack", "spread", "strict_pack", "strict_spread"))
        bundles = tuple(Need(cpus=UNIT) for _ in range(rng.randint(1, 2)))
        unit.steps.append((at, "reserve", (bundles, strategy)))
        needs = [
            Need(cpus=UNIT, group=unit.group, bundle=rng.randrange(-1, len(bundles))) for _ in range(rng.randint(1, 6))
        ]
        batch = [self._plan(unit, (), need) for need in needs]
        unit.steps.append((at + 0.1, "submit", batch))

    def _stream(self, unit: Unit, at: float) -> None:
        stream = self._plan(unit, (), None, TaskKind.STREAM)
        batch = [stream]
        batch += [self._plan(unit, (output,)) for output in stream.named() if self.rng.random() < 0.7]
        self.rng.shuffle(batch)
        unit.steps.append((at, "submit", batch))

    def _nested(self, unit: Unit, at: float) -> None:
        rng = self.rng
        parents = []
        for _ in range(rng.randint(1, 4)):
            # Nothing but a cpu, which they give back while they wait: whoever held more would wait for those that do too.
            children = tuple(self._plan(unit, (), Need()) for _ in range(rng.randint(1, 3)))
            if rng.random() < 0.3:
                children[0].children = (self._plan(unit, (), Need()),)
            parent = self._plan(unit, (), Need())
            parent.children = children
            parents.append(parent)
        unit.steps.append((at, "submit", parents))

    def _cycle(self, unit: Unit, at: float) -> None:
        """One waits inside itself for what another makes, which reads what the first one makes."""
        first = self._plan(unit, (), Need(), output=True)
        second = self._plan(unit, tuple(first.named()), Need(), output=True)
        for plan in (first, second):
            plan.fails, plan.timeout = False, None
        [first.blocks_on] = second.named()
        unit.cycle = (first.id, second.id)
        unit.steps.append((at, "submit", [first, second]))

    # ---- tasks ----------------------------------------------------------------------------------

    def _put(self, unit: Unit, at: float) -> ObjectId:
        self._next += 1
        object_id = (unit.number, 0, self._next)
        inline = self.rng.random() < 0.2
        unit.puts.append((object_id, self._size(), inline))
        unit.steps.append((at + self.rng.uniform(0, 0.3), "put", unit.puts[-1]))
        return object_id

    def _size(self) -> int:
        rng = self.rng
        if "large" in self.features and rng.random() < 0.03:
            return 12_000 * KB  # more than any arena has
        return (rng.randint(500, 3_000) if "large" in self.features else rng.randint(20, 400)) * KB

    def _plan(
        self,
        unit: Unit,
        inputs: tuple[ObjectId, ...],
        need: Need | None = None,
        kind: int = TaskKind.CALL,
        *,
        output: bool | None = None,
        small: bool = False,
    ) -> Plan:
        rng = self.rng
        self._next += 1
        task = (unit.number, 1, self._next)
        need = need if need is not None else Need() if small else self._need()
        has_output = output if output is not None else rng.random() < 0.8 or kind == TaskKind.STREAM
        plain = need == Need() and kind == TaskKind.CALL
        request = Request(
            id=task,
            function=rng.randrange(4),
            need=need,
            inputs=inputs,
            output=(unit.number, 3, self._next) if has_output else None,
            expected=rng.choice((None, None, 500 * KB)),
            kind=kind,
            actor=unit.actor if kind in (TaskKind.CREATE, TaskKind.METHOD) else None,
            concurrent=False,
            priority=rng.randint(-1, 1) if "priorities" in self.features else 0,
            losses=(rng.randint(0, 3) if "retries" in self.features else 3) if kind == TaskKind.CALL else 0,
            plain=plain,
        )
        plan = Plan(
            request,
            seconds=rng.choice((0.0, 0.01, 0.01, 0.2, 0.2, 1.0, 1.0, 5.0)),
            size=rng.randint(20, 60) * KB if small else self._size(),
            inline=not has_output or rng.random() < 0.2,
            fails="failures" in self.features and rng.random() < 0.1,
            yields=rng.randint(1, 5) if kind == TaskKind.STREAM else 0,
        )
        if "handed" in self.features and not has_output and kind == TaskKind.CALL and rng.random() < 0.5:
            plan.handed = (-1, unit.number, self._next)
            plan.inline = False
        if "timeouts" in self.features and kind == TaskKind.CALL and rng.random() < 0.1:
            plan.timeout = rng.choice((0.1, 5.0))
            request.plain = False
        request.spec = plan
        unit.plans.append(plan)
        return plan

    def _need(self) -> Need:
        rng = self.rng
        kinds = [kind for kind in ("memory", "gpus", "custom", "soft") if kind in self.features]
        if not kinds or rng.random() < 0.6:
            return Need()
        match rng.choice(kinds):
            case "memory":
                return Need(
                    memory=rng.choice((1_000, 3_000, 6_000)) * KB, cpus=UNIT // 2 if rng.random() < 0.5 else UNIT
                )
            case "gpus":
                return Need(gpus=rng.choice((UNIT // 4, UNIT // 2, UNIT, 2 * UNIT)), gpu_memory=400 * KB)
            case "custom":
                return Need(custom=(("licence", rng.choice((UNIT, 2 * UNIT))),))
        return Need(node="n0", soft=rng.random() < 0.5)

    # ---- what is done with objects ----------------------------------------------------------------

    def _policies(self, unit: Unit) -> None:
        rng = self.rng
        last = max(at for at, _, _ in unit.steps)
        outputs = [output for plan in unit.plans for output in plan.named()]
        for object_id in [object_id for object_id, _, _ in unit.puts] + outputs:
            if "wants" in self.features and rng.random() < 0.4:
                unit.steps.append((last + rng.uniform(-1, 2), "want", object_id))
            elif "early" in self.features and rng.random() < 0.4:
                unit.early.add(object_id)
            if "durable" in self.features and rng.random() < 0.3:
                unit.durable.add(object_id)
        if "cancels" in self.features:
            for plan in unit.plans:
                if rng.random() < 0.15:
                    unit.steps.append((last + rng.uniform(-0.5, 1.5), "cancel", (plan.id, rng.random() < 0.6)))
        unit.steps.sort(key=lambda step: step[0])

    # ---- faults ---------------------------------------------------------------------------------

    def faults(self, nodes: int) -> tuple[Fault, ...]:
        rng = self.rng
        faults = []
        for kind in FAULTS:
            if kind not in self.features:
                continue
            for _ in range(rng.randint(1, 3)):
                if kind == "closing" and rng.random() < 0.8:
                    continue  # nothing much happens afterwards
                remote = kind in ("crash", "cut", "cut up", "cut down", "line", "echo")
                if remote and nodes == 1:
                    continue
                node = rng.randrange(1 if remote else 0, nodes)
                at = rng.choice((rng.uniform(0, 4), rng.uniform(0, FAULT_SECONDS)))
                seconds = rng.choice((0.5, 4.0, 15.0))
                faults.append(Fault(at, kind, node, seconds, rng.random()))
        return tuple(sorted(faults, key=lambda fault: (fault.at, fault.kind, fault.node)))
