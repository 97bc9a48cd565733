"""What goes wrong in a simulated run, and the healing of it.

worker: one dies under an attempt        crash: a node's process dies, and starts again after a while
cut: nobody hears anybody                cut up, cut down: only one direction
line: delays, losses, repetitions        spills: writes or restores fail             disk: the spill space is full
damage: bytes are not what they were     pressure: a node's own memory runs out      echo: old news come again
closing: whoever submits wants to end (no fault, but it comes as unexpectedly)

May import nothing of ours but the simulator's other modules and the core's words.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from random import Random
from typing import Any, Final, Protocol

from dagengine.runtime.core import events as e
from dagengine.runtime.simulation.clients import Client
from dagengine.runtime.simulation.judge import Judge
from dagengine.runtime.simulation.network import Link, Quality
from dagengine.runtime.simulation.node import Node
from dagengine.runtime.simulation.plans import Violation
from dagengine.runtime.simulation.scenario import Fault

PLENTY: Final = 1 << 40
REMEMBERED: Final = 300
"""News that an echo may bring again: the last ones."""

SILENCE_SECONDS: Final = 13.0
"""After which a node that is not heard has been given up: the core's ten, and what lies between two of its looks."""


class Faulty(Protocol):
    """What faults need of the world."""

    rng: Random
    nodes: list[Node]
    links: dict[int, Link]
    judge: Judge
    clients: dict[int, Client]

    def later(self, delay: float, what: Callable[..., None], *arguments: Any) -> None: ...

    def feed(self, event: e.Event) -> None: ...

    def trace(self, text: str) -> None: ...


class Faults:
    """`quiet_since`: when the clients had done. `full`: the spill spaces stay small also when all is healed."""

    def __init__(self, faults: Sequence[Fault], world: Faulty, full: bool) -> None:
        self.world = world
        self._full = full
        self.quiet_since: float | None = None
        self._old: deque[e.Event] = deque(maxlen=REMEMBERED)
        self._heard: dict[int, set[int]] = {}
        self._keeps = any(fault.kind == "echo" for fault in faults)
        self._handlers: dict[str, Callable[[Fault, Node], None]] = {
            "worker": self._worker,
            "crash": self._crash,
            "cut": self._cut,
            "cut up": self._cut,
            "cut down": self._cut,
            "line": self._line,
            "spills": self._spills,
            "disk": self._disk,
            "damage": self._damage,
            "pressure": self._pressure,
            "echo": self._echo,
            "closing": self._closing,
        }
        for fault in faults:
            world.later(fault.at, self._strike, fault)

    def _strike(self, fault: Fault) -> None:
        self.world.trace(f"!! {fault.kind} on node {fault.node} for {fault.seconds} s")
        self._handlers[fault.kind](fault, self.world.nodes[fault.node])

    def heal(self) -> None:
        """From here on nothing goes wrong."""
        self.world.trace("!! healing")
        for node in self.world.nodes:
            node.fail_spills = node.fail_restores = 0
            if not self._full:
                node.store.disk = PLENTY
            self._return(node)
        for link in self.world.links.values():
            link.quality = Quality()

    # ---- workers and nodes ----------------------------------------------------------------------

    def _worker(self, fault: Fault, node: Node) -> None:
        if not node.up:
            return
        running = [
            attempt for attempt in node.crew.attempts.values() if attempt.state in ("running", "blocked", "actor")
        ]
        if running:
            node.crew.lose(self.world.rng.choice(running))

    def _crash(self, fault: Fault, node: Node) -> None:
        if not node.up:
            return
        epoch = node.epoch
        node.stop(arena_too=True)
        node.up = False
        if fault.amount < 0.5 and epoch >= 0:  # seen at once; else silence has to tell
            self.world.later(0.01, self.world.feed, e.NodeLost(node.number, epoch))
        elif epoch in self._heard.get(node.number, ()):
            self.world.later(SILENCE_SECONDS, self._given_up, node, epoch)
        self.world.later(fault.seconds, self._return, node)

    def _given_up(self, node: Node, epoch: int) -> None:
        if self.world.judge.epochs.get(node.number) == epoch:
            raise Violation(f"{node.capacity.name} has said nothing for {SILENCE_SECONDS} s, and is not given up")

    def _return(self, node: Node) -> None:
        if not node.up:
            node.up = True
            self.world.links[node.number].begin()

    # ---- the line -------------------------------------------------------------------------------

    def _cut(self, fault: Fault, node: Node) -> None:
        quality = self.world.links[node.number].quality
        quality.cut_up = quality.cut_up or fault.kind != "cut down"
        quality.cut_down = quality.cut_down or fault.kind != "cut up"
        self.world.later(fault.seconds, self._mend, node)

    def _mend(self, node: Node) -> None:
        quality = self.world.links[node.number].quality
        quality.cut_up = quality.cut_down = False

    def _line(self, fault: Fault, node: Node) -> None:
        quality = self.world.links[node.number].quality
        quality.most = 0.002 + fault.amount
        quality.loss = fault.amount / 3
        quality.repeat = fault.amount / 2

    # ---- disks and bytes ------------------------------------------------------------------------

    def _spills(self, fault: Fault, node: Node) -> None:
        if fault.amount < 0.5:
            node.fail_spills = 3
        else:
            node.fail_restores = 2

    def _disk(self, fault: Fault, node: Node) -> None:
        node.store.disk = node.store.written

    def _damage(self, fault: Fault, node: Node) -> None:
        copies = [*node.store.arena.values()] if fault.amount < 0.5 else [*node.store.spilled.values()]
        if copies:
            self.world.rng.choice(copies).damaged = True

    # ---- memory, and old news ---------------------------------------------------------------------

    def _pressure(self, fault: Fault, node: Node) -> None:
        if node.up and node.epoch >= 0:
            limit = node.capacity.memory
            node.high_memory(int(limit * (0.96 + fault.amount / 20)), limit)
            self.world.later(min(1.0, fault.seconds), self._relief, node, node.life)

    def _relief(self, node: Node, life: int) -> None:
        if node.up and node.epoch >= 0 and node.life == life:
            node.high_memory(node.capacity.memory // 2, node.capacity.memory)

    def _closing(self, fault: Fault, node: Node) -> None:
        self.world.feed(e.Closing(force=fault.amount < 0.5))
        for client in self.world.clients.values():
            client.close()

    def seen(self, event: e.Event) -> None:
        """Kept for an echo: the news of a node that name an epoch."""
        if isinstance(event, e.NodeHeard):
            self._heard.setdefault(event.node, set()).add(event.epoch)
        if self._keeps and hasattr(event, "epoch"):
            self._old.append(event)

    def _echo(self, fault: Fault, node: Node) -> None:
        """News of an epoch that is over, and ends of attempts, may come at any time: the core must not listen."""
        for event in list(self._old):
            assert not isinstance(event, e.NodeJoined)
            ends = isinstance(event, (e.Finished, e.AttemptLost, e.AttemptReturned, e.AttemptTimedOut))
            if event.epoch != self.world.judge.epochs.get(event.node) or ends:  # type: ignore[union-attr]
                self.world.feed(event)
