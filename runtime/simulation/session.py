"""A session: messages over a network that delays, loses, repeats and reorders, each once and in order. Pure.

Two ends, each with a `Session` of the same `life`. A life is a number that the node raises whenever it begins anew
(after a crash, or because it was cut off for too long), so nothing that was under way before can be taken for something
of now: frames of another life are not looked at.

    send ─▶ Frame(number, acknowledged, body) ─▶ network ─▶ receive ─▶ bodies in order, each once

What is not acknowledged is sent again by `resend`, which whoever owns the session calls from time to time. Kept in
memory: what is not acknowledged, and at most WINDOW frames that came before those they follow.

May import nothing of ours.
"""

from __future__ import annotations

from typing import Final, NamedTuple

WINDOW: Final = 1024
"""Frames that came too early and are kept. Those beyond are thrown away: they are sent again."""

RESEND_SECONDS: Final = 0.3
"""How long to wait for an acknowledgement. About the longest round trip that is worth waiting for."""

RESEND_FRAMES: Final = 64
"""At most so many are sent again at a time; the acknowledgement of these lets the next ones go."""


class Frame(NamedTuple):
    """`number`: of the message, from 0; -1: there is none. `acknowledged`: all below this number have arrived."""

    life: int
    number: int
    acknowledged: int
    body: object = None


class Session:
    """One end."""

    def __init__(self, life: int) -> None:
        self.life = life
        self._next = 0
        self._expected = 0
        self._sent: dict[int, tuple[float, object]] = {}  # in the order of their numbers
        self._early: dict[int, object] = {}

    def send(self, body: object, now: float) -> Frame:
        number = self._next
        self._next += 1
        self._sent[number] = (now, body)
        return Frame(self.life, number, self._expected, body)

    def receive(self, frame: Frame) -> list[object]:
        """The messages that this frame lets through, in the order in which they were sent."""
        if frame.life != self.life:
            return []
        while self._sent and (first := next(iter(self._sent))) < frame.acknowledged:
            del self._sent[first]
        if frame.number < self._expected or frame.number >= self._expected + WINDOW:
            return []
        self._early[frame.number] = frame.body
        arrived = []
        while self._expected in self._early:
            arrived.append(self._early.pop(self._expected))
            self._expected += 1
        return arrived

    def acknowledge(self) -> Frame:
        """A frame that carries nothing else."""
        return Frame(self.life, -1, self._expected)

    def resend(self, now: float) -> list[Frame]:
        """The oldest frames that have waited too long. They count as sent now."""
        frames: list[Frame] = []
        for number, (at, body) in self._sent.items():
            if len(frames) == RESEND_FRAMES or now - at < RESEND_SECONDS:
                break
            frames.append(Frame(self.life, number, self._expected, body))
        for frame in frames:
            self._sent[frame.number] = (now, frame.body)
        return frames

    @property
    def unacknowledged(self) -> int:
        return len(self._sent)
