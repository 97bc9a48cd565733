"""What the steps of one run wait for in the world: their time, signals, child runs.

The run core says which steps those are (`arrange`), this sees to it that something will end each of them, and tells the
core when it does. Due times are the engine's timers. Signals are read from the store: when a step begins to wait, when
somebody says that one came (`look`), and once more before the run is let go of (`dagengine.sleeping`); nobody polls.

    arrange ─▶ [reading, on a helper thread] ─▶ found: timers set, signals given to steps, in their order
    turned ─▶ quiet for a while? ─▶ [reading once more] ─▶ nothing found: the run is let go of

A timer is due its seconds after its step was recorded. A signal goes to the first step that waits for its name; it is
taken in the batch of that step's end, so whoever takes the run over finds it there, or taken.

A run is let go of when its body waits for the engine and nothing else, and all that is left of it waits for the world: if
that is so LINGER seconds later still, and the next thing that is due is at least SHORT seconds away.

On the engine's thread. May import everything that the driver may.
"""

from __future__ import annotations

import heapq
import time
from collections import deque
from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from dagengine import children
from dagengine.core.core import RunCore
from dagengine.core.events import Event, LetGo, OutsideEnded
from dagengine.core.states import Phase
from dagengine.core.step import Step
from dagengine.model import EventRecord, Failure, StepKind, StepState, Value
from dagengine.storage.writes import AddEvent
from dagengine.values import decode, encode

LINGER = 0.3
"""Seconds for which a run that waits stays loaded: a signal that answers what it has just done finds it there."""

LINGER_FOR_TIME = 0.02
"""The same where nothing but time is waited for."""

SHORT = 1.0
"""Seconds. To let go of a run and take it up again costs some milliseconds and two commits: not worth it for less."""

EVERYTHING = 2**31 - 1
"""In place of the number of the last signal seen, where no signal is waited for."""


if TYPE_CHECKING:
    from dagengine.driver import Driver
    from dagengine.storage.signals import Signal


class Waits(NamedTuple):
    """What a step waits for. `due`: when it stops to wait; `event`: the signals that it is for; `default`: encoded."""

    due: float | None
    event: str | None = None
    default: bytes | None = None


class _Read(NamedTuple):
    """What was read: when the steps were recorded, new signals, up to which number, and what else came."""

    created: dict[int, float]
    signals: list[Signal]
    latest: int
    events: list[Event]


class Outside:
    """Of one run."""

    def __init__(self, driver: Driver, core: RunCore) -> None:
        self._driver = driver
        self._core = core
        self.waits: dict[int, Waits] = {}  # steps that were arranged and have not ended, as far as is known here
        self.latest = 0  # signals up to this number were looked at
        self._steps_for: dict[str, list[int]] = {}  # by event: a heap of the steps that wait for it
        self._signals: dict[str, deque[Signal]] = {}  # by event: come, and not taken
        self._children: dict[int, Step] = {}  # steps of child runs that have not ended, as far as is known here
        self._arranging: list[int] = []
        self._reading = False
        self._again = False
        self._turns = 0
        self._lingering = False

    # ---- begin --------------------------------------------------------------------------------

    def arrange(self, seqs: Iterable[int]) -> None:
        """These steps wait for the world from now on."""
        self._arranging += seqs
        self.look()

    def look(self) -> None:
        """Something may have come for the run."""
        if self._reading:
            self._again = True
            return
        self._reading = True
        self._again = False
        arranging, self._arranging = self._arranging, []
        steps = [step for seq in arranging if (step := self._core.steps.get(seq)) and step.phase is Phase.OUTSIDE]
        self._children.update((step.seq, step) for step in steps if step.kind is StepKind.CHILD)
        timed = [step.seq for step in steps if step.kind in (StepKind.TIMER, StepKind.EVENT)]
        events = self._listens or any(step.kind is StepKind.EVENT for step in steps)
        self._read(arranging, timed, events)

    def _read(self, arranging: list[int], timed: list[int], events: bool, turn: int | None = None) -> None:
        """Ask the store, on a helper thread."""
        from dagengine.storage.signals import untaken

        driver, after, runs = self._driver, self.latest, dict(self._children)
        store, run = driver.engine.store, driver.claim.run_number

        def job() -> None:
            created = {step.seq: step.created_at for step in store.steps(run, seqs=timed)} if timed else {}
            latest, signals = untaken(store, run, after) if events else (after, [])
            ends = children.seen_to(driver, [runs[seq] for seq in arranging if seq in runs], runs.values())
            found = _Read(created, signals, latest, ends)
            driver.engine.tell(driver, partial(self._found, arranging, found, turn))

        driver.engine.helpers.work_for(driver, job)

    @property
    def _listens(self) -> bool:
        """Whether something may come for the run that has no time of its own."""
        return bool(self._steps_for or self._children)

    def hint(self) -> None:
        """Somebody says that something came."""
        if self._listens:
            self.look()

    # ---- what was read --------------------------------------------------------------------------

    def _found(self, arranging: list[int], read: _Read, turn: int | None) -> None:
        """`turn`: the last one, if this was read in order to let go of the run."""
        if self._driver.ended.is_set() or self._core.finish_asked:
            return
        self._reading = False
        self.latest = max(self.latest, read.latest)
        names = {signal.name for signal in read.signals}
        for signal in read.signals:
            self._signals.setdefault(signal.name, deque()).append(signal)
        for seq in arranging:
            step = self._core.steps.get(seq)
            if step is not None and step.phase is Phase.OUTSIDE and step.call is not None:
                waits = self.waits[seq] = _waits(step.kind, step.call, read.created.get(seq, 0.0))
                if waits.event is not None:
                    heapq.heappush(self._steps_for.setdefault(waits.event, []), seq)
                    names.add(waits.event)
                if waits.due is not None:
                    self._driver.engine.timers.at(waits.due, self._driver, self._in_time(seq, step.key, waits))
        events = [*read.events, *(event for name in sorted(names) for event in self._deliver(name))]
        if events:
            self._driver.turn(events)
        if self._again or self._arranging:
            self.look()
        elif turn == self._turns and self._may_sleep():
            self._sleep()

    # ---- letting go -----------------------------------------------------------------------------

    def turned(self) -> None:
        """Something happened in the run."""
        self._turns += 1
        if self._core.world and not self._lingering:
            self._linger()

    def _linger(self) -> None:
        self._lingering = True
        seconds = LINGER if self._listens else min(LINGER, LINGER_FOR_TIME)
        self._driver.engine.after(seconds, self._driver, partial(self._lingered, self._turns))

    def _lingered(self, turn: int) -> None:
        self._lingering = False
        if turn != self._turns or self._reading:
            self._linger()
        elif self._may_sleep():
            self._reading = True
            self._read([], [], self._listens, turn)

    def _may_sleep(self) -> bool:
        if not self._driver.is_idle or not self._core.quiet():
            return False
        due = self._next_due()
        return due is None or due > self._driver.engine.clock.now() + SHORT

    def _open(self) -> list[int]:
        steps = self._core.steps
        return [seq for seq in self.waits if (step := steps.get(seq)) is not None and step.phase is Phase.OUTSIDE]

    def _next_due(self) -> float | None:
        return min((due for seq in self._open() if (due := self.waits[seq].due) is not None), default=None)

    def _sleep(self) -> None:
        from dagengine.storage.sleepers import falls_asleep

        timers_only = not any(self.waits[seq].event is not None or self.waits[seq].due is None for seq in self._open())
        engine, wake_at = self._driver.engine, self._next_due()
        seen = EVERYTHING if timers_only else self.latest
        process = engine.process.id if engine.sleeping.wakes else None
        note = AddEvent(EventRecord(engine.clock.now(), "run.waiting", None, {"until": wake_at}))
        self._driver.turn([LetGo((falls_asleep(self._driver.run_id, wake_at, seen, process), note))])

    def _in_time(self, seq: int, key: str, waits: Waits) -> OutsideEnded:
        """The step's end if nothing comes before it is due."""
        assert waits.due is not None
        if waits.event is None:
            return OutsideEnded(seq, StepState.SUCCEEDED, waits.due, NOTHING)
        if waits.default is not None:
            return OutsideEnded(seq, StepState.SUCCEEDED, waits.due, value_of(waits.default))
        name = waits.event.partition(":")[2] or waits.event
        message = f"{key}: nobody sent {name} in time"
        failure = Failure("event", "dagengine.errors.EventTimeout", message, facts={"event": name}, retriable=False)
        return OutsideEnded(seq, StepState.FAILED, waits.due, failure=failure)

    def _deliver(self, name: str) -> list[Event]:
        """Give the signals of that name to the steps that wait for it, the first to the first."""
        from dagengine.storage.signals import take

        steps, signals = self._steps_for.get(name, []), self._signals.get(name, deque())
        events: list[Event] = []
        while steps and signals:
            seq = heapq.heappop(steps)
            step = self._core.steps.get(seq)
            if step is not None and step.phase is Phase.OUTSIDE and not self._core.finish_asked:
                signal = signals.popleft()
                end = OutsideEnded(seq, StepState.SUCCEEDED, self._driver.engine.clock.now(), signal.value)
                end.also = (take(signal.number, seq),)
                events.append(end)
        if not steps:
            self._steps_for.pop(name, None)
        if not signals:
            self._signals.pop(name, None)
        return events

    def told(self) -> dict[int, str]:
        """What the steps wait for, for people."""
        return {seq: _told(waits) for seq, waits in self.waits.items()}

    def ended(self, seq: int) -> None:
        """The step's end is durable."""
        self.waits.pop(seq, None)
        self._children.pop(seq, None)


def _waits(kind: StepKind, call: bytes, created: float) -> Waits:
    """What a recorded call of `dagengine.moments` or `dagengine.events` waits for; it holds plain data only."""
    if kind is StepKind.CHILD:
        return Waits(None)
    args, kwargs = decode(call)
    if kind is StepKind.TIMER:
        return Waits(created + args[0])
    timeout = kwargs.get("timeout")
    return Waits(None if timeout is None else created + timeout, args[0], kwargs.get("default"))


def _told(waits: Waits) -> str:
    name, until = waits.event, ""
    if waits.due is not None:
        until = f"until {time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(waits.due))}"
    if name is None:
        return until or "for the run that it began"
    return f"for {'an approval of ' if ':' in name else 'the signal '}{name.rpartition(':')[2]}{until and ', ' + until}"


def value_of(data: bytes) -> Value:
    """A small encoded value as it is recorded."""
    from hashlib import sha256

    return Value(sha256(data).hexdigest(), len(data), data)


NOTHING = value_of(encode(None).to_bytes())
"""What a timer's step is worth."""
