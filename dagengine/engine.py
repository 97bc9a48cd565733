"""The controller of one process: it owns a store, a runtime and the runs that this process has claimed.

Everything comes as messages, in one order: what bodies post, what the runtime reports, what the store has committed, what
timers say and what people ask. A *turn* (`turns`) sorts some of these by run and gives each run's driver its share; so runs
share commits and frames, and nothing but a turn touches a run's core. There is one at a time, mostly on a thread that is
there for it; "on the engine's thread" means: in a turn. It waits for nothing: artifacts are made durable on threads of their
own, bodies have theirs.

May import everything but the command line.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import gc
import itertools
import json
import platform
import threading
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from dagengine import cancelling, compensating, config, taking_up
from dagengine.answers import Question, answer
from dagengine.attempts import run_of, shared_parts
from dagengine.below import children_of
from dagengine.changes import Changes
from dagengine.clocks import Clock
from dagengine.code.packing import Shelf
from dagengine.code.pinning import PINNED
from dagengine.control import ControlServer
from dagengine.control import sweep as sweep_sockets
from dagengine.core.events import CancelRequested, Event, InterruptRequested
from dagengine.driver import Driver
from dagengine.errors import (
    Fenced,
    InternalError,
    RunNotFound,
    RuntimeStopped,
    StoreError,
)
from dagengine.functions import Reference
from dagengine.heartbeat import Heartbeat
from dagengine.identity import is_alive, this_process
from dagengine.keeping import Keeping
from dagengine.life import Life
from dagengine.model import Claim, ProcessRecord, RunRecord, RunState
from dagengine.neighbours import Neighbours
from dagengine.questions import unanswered
from dagengine.recording import new_run
from dagengine.run import Run
from dagengine.runtime.protocol import NO_CODE, Asked, Broken, RuntimeEvent, Succeeded
from dagengine.serving.hints import announce
from dagengine.sleeping import Sleeping
from dagengine.storage import open_artifacts, open_store
from dagengine.storage.interface import ArtifactStore, Store
from dagengine.storage.lookup import fenced_now
from dagengine.taking_over import Hands
from dagengine.timers import Timers
from dagengine.turns import Turns
from dagengine.workflows import Workflow

if TYPE_CHECKING:
    from dagengine.caching import Caching
    from dagengine.helpers import Helpers
    from dagengine.runtime.protocol import Runtime
    from dagengine.serving.submission import Submission
    from dagengine.signals import Post

Answer = TypeVar("Answer")

FEW = 4
"""Events of the runtime that are worked off on its thread, if nobody else is at it."""

WINDOW_PER_WORKER = 512
"""Attempts handed to the runtime for each worker: more than it may send ahead (256), so that it never runs dry."""

PYTHONS_GC = (700, 10, 10)
ENGINES_GC = (50_000, 20, 100)
"""Thresholds of Python's cycle collector, its own and ours while an engine is open. A run makes many small objects that
live long and form no cycles; looking at all of them again and again took a tenth to a quarter of a wide run's time. Set
only where nobody else has set them, and put back at the end."""


class Engine(Changes):
    """Runs workflows. A context manager; leaving it drains what runs, which stays resumable.

    store: a path or URL, an open store, or None for the configured one
    artifacts: where large values go; None: beside the store
    workers: processes that run tasks; None: as many as CPUs are free to us
    runtime: what runs the tasks instead of worker processes, e.g. `dagengine.runtime.InlineRuntime()`
    home: the folder of settings, and of the default store
    wakes: whether it takes up again the runs that it let go of to wait without a process; if not, somebody else has to
    clock: what time it is, for tests (`dagengine.clocks`)
    machine: what this machine lends to runs: memory=, object_memory=, spill=, gpus=, gpu_memory=, resources=
        (`dagengine.config`)
    """

    def __init__(
        self,
        store: str | Path | Store | None = None,
        *,
        artifacts: str | Path | None = None,
        workers: int | None = None,
        runtime: Runtime | None = None,
        home: str | Path | None = None,
        clock: Clock | None = None,
        wakes: bool = True,
        **machine: Any,
    ) -> None:
        given = store if isinstance(store, (str, Path)) or store is None else None
        settings = config.load(home=home, store=given, artifacts=artifacts, workers=workers, **machine)
        folder = settings.folder
        config.create_private(folder)
        config.create_private(settings.logs)  # workers make the run's folder in it
        self.store: Store = (
            open_store(settings.store.value) if store is None or given is not None else cast(Store, store)
        )
        self.artifacts: ArtifactStore = open_artifacts(settings.artifacts.value, cache=str(folder / "cache"))
        self.logs: str | None = str(settings.logs)
        self.process = this_process()
        self.host = platform.node()
        self.window = WINDOW_PER_WORKER * settings.workers.value
        self.runtime: Runtime = runtime if runtime is not None else _process_runtime(settings)
        self._turns: Turns[tuple[Driver | None, Any]] = Turns(self._turn, self._pause, "dagengine")
        self._drivers: dict[int, Driver] = {}
        self._by_id: dict[str, Driver] = {}
        self.hands = Hands()
        self._indexes = itertools.count()
        self.clock = Clock() if clock is None else clock
        self.timers = Timers(self.clock)
        self.sleeping = Sleeping(self, wakes)
        self.neighbours = Neighbours(self)
        self._functions: dict[str, int] = {}
        self._shelf = Shelf(self.store, folder / "cache" / "code")
        self.keeping = Keeping(self)
        self._lock = threading.Lock()
        self._closed = False
        self._broken: BaseException | None = None
        self._opened = False
        self._control_folder = settings.control
        self._control = ControlServer(settings.control, self.process.id, partial(answer, self))
        self._heartbeat = Heartbeat(self.store, self.process, self._owned, self._renewed)

    # ---- life ---------------------------------------------------------------------------------

    def _open(self) -> None:
        """Start what costs something, on the first run; and clear away what dead processes left."""
        with self._lock:
            if self._closed:
                raise RuntimeStopped("this engine is closed. Open a new one.")
            if self._opened:
                return
            # First what may fail, and can be tried again: a folder, a bucket that can't be reached for a moment.
            sweep_sockets(self._control_folder)
            self.artifacts.sweep()
            self._control.start()
            announce(self._control_folder, self.process)
            self._opened = True
            if gc.get_threshold() == PYTHONS_GC:
                gc.set_threshold(*ENGINES_GC)
            self.runtime.open(self._from_runtime)
            self._turns.start()
            self._heartbeat.start()
            atexit.register(self.close)

    def close(self, force: bool = False) -> None:
        """Drain: start nothing more, let running attempts end (with `force`, end them), and let go of everything.

        Unfinished runs become INTERRUPTED and can be resumed. Closing twice is harmless.
        """
        global _current
        with self._lock:
            if self._closed:
                return
            self._closed = True
        if _current is self:
            _current = None
        if self._opened:
            atexit.unregister(self.close)
            self.sleeping.close()
            drivers = list(self._by_id.values())
            self.interrupt(force)
            for driver in drivers:
                driver.ended.wait()
                driver.join_body(BODY_JOIN_SECONDS)
            self._heartbeat.stop()
            self._control.stop()
            self.runtime.close(force)
            self._turns.close()
            if "helpers" in vars(self):
                self.helpers.shutdown()
            if gc.get_threshold() == ENGINES_GC:
                gc.set_threshold(*PYTHONS_GC)
        self._shelf.close()
        self.store.close()
        self.artifacts.close()

    def __enter__(self) -> Engine:
        _stack.append(self)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: object) -> None:
        _stack.remove(self)
        self.close(force=kind is not None)

    # ---- runs ---------------------------------------------------------------------------------

    def start(self, workflow: Workflow[..., Any], /, *args: Any, **kwargs: Any) -> Run[Any]:
        """Record a run and begin it. Raises BadArguments, Unpicklable, StoreError."""
        return self.begin(workflow, args, kwargs)

    def begin(
        self,
        workflow: Workflow[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        run_id: str | None = None,
        *,
        facts: dict[str, Any] | None = None,
        refresh: Sequence[str] = (),
    ) -> Run[Any]:
        """As `start`, with an id and further facts of the caller's. Raises RunExists if the id is taken.

        refresh: keys of steps and names of tasks whose values are not taken from the cache; "all"
        """
        self._open()
        new = new_run(self.store, self.artifacts, workflow, args, kwargs, run_id=run_id, refresh=refresh)
        new.facts.update(facts or {})
        claim = self.store.create_run(new, self.process)
        assert claim is not None
        record = self.store.find_run(new.id)
        driver = self.driver_for(claim, record, Life(record, lambda: workflow))
        driver.load(None, {})
        return self._add(driver)

    def submit(
        self, workflow: Workflow[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], how: Submission | None = None
    ) -> str:
        """Record a run, leave it to whoever serves the store, and return its id (of one with the same `dedup`, maybe)."""
        from dagengine.serving.submission import Submission, submit

        how = Submission() if how is None else how
        return submit(self.store, self.artifacts, self._control_folder, (workflow, args, kwargs), how)[0]

    def resume(
        self, run_id: str, takeover: bool = False, reopen: bool = True, code: str = PINNED, *, adopt: bool = False
    ) -> Run[Any]:
        """Go on with the run whose id begins with `run_id`. With `takeover`, also if its owner may live: it writes no more.
        Without `reopen`, what has failed stays as it is, and a request to cancel is heard: nobody has asked to go on.
        The run keeps its own code, "pinned"; with code="current" it goes on with today's. With `adopt`, what the body calls
        differently than is recorded replaces that, and what was called after it (dagengine/adopting.py).

        One that was compensated to the end stays as it is. Raises RunNotFound; RunOwned if a live process works on it;
        RunExists if it has succeeded; LoadError if its
        workflow's code is needed and can't be loaded, also because this process has another version of it loaded.
        """
        return taking_up.resume(self, run_id, takeover=takeover, reopen=reopen, code=code, adopt=adopt)

    def driver_for(self, claim: Claim, record: RunRecord, life: Life) -> Driver:
        """Of a claimed run; nothing of it is loaded yet."""
        return Driver(self, next(self._indexes), claim, record, life)

    def _works(self, run_id: str, owner: ProcessRecord) -> bool:
        """Whether the run's owner is at work on it: not if that is this engine, which had to let go of the run."""
        return run_id in self._by_id if owner.id == self.process.id else is_alive(owner)

    def _add(self, driver: Driver) -> Run[Any]:
        self._by_id[driver.run_id] = driver
        self.hands.taken_up(driver.run_id)  # before it begins: the run's next life is taken up by whoever sees its end
        self._turns.put((driver, _BEGIN))
        return Run(self, driver.life)

    def interrupt(self, force: bool = False) -> None:
        """Ask all runs to stop: nothing more is started, and what runs is waited for, or with `force` ended."""
        if force:
            self.store.hurry()
        for driver in list(self._by_id.values()):
            self.tell(driver, [InterruptRequested(force)])
        self.sleeping.let_go()

    def cancel(self, run_id: str, compensate: bool = False) -> None:
        """Cancel the run, whether this engine works on it or another process does. `run_id`: whole, or a prefix.

        compensate: first run the `undo=` tasks of the steps that succeeded, newest first. A run on which nobody works is
            taken up for that, also one that has failed or was cancelled before
        """
        record = self.store.find_run(run_id)
        if compensate:
            compensating.request(self, record)
            return
        cancelling.request(self.store, self._control_folder, record)
        driver = self._by_id.get(record.id)
        if driver is not None:  # it sees to its children itself
            self.tell(driver, [CancelRequested()])
        else:
            for child in children_of(self.store, record):
                if child.state is not RunState.SUCCEEDED:  # also one that was cancelled: its own children may not be
                    self.cancel(child.id)

    def driver_of(self, run_id: str) -> Driver | None:
        """Of a run that this engine works on."""
        return self._by_id.get(run_id)

    def signal(self, run_id: str, name: str, payload: Any = None, *, signal_id: str | None = None) -> bool:
        """Send something to a run of this store: as `dagengine.signal`."""
        from dagengine.signals import send

        return send(self.post, run_id, name, payload, signal_id=signal_id)

    @property
    def post(self) -> Post:
        """Where signals to runs of this store go."""
        from dagengine.signals import Post

        return Post(self.store, self.artifacts, self._control_folder)

    def _owned(self) -> set[int]:
        return {driver.claim.run_number for driver in list(self._by_id.values())}

    def _renewed(self, owned: set[int], held: dict[int, bool]) -> None:
        """What the store says of our runs; `owned`: what we took for ours. On the thread of the heartbeat."""
        for driver in list(self._by_id.values()):
            number = driver.claim.run_number
            if number in owned and number not in held:
                driver.probe()
            elif held.get(number):
                self.tell(driver, [CancelRequested()])
            else:
                self.tell(driver, driver.outside.hint)
        self.sleeping.look_all()

    def look_into(self, work: Callable[[], Answer]) -> Answer:
        """Have the engine's thread do it, which alone may look at a run's core. Raises RuntimeStopped."""
        question: Question[Answer] = Question(work)
        self._turns.put((None, question))
        return question.wait()

    # ---- for drivers --------------------------------------------------------------------------

    def wake(self, driver: Driver) -> None:
        self._turns.put((driver, None))

    def tell(self, driver: Driver, what: Any) -> None:
        """Hand an event, a list of events, an error, or work for the engine's thread to the driver's next turn."""
        self._turns.put((driver, what))

    def tell_here(self, driver: Driver, what: Any) -> None:
        """As `tell`, from a thread that can spare the time of a small turn (`turns`)."""
        self._turns.offer((driver, what))

    def do(self, work: Callable[[], None]) -> None:
        """Have the engine's thread do it, for no run."""
        self._turns.put((None, work))

    def after(self, delay: float, driver: Driver, event: Event | Callable[[], None]) -> None:
        """Hand the event, or work, over in `delay` seconds. On the engine's thread only."""
        self.timers.after(delay, driver, event)

    def forget(self, driver: Driver) -> None:
        self._drivers.pop(driver.index, None)
        if self._by_id.get(driver.run_id) is driver:  # else it was fenced by another one of this engine
            del self._by_id[driver.run_id]
        self.timers.forget(driver)
        self.neighbours.forget(driver)
        if driver.state is not RunState.WAITING:
            self.sleeping.ended(driver.run_id)

    def function_number(self, reference: Reference, code: str | None = None) -> int:
        """The runtime's number of the function, as it is in the pack `code`. Raises LoadError, StoreError."""
        text = json.dumps([reference.to_json(), code], sort_keys=True)
        number = self._functions.get(text)
        if number is None:
            given = self._shelf.give(code) if code is not None else NO_CODE
            number = self._functions[text] = len(self._functions)
            self.runtime.define(number, reference.to_json(), given)
        return number

    @functools.cached_property
    def helpers(self) -> Helpers:
        from dagengine.helpers import Helpers

        return Helpers(self)

    @functools.cached_property
    def caching(self) -> Caching:
        from dagengine.caching import Caching

        return Caching(self)

    # ---- the thread ---------------------------------------------------------------------------

    def _from_runtime(self, events: list[RuntimeEvent]) -> None:
        if len(events) <= FEW:
            self._turns.offer((None, events))
        else:
            self._turns.put((None, events))

    def _pause(self) -> float | None:
        return self.timers.pause()

    def _turn(self, messages: list[tuple[Driver | None, Any]]) -> bool:
        added = self.timers.added
        turns: dict[Driver, list[Event]] = {}
        try:
            for message in messages:
                self._take(message, turns)
            self._look_at_clock(turns)
            for driver, events in turns.items():
                self._guarded(driver, partial(driver.turn, events))
        except BaseException as error:
            self._break(error)
        return self.timers.added != added

    def _guarded(self, driver: Driver, work: Callable[[], None]) -> None:
        """Do a driver's work. What goes wrong in it ends this process's work on that run, and on no other."""
        try:
            work()
        except StoreError as error:
            driver.abandon(error)
        except Exception as error:
            internal = InternalError(f"run {driver.run_id}: {type(error).__name__}: {error}")
            internal.__cause__ = error
            driver.abandon(internal)

    def _take(self, message: tuple[Driver | None, Any], turns: dict[Driver, list[Event]]) -> None:
        driver, what = message
        if driver is not None:
            self._sort(driver, what, turns)
        elif isinstance(what, Question):
            what.answer()
        elif callable(what):
            what()
        else:
            self._sort_runtime(what, turns)

    def _look_at_clock(self, turns: dict[Driver, list[Event]]) -> None:
        for driver, event in self.timers.due():
            if driver is not None:
                self._sort(driver, event, turns)
            elif callable(event):
                event()

    def _sort(self, driver: Driver, what: Any, turns: dict[Driver, list[Event]]) -> None:
        if what is _BEGIN:
            self._drivers[driver.index] = driver
            self._guarded(driver, driver.begin)
            return
        events = turns.setdefault(driver, [])
        if what is None:
            return
        if isinstance(what, list):
            events.extend(what)
        elif isinstance(what, Succeeded):
            events.append(driver.kept(what))
        elif callable(what):
            self._guarded(driver, what)
        elif isinstance(what, BaseException):
            driver.abandon(self._explained(driver, what))
        else:
            events.append(what)

    def _explained(self, driver: Driver, error: BaseException) -> BaseException:
        if isinstance(error, Fenced):
            with contextlib.suppress(StoreError, RunNotFound):
                return fenced_now(self.store.find_run(driver.run_id), self.store.url)
        return error

    def _sort_runtime(self, events: list[RuntimeEvent], turns: dict[Driver, list[Event]]) -> None:
        for event in events:
            if isinstance(event, Broken):
                self._runtime_broke(event)
                continue
            driver = self._drivers.get(run_of(event))
            if isinstance(event, Asked):
                if driver is None:
                    unanswered(self.runtime, event)
                else:
                    self._guarded(driver, partial(driver.questions.asked, event))
                continue
            if driver is None:
                if isinstance(event, Succeeded):
                    for _, _, shared in shared_parts(event):
                        shared.close()
                    self.runtime.free([event.id])  # the name of its object, if it made one
                continue
            converted = driver.convert(event)
            if converted is not None:
                turns.setdefault(driver, []).append(converted)

    def _runtime_broke(self, event: Broken) -> None:
        for driver in list(self._drivers.values()):
            driver.runtime_broke(RuntimeStopped(f"the workers can't go on: {event.failure.message}"))

    def _break(self, error: BaseException) -> None:
        """A bug of ours in the engine's own loop: let go of all runs rather than leave somebody waiting."""
        internal = InternalError(f"the engine failed: {type(error).__name__}: {error}")
        internal.__cause__ = error
        for driver in list(self._drivers.values()):
            driver.abandon(internal)


BODY_JOIN_SECONDS = 5.0
"""For a body to notice that its run has stopped. One that calculates without calling anything is left to its thread,
which is a daemon's and does not keep the process alive."""

_BEGIN = object()
_stack: list[Engine] = []
_current: Engine | None = None


def current_engine() -> Engine:
    """The innermost open engine, or this process's own on the configured store."""
    global _current
    if _stack:
        return _stack[-1]
    if _current is None or _current._closed:
        _current = Engine()
    return _current


def _process_runtime(settings: config.Settings) -> Runtime:
    from dagengine.runtime.processes import ProcessRuntime

    return ProcessRuntime(settings.workers.value, **settings.of_machine(), at_once=True)
