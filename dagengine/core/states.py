"""The table of a step's transitions. What is not in it is refused with InternalError, and changes nothing.

    recorded          inputs there        submitted          started
NEW ──────────▶ WAITING ──────────▶ READY ─────────▶ SUBMITTED ───────▶ RUNNING
                   │                 ▲ ▲ ▲ ▲ dropped unstarted │             │
                   │                 │ │ │ └──────────────────┘             │
                   │   delay is over │ │ └── lost, or dropped by a drain ───┤
                   │                 │ └───────────── RETRYING ◀── failed, may retry
                   │                 │                                      │
                   │                 └─ (a map) ─▶ EXPANDED ◀── expanded ───┤
                   ├─ (a timer, an event, a child run) ─▶ OUTSIDE ──┐       │ ended
                   ├─ (a task with a cache) ─▶ LOOKING ─▶ READY, or with a value known already ─▶ ENDING
                   │ an input did not succeed, or cancelled         │ ended │
                   └──────────▶ ENDING ◀────────────────────────────┴───────┘
                                  │ recorded
                                  ▼  SUCCEEDED · FAILED · SKIPPED · CANCELLED

Where values can be lost (core/ephemeral.py), a step goes back to WAITING from READY, SUBMITTED and RUNNING when an input
is gone, and from SUCCEEDED when its own value is to be made again.
A call on a stateful object is PARKED between READY and SUBMITTED while the object's state is being rebuilt; if that fails,
it is RETRYING, or ends.

A step whose value is known when it is called goes from NEW to ENDING.

A step is NEW until its record is durable, and ENDING until its end is: nobody may build on either before.
"""

from __future__ import annotations

from enum import IntEnum

from dagengine.model import StepState


class Phase(IntEnum):
    NEW = 0  # asked to record
    WAITING = 1  # for inputs
    READY = 2  # may run
    SUBMITTED = 3  # the runtime has it
    RUNNING = 4  # a worker has it
    RETRYING = 5  # waits for the delay before the next attempt
    EXPANDED = 6  # a map that waits for its items
    PARKED = 7  # a call that waits until the state of its object is rebuilt
    OUTSIDE = 8  # waits for the world: its time, an event, a child run
    LOOKING = 9  # whether its value is in the cache, or about to be
    ENDING = 10  # asked to record its end
    SUCCEEDED = 11
    FAILED = 12
    SKIPPED = 13
    CANCELLED = 14


P = Phase

TRANSITIONS: dict[Phase, frozenset[Phase]] = {
    P.NEW: frozenset({P.WAITING, P.ENDING}),
    P.WAITING: frozenset({P.READY, P.EXPANDED, P.OUTSIDE, P.LOOKING, P.ENDING}),
    P.READY: frozenset({P.SUBMITTED, P.WAITING, P.PARKED, P.ENDING}),
    P.SUBMITTED: frozenset({P.RUNNING, P.READY, P.WAITING, P.RETRYING, P.EXPANDED, P.ENDING}),
    P.RUNNING: frozenset({P.READY, P.WAITING, P.RETRYING, P.EXPANDED, P.ENDING}),
    P.RETRYING: frozenset({P.READY, P.ENDING}),
    P.EXPANDED: frozenset({P.ENDING}),
    P.PARKED: frozenset({P.READY, P.RETRYING, P.ENDING}),
    P.OUTSIDE: frozenset({P.ENDING}),
    P.LOOKING: frozenset({P.READY, P.ENDING}),
    P.ENDING: frozenset({P.SUCCEEDED, P.FAILED, P.SKIPPED, P.CANCELLED}),
    P.SUCCEEDED: frozenset({P.WAITING, P.EXPANDED}),
    P.FAILED: frozenset(),
    P.SKIPPED: frozenset(),
    P.CANCELLED: frozenset(),
}

ENDS: dict[StepState, Phase] = {
    StepState.SUCCEEDED: P.SUCCEEDED,
    StepState.FAILED: P.FAILED,
    StepState.SKIPPED: P.SKIPPED,
    StepState.CANCELLED: P.CANCELLED,
}

STATE_OF: dict[Phase, StepState] = {
    P.NEW: StepState.WAITING,
    P.WAITING: StepState.WAITING,
    P.READY: StepState.READY,
    P.SUBMITTED: StepState.READY,
    P.RUNNING: StepState.RUNNING,
    P.RETRYING: StepState.RETRYING,
    P.EXPANDED: StepState.WAITING,
    P.PARKED: StepState.READY,
    P.OUTSIDE: StepState.WAITING,
    P.LOOKING: StepState.READY,
    P.ENDING: StepState.RUNNING,
    P.SUCCEEDED: StepState.SUCCEEDED,
    P.FAILED: StepState.FAILED,
    P.SKIPPED: StepState.SKIPPED,
    P.CANCELLED: StepState.CANCELLED,
}
"""How each phase looks to people."""


class BodyPhase(IntEnum):
    OPEN = 0  # is called, or will be
    RETURNED = 1  # closed, with a result: never called again
    RAISED = 2  # its exception is the run's, once all steps have ended
    STOPPED = 3  # let go of, because the run stops; called again on resume


class Stop(IntEnum):
    """Why a run ends before its steps do. A later, higher one wins."""

    NO = 0
    INTERRUPT = 1  # drain: let attempts end, start none
    PAUSE = 2  # the same, until a person lets it go on
    TIMEOUT = 3
    MISMATCH = 4
    CANCEL = 5
