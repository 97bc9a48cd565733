"""The states of a task, of a copy's bytes, and what may follow on what. Imports nothing of ours.

    (submitted) ─▶ WAITING ──inputs exist──▶ QUEUED ──admitted──▶ ADMITTED ──inputs are there──▶ LEASED ◀─▶ BLOCKED
                     ▲ │                      ▲ │                    │                             │
                     │ └──────────────────────┼─┴────────────────────┴──────────▶ ENDED ◀──────────┤
                     └─── an input was lost ──┴── taken back ── PAUSED ◀── attempt lost ───────────┘

A METHOD waits in the mailbox of its actor, not in a queue: it is MAILED instead of QUEUED.
"""

from __future__ import annotations

from typing import Final


class State:
    """Of a task. Plain numbers: they are compared several times for each task."""

    WAITING: Final = 0
    QUEUED: Final = 1
    MAILED: Final = 2
    ADMITTED: Final = 3
    LEASED: Final = 4
    BLOCKED: Final = 5
    PAUSED: Final = 6
    ENDED: Final = 7


STATE_NAMES: Final = ("waiting", "queued", "mailed", "admitted", "leased", "blocked", "paused", "ended")

_S = State
TRANSITIONS: Final[tuple[frozenset[int], ...]] = (
    frozenset({_S.QUEUED, _S.MAILED, _S.ENDED}),
    frozenset({_S.ADMITTED, _S.LEASED, _S.WAITING, _S.QUEUED, _S.ENDED}),
    frozenset({_S.ADMITTED, _S.LEASED, _S.WAITING, _S.ENDED}),
    frozenset({_S.LEASED, _S.QUEUED, _S.MAILED, _S.WAITING, _S.ENDED}),
    frozenset({_S.BLOCKED, _S.QUEUED, _S.MAILED, _S.WAITING, _S.PAUSED, _S.ENDED}),
    frozenset({_S.LEASED, _S.QUEUED, _S.MAILED, _S.WAITING, _S.PAUSED, _S.ENDED}),
    frozenset({_S.QUEUED, _S.WAITING, _S.ENDED}),
    frozenset(),
)
"""By the state that a task is in, those that may follow."""


class Place:
    """Where the bytes of a copy are."""

    AWAY: Final = 0  # not in the arena (but perhaps spilled)
    INCOMING: Final = 1  # room is set aside; restored or fetched
    PRESENT: Final = 2
    SPILLING: Final = 3  # being written; the room is free when that is done
    DAMAGED: Final = 4  # there, and of no use; dropped when nobody reads it
