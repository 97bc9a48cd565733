"""`dagengine serve`: the process that has submitted runs worked on, begins what is scheduled, and wakes what waits.

It works on no run itself and loads nobody's code: that is done in hosts (`hosts`, `host`). It looks into the store when
something is due or when somebody says so (`hints`), and hands what it finds to them:

    queues      runs that may begin, as their queues' limits have it
    schedules   runs that are due are recorded and queued
    sleepers    runs that wait for a time that has come, or for something that is there
    settling    what a server that is gone, or a process that died, has left behind

**It is never needed twice, and never alone.** Whatever it holds in memory can be read from the store again, so it may be
killed at any moment; several may serve a store at once, of one machine or of many, because each step that matters is a
transaction: a row that only one can take (`storage/queues`), a run's id that is the same for all, a claim.

**How idle it is.** With nothing due it sleeps for `LOOK_SECONDS`, in case that a hint was lost or came from a machine
that it does not hear: a few reads of indexes. Only on a store that machines share does it write then that it lives.

May import everything of the workflow layer, but not what is heavy: it is to be small.
"""

from __future__ import annotations

import contextlib
import os
import platform
import selectors
import signal
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass, replace
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

from dagengine.afterwards import end_without_driver
from dagengine.config import create_private
from dagengine.continuing import left_to_begin
from dagengine.control import ControlServer, is_left
from dagengine.control import sweep as sweep_sockets
from dagengine.errors import BadOption, DagengineError, Fenced, RunExists, RunNotFound, RunOwned, StoreError
from dagengine.identity import is_alive, is_here, proof, this_process
from dagengine.model import Failure, ProcessRecord, RunRecord, RunState
from dagengine.serving.hints import PREFIX, process_of
from dagengine.serving.hosts import Host, Hosts
from dagengine.serving.schedules import fire_due
from dagengine.serving.submission import cancel_dropped, has_ended
from dagengine.storage import open_store, queues, servers, sleepers
from dagengine.storage.due import due
from dagengine.storage.interface import RunFilter, Store
from dagengine.storage.writes import FinishRun
from dagengine.validation import did_you_mean
from dagengine.views import run_state
from dagengine.watching import Watch

if TYPE_CHECKING:
    from dagengine.config import Settings

LOOK_SECONDS = 10.0
"""Between two looks that nobody has asked for."""

LEASE_LOOK_SECONDS = 2.0
"""The same while a process of another machine works on a run: of its death only the end of its lease is seen."""

BETWEEN_LOOKS = 0.02
"""At least, however many hints there are: a burst of submissions is a few looks, not one for each."""

RUNS, HOSTS = 256, 4
"""Runs under way at once, each with a body's thread in its host; and hosts, each with as many workers as there are CPUs."""

FORCED_SECONDS = 15.0
"""For a host to end its steps and to record that, when it is not to wait for them; then it is killed."""

ENDED_KEPT = 4_096
"""Ends that are remembered for those who ask to be told of one that has just been."""

FINAL = frozenset(str(state) for state in RunState if state.ended and state is not RunState.INTERRUPTED)
"""States after which nobody is waited for."""

_NOBODYS = (RunState.PENDING, RunState.INTERRUPTED, RunState.CRASHED)

SETTLED_AT_ONCE = 500
"""Runs that are under way with others, looked at together."""

CRASHED_LOOKED_AT = 2_000
"""Runs that say that they run, looked through for those whose owner is dead."""


@dataclass(frozen=True, slots=True)
class ServeOptions:
    """What a server was told.

    queues: only of these, or of all; runs, hosts: at once; takes_over: also runs that were begun otherwise and whose process
        died; grace: seconds that running steps have to end in when the server is told to; name: for people
    """

    queues: tuple[str, ...] = ()
    runs: int = RUNS
    hosts: int = HOSTS
    takes_over: bool = True
    grace: float = 30.0
    name: str = ""

    def __post_init__(self) -> None:
        for name in ("runs", "hosts"):
            value = getattr(self, name)
            if type(value) is not int or not 1 <= value <= 100_000:
                raise BadOption(f"{name}={value!r} has to be a whole number of at least 1.")
        if not 0 <= self.grace < float("inf"):
            raise BadOption(f"grace={self.grace!r} has to be a number of seconds, of at least 0.")


class Server:
    """Serves a store until it is told to stop. `work` blocks; `stop` may be called from any thread, or a signal's handler."""

    def __init__(
        self,
        settings: Settings,
        options: ServeOptions | None = None,
        *,
        say: Callable[[str], None] = lambda line: None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._settings = settings
        self._options = ServeOptions() if options is None else options
        self._say = say
        self._clock = clock
        create_private(settings.folder)
        create_private(settings.logs)
        self.store: Store = open_store(settings.store.value)
        try:
            self._check_queues()
        except BaseException:
            self.store.close()
            raise
        self.process = this_process()
        self._selector = selectors.DefaultSelector()
        self._woken, self._wake = os.pipe()
        os.set_blocking(self._woken, False)
        os.set_blocking(self._wake, False)
        self._selector.register(self._woken, selectors.EVENT_READ)
        self._watch = Watch(self._selector)
        self._met: SimpleQueue[ProcessRecord] = SimpleQueue()
        self._hosts = Hosts(
            settings,
            self._options.hosts,
            self._selector,
            ended=self._run_ended,
            gave_up=self._give_up,
            gave_back=self._give_back,
            say=say,
        )
        self._control = ControlServer(settings.control, PREFIX + self.process.id, self._asked)
        self._stops = 0
        self._look_at = 0.0  # on the clock
        self._looked_at = float("-inf")  # on the monotonic clock
        self._settle_at = 0.0  # on the monotonic clock
        self._dirty: set[str] = set()  # runs whose end the store could not be told of
        self._over = threading.Condition()
        self._ended: OrderedDict[str, None] = OrderedDict()
        self._due: dict[str, float] = {}  # sleepers that were due at the last look, and since when
        self._ear: threading.Thread | None = None

    # ---- life ---------------------------------------------------------------------------------

    def work(self) -> None:
        """Serve, until `stop`; then drain. Raises StoreError if the store can't be used at all."""
        sweep_sockets(self._settings.control)
        self._seen()
        self._control.start()
        self._listen()
        try:
            while not self._stops:
                self._turn(self._look())
            self._drain()
        finally:
            self._close()

    def stop(self) -> None:
        """Drain: begin nothing more, let what runs end. The second time: end it."""
        self._stops += 1
        self.wake()

    def wake(self) -> None:
        """Look now. From any thread."""
        self._look_at = 0.0
        with contextlib.suppress(BlockingIOError, OSError):
            os.write(self._wake, b"\0")

    def _turn(self, seconds: float) -> None:
        for key, _ in self._selector.select(max(0.0, seconds)):
            if key.data is None:
                with contextlib.suppress(BlockingIOError):
                    os.read(self._woken, 65536)
                self._meet()
            elif key.data is self._watch:
                self._lost(*self._watch.ended(key.fd))
            else:
                host: Host = key.data
                was_fit = self._hosts.fit
                self._hosts.hear(host)
                if self._hosts.fit and not was_fit:
                    self._look_at = self._settle_at = 0.0

    def _lost(self, process_id: str, at_work: bool) -> None:
        """A process of this machine has ended."""
        if at_work or is_left(self._settings.control, process_id):
            self._settle_at = 0.0  # what it had is nobody's now
        else:
            self._keep_spare()

    def _meet(self) -> None:
        """Processes of this machine have said that they are about to work on something."""
        with contextlib.suppress(Empty):
            while True:
                process = self._met.get_nowait()
                if not self._hosts.has(process.pid):
                    self._watch.add(process)
        self._keep_spare()

    def _keep_spare(self) -> None:
        self._hosts.keep_spare(self._options.takes_over and len(self._watch) > 0)

    def _drain(self) -> None:
        self._say(f"stopping: {_count(len(self._hosts.runs), 'run')} under way")
        forced_at = time.monotonic() + self._options.grace
        killed_at = float("inf")
        self._hosts.drain(force=False)
        while self._hosts.count:
            now = time.monotonic()
            if killed_at == float("inf") and (self._stops > 1 or now >= forced_at):
                killed_at = now + FORCED_SECONDS
                self._hosts.drain(force=True)
            elif now >= killed_at:
                self._hosts.kill()
            self._turn(0.2)

    def _close(self) -> None:
        self._control.stop()
        self._hosts.kill()
        try:
            with contextlib.suppress(StoreError):
                self._finish_dirty()
                servers.forget(self.store, self.process.id)
                servers.tell(self.store)  # what is left is for somebody else
            if self._ear is not None:
                self.store.wake(self.process)
                self._ear.join(5.0)
            self.store.close()
        finally:  # also where the store is one of a process that is killed by a test: there are hundreds of those
            self._watch.close()
            self._selector.close()
            ends = self._woken, self._wake
            self._woken = self._wake = -1  # a late `wake` is to find no other's file
            for end in ends:
                os.close(end)

    def _check_queues(self) -> None:
        known = queues.queues(self.store)
        for name in self._options.queues:
            if name not in known:
                raise BadOption(
                    f"there is no queue {name!r}.{did_you_mean(name, known)} `dagengine queue set` makes one."
                )

    def _listen(self) -> None:
        if self.store.lease is None:
            return

        def hear() -> None:
            while not self._stops:
                try:
                    servers.listen(self.store, self.process, LOOK_SECONDS)
                except DagengineError:
                    time.sleep(1.0)  # the server is away; the look that nobody asked for will say so
                self.wake()

        self._ear = threading.Thread(target=hear, name="dagengine-ear", daemon=True)
        self._ear.start()

    # ---- looking ------------------------------------------------------------------------------

    def _look(self) -> float:
        """Hand out what is due; the seconds until something is, as far as is known."""
        idle = self._hosts.tick()
        waits = [LOOK_SECONDS] if idle is None else [idle, LOOK_SECONDS]
        now = self._clock()
        settles = time.monotonic() >= self._settle_at
        pause = self._looked_at + BETWEEN_LOOKS - time.monotonic()
        if pause > 0 and now >= self._look_at:
            return pause
        if settles or now >= self._look_at:
            self._looked_at = time.monotonic()
            self._look_at = now + LOOK_SECONDS
            try:
                if settles:
                    self._settle_at = time.monotonic() + self._settle(now)
                self._hand_out(now)
            except StoreError as error:
                self._say(f"the store can't be read: {error}")
                self._look_at = now + 1.0
                self._settle_at = max(self._settle_at, time.monotonic() + 1.0)
        waits += [self._look_at - now, self._settle_at - time.monotonic()]
        return max(0.0, min(waits))

    def _hand_out(self, now: float) -> None:
        self._finish_dirty()
        found = due(self.store, now)
        later = [found.queued]
        fires = found.scheduled is not None and found.scheduled <= now
        later.append(fire_due(self.store, self._settings.control, self._clock) if fires else found.scheduled)
        room = self._options.runs - len(self._hosts.runs)
        for name in found.queues:
            if self._options.queues and name not in self._options.queues:
                continue
            if room > 0 and self._hosts.fit:
                taken = queues.take(self.store, name, self.process.id, room, now)
                room -= len(taken.runs)
                later.append(taken.again_at)
                self._assign(taken.runs)
        later.append(found.sleeping_after)
        if found.sleeping is not None and found.sleeping <= now:
            self._wake_sleepers(now, room)
        else:
            self._due = {}
        known = [at for at in later if at is not None]
        self._look_at = min([self._look_at, *known])

    def _assign(self, run_ids: Sequence[str]) -> None:
        runs = self.store.find_runs(run_ids) if run_ids else {}
        left = {run_id: run for run_id, run in runs.items() if not has_ended(run)}
        queues.remove(self.store, [run_id for run_id in run_ids if run_id not in left], queues.STARTED)
        self._hosts.assign(left.values())

    def _wake_sleepers(self, now: float, room: int) -> None:
        """Runs that wait without a process, and whose time has come.

        One that a process has let go of and means to wake itself is left to that for a while: it knows the run's code.
        """
        first_seen, self._due = self._due, {}
        held = self._hosts.runs
        ours = []
        for sleeper in sleepers.due(self.store, now):
            seen = self._due[sleeper.id] = first_seen.get(sleeper.id, time.monotonic())
            theirs = sleeper.process is not None and time.monotonic() - seen < LOOK_SECONDS
            if not theirs and sleeper.id not in held:
                ours.append(sleeper.id)
        if room > 0 and ours and self._hosts.fit:
            runs = self.store.find_runs(ours[:room])
            self._hosts.assign(run for run in runs.values() if run.state is RunState.WAITING)

    # ---- settling -----------------------------------------------------------------------------

    def _settle(self, now: float) -> float:
        """Find what nobody looks after: of servers and processes that are gone, and of ends that nobody was told of. The
        seconds until it is to be looked for again."""
        if self.store.lease is not None:
            self._seen()
        cancel_dropped(self.store, self._clock)
        living = self._living(now)
        held = self._hosts.runs
        started = [
            entry
            for entry in queues.entries(self.store, queues.STARTED)
            if entry.id not in held and (not self._options.queues or entry.queue in self._options.queues)
        ]
        for first in range(0, len(started), SETTLED_AT_ONCE):
            self._settle_started(started[first : first + SETTLED_AT_ONCE], living)
        others = [server.process for id_, server in living.items() if id_ != self.process.id]
        elsewhere = False
        for run in self.store.runs(RunFilter((RunState.RUNNING,), limit=CRASHED_LOOKED_AT)):
            if run.id in held:
                continue
            if run_state(run) is RunState.RUNNING and run.owner is not None:
                others.append(run.owner)
                elsewhere = elsewhere or not is_here(run.owner)
            elif self._options.takes_over and self._hosts.fit:
                self._take_over(run)
        if self._options.takes_over and self._hosts.fit:
            self._hosts.assign(left_to_begin(self.store, now - LOOK_SECONDS))
        missed = self._watch.keep(others)
        self._keep_spare()
        if missed:
            return 0.0  # it lived a moment ago, when it was looked at
        return LEASE_LOOK_SECONDS if elsewhere else LOOK_SECONDS

    def _settle_started(self, entries: Sequence[queues.Entry], living: Container[str]) -> None:
        runs = self.store.find_runs([entry.id for entry in entries])
        over = [entry.id for entry in entries if entry.id not in runs or has_ended(runs[entry.id])]
        if over:
            queues.remove(self.store, over, queues.STARTED)
            self._look_at = 0.0
        for entry in entries:
            if entry.id in over or run_state(runs[entry.id]) not in _NOBODYS:
                continue
            if not self._hosts.fit:
                continue
            ours = entry.server == self.process.id
            if not ours and entry.server in living and not runs[entry.id].lease_expired:
                continue  # it is that one's to begin, or to begin again
            if ours and runs[entry.id].state is not RunState.RUNNING:
                self._hosts.assign([runs[entry.id]])
            elif ours or queues.hand_over(self.store, entry.id, entry.server, self.process.id):
                self._go_on(runs[entry.id])

    def _take_over(self, run: RunRecord) -> None:
        if queues.entry_of(self.store, run.id) is None:
            self._go_on(run)

    def _go_on(self, run: RunRecord) -> None:
        """With a run that another process, or another server, had."""
        self._say(f"run {run.id[:12]} of {run.workflow}: {_why_left(run)}; going on with it")
        self._hosts.assign([run])

    def _living(self, now: float) -> dict[str, servers.Server]:
        known = servers.servers(self.store)
        living = {id_: server for id_, server in known.items() if server.lives(proof(server.process), now)}
        for id_ in known.keys() - living.keys():
            servers.forget(self.store, id_)
        return living

    def _seen(self) -> None:
        options = self._options
        facts = {"name": options.name, "queues": list(options.queues), "runs": options.runs, "hosts": options.hosts}
        servers.seen(self.store, self.process, facts, self._clock())

    # ---- what hosts say ------------------------------------------------------------------------

    def _run_ended(self, run_id: str, state: str) -> None:
        """Nobody here works on the run any more. `state`: as its host saw it; the store's counts."""
        with self._over:
            if state in FINAL:
                self._ended[run_id] = None
            while len(self._ended) > ENDED_KEPT:
                self._ended.popitem(last=False)
            self._over.notify_all()
        self._dirty.add(run_id)
        self._look_at = 0.0

    def _finish_dirty(self) -> None:
        if self._dirty:
            runs = self.store.find_runs(list(self._dirty))
            queues.remove(self.store, [run.id for run in runs.values() if has_ended(run)], queues.STARTED)
            self._dirty.clear()

    def _give_up(self, run_id: str, why: str) -> None:
        """The run takes down every process that works on it: it fails."""
        self._say(f"run {run_id[:12]} has failed: {why}")
        failure = Failure("lost", "dagengine.errors.WorkerLost", f"{why}. See what it said on the server's output.")
        try:
            claim = self.store.claim(run_id, self.process, is_alive, reopen=False)
            end = FinishRun(RunState.FAILED, self._clock(), failure)
            end_without_driver(self.store, self._settings.control, claim, end)
        except (RunOwned, RunExists, RunNotFound, Fenced, StoreError) as error:
            self._say(f"run {run_id[:12]}: {error}")
        self._run_ended(run_id, str(RunState.FAILED))

    def _give_back(self, run_ids: set[str]) -> None:
        """No host can begin here: the runs wait in their queues again, for any server."""
        try:
            queues.give_back(self.store, sorted(run_ids), self.process.id)
            servers.tell(self.store)
        except StoreError as error:  # they stay ours, and are found when a host can begin
            self._say(f"the store can't be written: {error}")

    # ---- what others ask ------------------------------------------------------------------------

    def _asked(self, request: dict[str, Any]) -> dict[str, Any]:
        """On a thread of the control server's."""
        verb = request.get("verb")
        if verb == "hint":
            self.wake()
            return {"ok": True}
        if verb == "watch":
            self._met.put(process_of(request["process"]))
            with contextlib.suppress(BlockingIOError, OSError):
                os.write(self._wake, b"\0")
            return {"ok": True}
        if verb == "wait":
            run_id = str(request.get("run"))
            with self._over:
                ended = self._over.wait_for(lambda: run_id in self._ended, float(request.get("timeout") or 0.0))
            return {"ended": ended}
        if verb == "status":
            return {
                "name": self._options.name,
                "pid": self.process.pid,
                "queues": list(self._options.queues),
                "runs": len(self._hosts.runs),
                "hosts": self._hosts.count,
                "stopping": bool(self._stops),
            }
        return {"error": "unknown verb"}


def _why_left(run: RunRecord) -> str:
    """Who had it, and why that one has it no more."""
    owner = run.owner
    if run.state is not RunState.RUNNING or owner is None:
        return "the server that had it is gone"
    how = "is dead" if proof(owner) is False else "is silent, and its lease is over"
    return f"process {owner.pid} on {owner.host} {how}"


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def serve(settings: Settings, options: ServeOptions | None = None, *, say: Callable[[str], None]) -> None:
    """Serve the configured store in this process, until SIGINT or SIGTERM. For the main thread."""
    server = Server(settings, options, say=say)
    numbers: Sequence[int] = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, lambda *_: server.stop()) for number in numbers}
    try:
        say(f"serving {server.store.url} (process {server.process.pid})")
        server.work()
        say("stopped")
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def with_name(options: ServeOptions) -> ServeOptions:
    """The options with a name for people: the machine's, if none was given."""
    return options if options.name else replace(options, name=platform.node())
