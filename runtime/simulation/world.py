"""One simulated run: the heap of what happens next, the core in the middle, and everything around it.

    clients, nodes ──▶ inbox ──▶ core.apply(event, now) ──▶ actions ──▶ links to the nodes, clients
                                    └ invariants, judge: after every event, or after some

Two phases: faults, then healing. A run ends when every unit is over and everything that was there has been given back;
one that does not end, or leaves something behind, is a Violation, as is whatever the judge, the nodes or the core's own
invariants object to.

The run of a scenario is the same each time. May import nothing of ours but the simulator's other modules and the core.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any, Final

from dagengine.runtime.core import actions as a
from dagengine.runtime.core import events as e
from dagengine.runtime.core import invariants
from dagengine.runtime.core.machine import Scheduler
from dagengine.runtime.protocol import ObjectId, TaskId
from dagengine.runtime.simulation import leavings
from dagengine.runtime.simulation.attempts import Attempt
from dagengine.runtime.simulation.clients import Client
from dagengine.runtime.simulation.faults import Faults
from dagengine.runtime.simulation.judge import Judge
from dagengine.runtime.simulation.network import BEAT_SECONDS, Link
from dagengine.runtime.simulation.node import Node
from dagengine.runtime.simulation.plans import Values, Violation, name
from dagengine.runtime.simulation.scenario import FAULT_SECONDS, FULL, Scenario
from dagengine.runtime.simulation.store import Copy
from dagengine.runtime.simulation.tracing import shown

END_SECONDS: Final = 400.0
"""Far more than the work of any scenario takes: what has not ended by then does not end."""

STEPS: Final = 100_000
"""Events of one run, at most: a core that goes round in circles is stopped here."""

ASK_EVERY: Final = 64
"""Events between two looks at what everything waits for."""

SETTLE_SECONDS: Final = 3.0
GIVE_UP_SECONDS: Final = 60.0
"""After the clients have done: the time in which everything is surely given back, and the time for nodes to come back."""

LOCAL_SECONDS: Final = 0.0001

Log = list[tuple[e.Event, float]]


@dataclass(slots=True)
class Report:
    """What a run came to."""

    seed: int
    events: int = 0
    seconds: float = 0.0
    outcomes: dict[str, int] = field(default_factory=dict)
    hash: str = ""
    log: Log = field(default_factory=list)
    answers: list[list[a.Action]] = field(default_factory=list)


class World:
    """`run` once. `check_every`: invariants are checked after each n-th event."""

    def __init__(
        self,
        scenario: Scenario,
        check_every: int = 1,
        trace: Callable[[str], None] | None = None,
        record: bool = False,
        scheduler: Callable[[], Scheduler] = Scheduler,
    ) -> None:
        self.scenario = scenario
        self.now = 0.0
        self.rng = Random(scenario.seed + 1)
        self.values = Values()
        self.core = scheduler()
        self.calm = False
        self._trace = trace
        self._record = record
        self._check_every = check_every
        self._report = Report(scenario.seed)
        self._heap: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._number = 0
        self._inbox: deque[e.Event] = deque()
        self._timer: float | None = None
        self._throttled = False
        self._inline: set[ObjectId] = set()
        self._durable: set[ObjectId] = set()
        self.nodes = [Node(i, plan.capacity, plan.disk, self) for i, plan in enumerate(scenario.nodes)]
        self.local = self.nodes[0]
        self.links = {node.number: Link(node, self) for node in self.nodes[1:]}
        self.judge = Judge(self._exists, self.local.capacity.arena, min(node.capacity.arena for node in self.nodes))
        for unit in scenario.units:
            for object_id, _, _ in unit.puts:
                self.values.put(object_id)
            for plan in unit.plans:
                self.values.planned(plan)
        self.clients = {unit.number: Client(unit, self) for unit in scenario.units}
        self.faults = Faults(scenario.faults, self, FULL in scenario.features)

    # ---- the run --------------------------------------------------------------------------------

    def run(self) -> Report:
        self.local.join()
        for link in self.links.values():
            self.later(self.rng.uniform(0, 0.01), link.begin)
            self.later(self.rng.uniform(0, BEAT_SECONDS), self._beat, link)
        self.later(FAULT_SECONDS, self._heal)
        while not self._over():
            if not self._heap:
                raise Violation(f"nothing will happen any more; {self._stuck()}")
            self.now, _, what, arguments = heapq.heappop(self._heap)
            if self.now > END_SECONDS:
                raise Violation(self._stuck())
            what(*arguments)
            while self._inbox:
                self._apply(self._inbox.popleft())
        leavings.check(self.nodes, self.core)
        if self._throttled:
            raise Violation("nothing is left to do, and whoever puts objects is still told to wait")
        report = self._report
        report.seconds, report.outcomes, report.hash = self.now, self.judge.outcomes(), self.core.state_hash()
        return report

    def later(self, delay: float, what: Callable[..., None], *arguments: Any) -> None:
        self._number += 1
        heapq.heappush(self._heap, (self.now + delay, self._number, what, arguments))

    def feed(self, event: e.Event) -> None:
        """The core is told, after what it was told before."""
        self._inbox.append(event)

    def trace(self, text: str) -> None:
        if self._trace is not None:
            self._trace(f"{self.now:10.4f}  {text}")

    def _apply(self, event: e.Event) -> None:
        report = self._report
        report.events += 1
        if report.events > STEPS:
            raise Violation(f"{STEPS:,} events, and no end: {self._stuck()}")
        self._seen(event)
        if self._trace is not None:
            self.trace(f"─▶ {shown(event)}")
        actions = self.core.apply(event, self.now)
        if self._record:
            report.log.append((event, self.now))
            report.answers.append(actions)
        if self._trace is not None:
            for action in actions:
                self.trace(f"        ─▶ {shown(action)}")
        only_heard = isinstance(event, e.NodeHeard) and not actions  # a third of all events, which change a time
        if report.events % self._check_every == 0 and not only_heard:
            invariants.check(self.core)
        for action in actions:
            if isinstance(action, a.Fence):
                self.judge.node_over(action.node)  # whatever comes first in this answer is so because of it
        for action in actions:
            self._carry_out(action)
        if report.events % ASK_EVERY == 0:
            self._ask()

    def _ask(self) -> None:
        """Every task that has not ended has a reason, and to ask for it changes nothing."""
        before = self.core.state_hash()
        waits = self.core.waits()
        for task, case in self.judge.cases.items():
            if case.outcome is None and not waits.get(task):
                raise Violation(f"{name(task)} has not ended, and there is no reason for it")
        for task in waits:
            if not self.core.explain(task):
                raise Violation(f"{name(task)} waits, and there is no explanation")
        if self.core.state_hash() != before:
            raise Violation("asking what tasks wait for has changed something")

    def _over(self) -> bool:
        return self.calm and all(client.over for client in self.clients.values()) and self._settled()

    def _settled(self) -> bool:
        """Everything that was on its way has arrived: nothing is held anywhere, or there was time enough to give it
        back."""
        if self.faults.quiet_since is None:
            self.faults.quiet_since = self.now
            for delay in (SETTLE_SECONDS, GIVE_UP_SECONDS):
                self.later(delay + 0.1, self.trace, "nothing is left to do")
        empty = all(not node.store.used and not node.store.written for node in self.nodes)
        joined = all(node.epoch >= 0 and self.judge.epochs.get(node.number) == node.epoch for node in self.nodes)
        return (
            empty and joined and self.now > self.faults.quiet_since + SETTLE_SECONDS
        ) or self.now > self.faults.quiet_since + GIVE_UP_SECONDS

    def _stuck(self) -> str:
        unfinished = self.judge.unfinished()
        waits = self.core.waits()
        lines = [f"{name(task)}: {waits.get(task, 'it does not say why')}" for task in unfinished[:5]]
        units = [f"{client.unit.number} ({client.unit.kind})" for client in self.clients.values() if not client.over]
        return f"after {self.now:.0f} s units {', '.join(units)} are not over; " + ("; ".join(lines) or "no task waits")

    # ---- events on their way to the core ----------------------------------------------------------

    def _seen(self, event: e.Event) -> None:
        """What the controller's shell does with news before the core gets them."""
        self.judge.told(event)
        match event:
            case e.Finished(node, epoch, results) if epoch == self.judge.epochs.get(node):
                for done in results:
                    self._inline.update(made.object for made in done.made if made.request < 0 and not made.overflow)
            case e.Yielded(node, epoch) if epoch == self.judge.epochs.get(node):
                if event.made.request < 0 and not event.made.overflow:
                    self._inline.add(event.made.object)
            case e.Stored(object_id) if event.inline:
                self._inline.add(object_id)
            case e.Durable(object_id):
                self._durable.add(object_id)
            case _:
                pass
        self.faults.seen(event)

    def _beat(self, link: Link) -> None:
        if link.node.up:
            link.beat()
        self.later(BEAT_SECONDS, self._beat, link)

    def heard(self, node: Node) -> None:
        epoch = self.judge.epochs.get(node.number)
        if epoch is not None:
            self.feed(e.NodeHeard(node.number, epoch))

    def born(self, node: Node) -> None:
        """A node has begun a new life, which proves that the old one is over. Now and then nobody says so."""
        epoch = self.judge.epochs.get(node.number)
        if epoch is not None and self.rng.random() < 0.7:
            self.feed(e.NodeLost(node.number, epoch))

    def _heal(self) -> None:
        self.calm = True
        self.faults.heal()
        for client in self.clients.values():
            if client.unit.cycle:
                self.later(30.0, client.break_cycle)

    def _tick(self, at: float) -> None:
        if self._timer == at:
            self._timer = None
            self.feed(e.Tick())

    # ---- the core's actions -----------------------------------------------------------------------

    def _carry_out(self, action: a.Action) -> None:
        match action:
            case a.SetTimer(at):
                self._timer = at
                self.later(max(0.0, at - self.now), self._tick, at)
            case a.Run(node, epoch, leases):
                for lease in leases:
                    self.judge.leased(node, epoch, lease)
                mapped = {
                    i for lease in leases for i in lease.request.inputs if i in self._durable or i in self._inline
                }
                self._order(node, self.nodes[node].do, action, frozenset(mapped))
            case a.Welcome(node, epoch):
                if epoch <= self.judge.epochs.get(node, -1):
                    raise Violation(f"node {node} is welcomed in epoch {epoch} for the second time")
                self.judge.epochs[node] = epoch
                self._order(node, self.nodes[node].joined, epoch)
            case a.Fence(node):
                self._order(node, self._fenced, self.nodes[node])
            case a.Ended(request):
                self.judge.ended(action)
                self.clients[request.id[0]].told(action, self.judge.cases[request.id].failed)
            case a.Retried():
                self.judge.retried(action)
            case a.Ready(_, _, reader):
                self.judge.ready(action)
                client = self.clients[reader // 1_000]
                if client.waits_for(reader):
                    client.ready(action)
            case a.Lost(object_id):
                self.judge.lost(object_id)
            case a.GroupReserved(group) | a.GroupRefused(group):
                self.clients[group[0]].answered(action)
            case a.Cycle(tasks):
                for unit in {task[0] for task in tasks}:
                    self.clients[unit].cycles.append(set(tasks))
            case a.Throttle(on):
                self._throttled = on
            case a.ActorGone():
                pass
            case _:
                self._order_of_node(action)

    def _order_of_node(self, action: Any) -> None:
        if action.epoch != self.judge.epochs.get(action.node):
            raise Violation(f"{shown(action)} is for an epoch that is over")
        if isinstance(action, a.Kill):
            self.judge.killed(action.id, action.why)
        if isinstance(action, a.Drop):
            inline = [object_id for object_id in action.objects if object_id in self._inline]
            self._inline.difference_update(inline)
            objects = [object_id for object_id in action.objects if object_id not in inline]
            if not objects:
                return
            action = a.Drop(action.node, action.epoch, objects, action.spilled)
        self._order(action.node, self.nodes[action.node].do, action)

    def _order(self, node: int, what: Callable[..., None], *arguments: Any) -> None:
        if node == self.local.number:
            self.later(LOCAL_SECONDS, what, *arguments)
        else:
            self.links[node].order(what, *arguments)

    def _fenced(self, node: Node) -> None:
        node.stop(arena_too=True)
        self.links[node.number].begin()

    # ---- what nodes need of the world -------------------------------------------------------------

    def say(self, number: int, event: e.Event) -> None:
        if number == self.local.number:
            self.later(LOCAL_SECONDS, self.feed, event)
        else:
            self.links[number].say(event)

    def outside(self, object_id: ObjectId) -> int | None:
        there = object_id in self._inline or object_id in self._durable
        return self.values.expected(object_id) if there else None

    def began(self, attempt: Attempt) -> None:
        self.judge.began(attempt)

    def ended(self, attempt: Attempt) -> None:
        self.judge.over(attempt)

    def nested(self, number: int, attempt: Attempt) -> None:
        self.later(0.001, self.clients[attempt.plan.id[0]].blocked, number, attempt)

    def fetch(self, number: int, source: int, object_id: ObjectId) -> Copy | None:
        other = self.nodes[source]
        cut = any(
            link.quality.cut_up or link.quality.cut_down for end, link in self.links.items() if end in (number, source)
        )
        copy = other.store.arena.get(object_id) or other.store.spilled.get(object_id)
        if copy is None or not other.up or cut:
            return None
        if copy.damaged:
            other.say(e.Damaged(source, other.epoch, object_id))
            return None
        return copy

    # ---- what clients need of the world -----------------------------------------------------------

    def resume(self, number: int, attempt: Attempt) -> None:
        self._order(number, self.nodes[number].crew.resume, attempt)

    def value(self, object_id: ObjectId) -> int:
        return self.values.expected(object_id)

    def read(self, object_id: ObjectId) -> bool:
        if self.outside(object_id) is not None:
            return False
        store = self.local.store
        copy = store.arena.get(object_id) or store.spilled.get(object_id)
        if copy is None:
            raise Violation(f"{name(object_id)} is said to be ready on {self.local.capacity.name}, and is not there")
        if copy.damaged:
            self.feed(e.Damaged(self.local.number, self.local.epoch, object_id))
        elif copy.value != self.values.expected(object_id):
            raise Violation(f"{name(object_id)} is read, and is another one than was made")
        if object_id not in store.arena:
            return False  # it has to be read from the spill space
        store.view(object_id)
        return True

    def explained(self, tasks: tuple[TaskId, ...]) -> str:
        waits = self.core.waits()
        return "; ".join(waits.get(task, "nothing") for task in tasks)

    # ---- the truth about objects --------------------------------------------------------------------

    def _exists(self, object_id: ObjectId) -> bool:
        """An intact copy is where the core can have it."""
        if object_id in self._inline or object_id in self._durable:
            return True
        for node in self.nodes:
            if node.up and node.epoch >= 0 and node.epoch == self.judge.epochs.get(node.number):
                for copies in (node.store.arena, node.store.spilled):
                    copy = copies.get(object_id)
                    if copy is not None and not copy.damaged:
                        return True
        return False
