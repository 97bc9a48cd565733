"""Runs that wait without a process: when one is let go of, and who takes it up again.

    driver has nothing to do   ── LINGER later, still so ──▶  last look at the store ──▶  LetGo: WAITING, no owner
    its time comes, a signal   ──────────────────────────▶  claimed, loaded, its body called again

The run leaves nothing behind here but its `Life` and, if there is one, a timer. What wakes it is in the store: whoever
finds that it is due may take it up (`dagengine serve` does, and `resume`); the engine that let go of it does so itself, for
as long as it is open. A run that was let go of while something came for it, or while somebody asked it to stop, is due at
once: that is looked for afterwards.

So that ten thousand that are due at the same time are no crowd, WAKING are taken up at a time; the next one is when
one of these has ended or waits again.

On the engine's thread, except where it says otherwise. May import everything that the engine may.
"""

from __future__ import annotations

import threading
from collections import deque
from functools import partial
from typing import TYPE_CHECKING

from dagengine.core.states import Stop
from dagengine.errors import DagengineError, Fenced, RunOwned
from dagengine.model import RunState

if TYPE_CHECKING:
    from dagengine.driver import Driver
    from dagengine.engine import Engine
    from dagengine.life import Life

WAKING = 32
"""Runs that were taken up again and have not ended, or been let go of, since: each has a body with a thread."""


JOIN_SECONDS = 1.0
"""For the thread of a body that waits to end, which takes it no time unless it catches what it may not."""


class Sleeping:
    """Of one engine. `wakes`: whether it takes up again what it let go of."""

    def __init__(self, engine: Engine, wakes: bool) -> None:
        self.wakes = wakes
        self._engine = engine
        self._lock = threading.Lock()
        self._lives: dict[str, Life] = {}  # by run id
        self._to_wake: deque[Life] = deque()
        self._woken: set[str] = set()  # run ids
        self._taking = 0  # helper threads that take runs up now
        self._settled = threading.Condition(self._lock)
        self._closed = False

    # ---- from any thread ------------------------------------------------------------------------

    def life(self, run_id: str) -> Life | None:
        return self._lives.get(run_id)

    def knows(self, run_id: str) -> bool:
        """Whether the run is to be woken from here, or has been."""
        with self._lock:
            waiting = run_id in self._lives or run_id in self._woken
            return waiting or any(life.run_id == run_id for life in self._to_wake)

    def look(self, run_id: str) -> bool:
        """Something came for the run, or it was cancelled: take it up. False if it does not sleep here."""
        life = self._lives.get(run_id)
        if life is None:
            return False
        self._wake(life)
        return True

    def taken(self, run_id: str) -> Life | None:
        """Somebody has this engine take up the run: it is woken by that."""
        with self._lock:
            return self._lives.pop(run_id, None)

    def hand_over(self, life: Life) -> None:
        """Whoever has this engine take up the run of this life gets it."""
        with self._lock:
            self._lives[life.run_id] = life

    def close(self) -> None:
        """What is let go of from now on is not woken from here."""
        with self._lock:
            self._closed = True
        self.let_go()

    def look_all(self) -> None:
        """Look for those that something came for, from another machine maybe: where heartbeats are, with each of them."""
        from dagengine.storage.sleepers import due

        if self._lives:
            for found in due(self._engine.store, 0.0):
                self.look(found.id)

    def let_go(self) -> None:
        """What sleeps now is not woken from here; what is being woken is, when this returns."""
        with self._lock:
            lives, self._lives = [*self._lives.values(), *self._to_wake], {}
            self._to_wake.clear()
            self._settled.wait_for(lambda: not self._taking)
        for life in lives:
            life.end(RunState.WAITING)

    def let_go_of(self, run_id: str) -> None:
        """This run is not woken from here, if it sleeps."""
        life = self.taken(run_id)
        if life is not None:
            life.end(RunState.WAITING)

    # ---- falling asleep -------------------------------------------------------------------------

    def fell_asleep(self, driver: Driver, stop: Stop) -> None:
        """The driver's run is WAITING in the store. `stop`: what was asked of it, meanwhile."""
        life = driver.life
        life.driver = None
        cancelled = stop is Stop.CANCEL
        with self._lock:
            closed = self._closed
            stays = self.wakes and not closed and (cancelled or not stop)
            if stays:
                # Before it is said to wait: whoever sees that, and closes this or takes the run up, finds it here.
                self._lives[life.run_id] = life
                life.state = RunState.WAITING
        if not stays:
            if cancelled and closed:
                self._engine.helpers.submit(self._cancel, life)
                return
            life.end(RunState.WAITING)
            self.ended(life.run_id)
            return
        self.ended(life.run_id)
        if cancelled:
            self._wake(life)
        else:
            self._engine.helpers.submit(self._schedule, life, driver)

    def _schedule(self, life: Life, driver: Driver) -> None:
        """On a helper thread. What came while the run fell asleep has made it due."""
        from dagengine.storage.sleepers import sleeper

        if driver.join_body(JOIN_SECONDS):
            self._engine.do(driver.dismantle)
        try:
            found = sleeper(self._engine.store, life.number)
        except DagengineError as error:
            self._give_up(life, error)
            return
        if found is None:
            self._wake(life)  # somebody has it already: see who
        elif found.wake_at is not None:
            self._engine.do(partial(self._engine.timers.at, found.wake_at, None, partial(self._wake, life)))

    def _cancel(self, life: Life) -> None:
        """On a helper thread. The run was to be cancelled when it had just been let go of, and nothing is woken any more.

        It comes after its children: until it is cancelled it is due, for whoever goes on if this process dies here.
        """
        from dagengine.below import children_of
        from dagengine.storage.sleepers import forget

        engine, store = self._engine, self._engine.store
        try:
            for child in children_of(store, store.find_run(life.run_id)):
                if child.state is not RunState.SUCCEEDED:
                    engine.cancel(child.id)
            state = store.request_cancel(life.run_id, engine.clock.now())
            forget(store, life.number)
            life.end(state)
        except DagengineError as error:
            life.end(RunState.WAITING, error)
        self.ended(life.run_id)

    def _give_up(self, life: Life, error: BaseException) -> None:
        with self._lock:
            self._lives.pop(life.run_id, None)
        life.end(RunState.WAITING, error)

    # ---- waking ---------------------------------------------------------------------------------

    def _wake(self, life: Life) -> None:
        """From any thread."""
        with self._lock:
            if self._lives.pop(life.run_id, None) is None:
                return  # it was woken already
            self._to_wake.append(life)
        self._next()

    def ended(self, run_id: str) -> None:
        """The run has no driver any more: it has ended, or waits again. From any thread."""
        with self._lock:
            self._woken.discard(run_id)
        if self._to_wake:
            self._next()

    def _next(self) -> None:
        while True:
            with self._lock:
                if not self._to_wake or len(self._woken) >= WAKING:
                    return
                life = self._to_wake.popleft()
                self._woken.add(life.run_id)
                self._taking += 1
            self._engine.helpers.submit(self._take_up, life)

    def _take_up(self, life: Life) -> None:
        """On a helper thread."""
        try:
            taken = self._took_up(life)
        finally:
            with self._lock:
                self._taking -= 1
                self._settled.notify_all()
        if not taken:
            self.ended(life.run_id)

    def _took_up(self, life: Life) -> bool:
        from dagengine.storage.sleepers import forget
        from dagengine.taking_up import wake_up

        try:
            record = self._engine.store.find_run(life.run_id)
            if record.state is RunState.WAITING:
                wake_up(self._engine, record, life)
                return True
            if record.state.ended:
                if record.state is not RunState.PAUSED:  # it may have been let go on since
                    forget(self._engine.store, record.number)
                life.end(record.state)
            else:
                life.end(
                    record.state, Fenced(f"another process has taken up run {life.run_id[:8]}", run_id=life.run_id)
                )
        except RunOwned as error:
            life.end(RunState.RUNNING, error)
        except BaseException as error:
            life.end(RunState.WAITING, error)
        return False
