"""The network between the controller and one simulated node: two ends of a session over a line that may be bad.

    node ── beat every BEAT_SECONDS ──▶ controller: NodeHeard for the core, and an echo of the beat
    node ◀── echo ───────────────────── heard: as of the time when the *beat* was sent, so that a slow echo can't
                                        make the node believe that it is known to live when it no longer is

A node that has heard nothing for STOP_SECONDS ends its workers and begins a new life, before the core, which has waited
at least DEAD_SECONDS since the same beat, gives its work to others. Both ends send again with each beat.

May import nothing of ours but the simulator's other modules and the core's words.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any, Final, NamedTuple, Protocol

from dagengine.runtime.core import events as e
from dagengine.runtime.simulation.node import Node
from dagengine.runtime.simulation.session import Frame, Session

BEAT_SECONDS: Final = 1.0
STOP_SECONDS: Final = 8.0


class Beat(NamedTuple):
    sent_at: float


class Order(NamedTuple):
    """From the controller to the node: call `what` of the node's end with these."""

    what: Callable[..., None]
    arguments: tuple[Any, ...]


@dataclass(slots=True)
class Quality:
    """Seconds of delay, chances of loss and repetition, and whether a direction is cut."""

    least: float = 0.001
    most: float = 0.002
    loss: float = 0.0
    repeat: float = 0.0
    cut_up: bool = False
    cut_down: bool = False


class Ends(Protocol):
    """What a link needs of the world."""

    now: float
    rng: Random

    def later(self, delay: float, what: Callable[..., None], *arguments: Any) -> None: ...

    def feed(self, event: e.Event) -> None:
        """Hand news to the core."""

    def born(self, node: Node) -> None:
        """A new life of the node is seen, and the old one thereby over."""

    def heard(self, node: Node) -> None: ...


class Link:
    def __init__(self, node: Node, world: Ends) -> None:
        self.node = node
        self.world = world
        self.quality = Quality()
        self.heard_at = 0.0
        self._up = Session(node.life)  # the node's end
        self._down = Session(-1)  # the controller's

    # ---- the node's end ---------------------------------------------------------------------------

    def begin(self) -> None:
        """A new life of the node's: it joins."""
        self._up = Session(self.node.life)
        self.heard_at = self.world.now
        self.node.join()

    def say(self, event: e.Event) -> None:
        self._send_up(self._up.send(event, self.world.now))

    def beat(self) -> None:
        """Every BEAT_SECONDS, while the node is up."""
        now = self.world.now
        if now - self.heard_at > STOP_SECONDS:
            self.node.stop(arena_too=False)
            self.begin()
        self._send_up(Frame(self.node.life, -1, self._up.acknowledge().acknowledged, Beat(now)))
        for frame in self._up.resend(now):
            self._send_up(frame)

    def _arrive_down(self, frame: Frame) -> None:
        if not self.node.up or frame.life != self._up.life:
            return
        if isinstance(frame.body, Beat):
            self.heard_at = max(self.heard_at, frame.body.sent_at)
        life = self.node.life
        for order in self._up.receive(frame):
            assert isinstance(order, Order)
            order.what(*order.arguments)
            if self.node.life != life:
                return  # it was told to begin anew; what came after that was for the old one

    # ---- the controller's end ---------------------------------------------------------------------

    def order(self, what: Callable[..., None], *arguments: Any) -> None:
        self._send_down(self._down.send(Order(what, arguments), self.world.now))

    def _arrive_up(self, frame: Frame) -> None:
        if frame.life > self._down.life:
            self._down = Session(frame.life)
            self.world.born(self.node)
        for event in self._down.receive(frame):
            self.world.feed(event)  # type: ignore[arg-type]
        if isinstance(frame.body, Beat) and frame.life == self._down.life:
            self.world.heard(self.node)
            self._send_down(Frame(frame.life, -1, self._down.acknowledge().acknowledged, frame.body))
            for again in self._down.resend(self.world.now):
                self._send_down(again)

    # ---- the line ---------------------------------------------------------------------------------

    def _send_up(self, frame: Frame) -> None:
        self._transmit(self.quality.cut_up, self._arrive_up, frame)

    def _send_down(self, frame: Frame) -> None:
        self._transmit(self.quality.cut_down, self._arrive_down, frame)

    def _transmit(self, cut: bool, arrive: Callable[[Frame], None], frame: Frame) -> None:
        quality, rng = self.quality, self.world.rng
        if cut or (quality.loss and rng.random() < quality.loss):
            return
        self.world.later(rng.uniform(quality.least, quality.most), arrive, frame)
        if quality.repeat and rng.random() < quality.repeat:
            self.world.later(rng.uniform(quality.least, quality.most), arrive, frame)
