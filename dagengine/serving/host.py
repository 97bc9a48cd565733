"""A host: the process in which `dagengine serve` has runs worked on, with an engine and workers of its own.

    server ── {"verb": "take", "runs": [id, …]}\\n ──▶ host   also: drain, force, close
    server ◀── {"ended": id, "state": …}\\n ─── host          also: ready; unfit, left, again, with the reason

The server hands it only runs of one version of the code, so its modules are those of its runs. It takes a run up as nobody
asked for it (`reopen=False`): what has failed stays so. A run that can't be begun, because its code can't be loaded,
fails here, with that as the reason; otherwise it would be tried for ever. Where it is this machine that is unfit, for
any run, the host says that and ends (`unfit`); no run fails by it.

A run that it had to let go of, because the store or the artifacts could not be used, is still recorded as this process's,
and nobody else may take it up while this one lives: the server hands it over `again`.

A host whose server is gone (the socket ends) takes nothing more, works on what it has to the end, and ends: the death of
a server costs no work. It hears nothing of the terminal's Ctrl-C; SIGTERM drains it.

May import everything but the command line.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, NoReturn

from dagengine.afterwards import end_without_driver
from dagengine.engine import Engine
from dagengine.errors import DagengineError, Fenced, RunExists, RunNotFound, RunOwned, StoreError
from dagengine.model import Failure, RunState
from dagengine.storage.interface import Store
from dagengine.storage.lookup import no_run
from dagengine.storage.postgres_url import is_postgres
from dagengine.storage.writes import FinishRun
from dagengine.taking_up import take_up_all

if TYPE_CHECKING:
    from dagengine.driver import Driver
    from dagengine.runtime.protocol import Broken

TAKERS = 2
"""Threads that take runs up: while one loads what is left of its runs, the other one claims."""

TAKEN_AT_ONCE = 64
"""Runs that are taken up together. What comes while they are is taken up after them, together again."""

FAIL_SECONDS = 60.0
"""For the store to write that a run can't be begun."""


BROKEN_STATUS = 70
"""With which a host ends whose workers can't go on."""

UNFIT_STATUS = 5
"""With which a host ends that could not begin."""


class HostEngine(Engine):
    """Tells of each run that this process has let go of."""

    def __init__(self, ended: SimpleQueue[dict[str, Any]], wake: int, *words: Any, **options: Any) -> None:
        super().__init__(*words, **options)
        self._let_go = ended
        self._wake_descriptor = wake

    def forget(self, driver: Driver) -> None:
        super().forget(driver)
        error = None if driver.error is None else f"{type(driver.error).__name__}: {driver.error}"
        told = "ended" if driver.error is None or isinstance(driver.error, Fenced) else "again"
        self._let_go.put({told: driver.run_id, "state": str(driver.state), "error": error})
        with contextlib.suppress(BlockingIOError):  # full: it is about to be read anyway
            os.write(self._wake_descriptor, b"\0")

    def _runtime_broke(self, event: Broken) -> None:
        """A host without workers is of no use: it dies as if it had been killed, which its server knows how to answer."""
        print(f"host {os.getpid()}: the workers can't go on: {event.failure.message}", file=sys.stderr, flush=True)
        os._exit(BROKEN_STATUS)


class Host:
    """Works off what the server says at `channel`. `work` returns when it has nothing more to do."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel: socket.socket | None = channel
        self._data = b""
        self._woken, self._wake = os.pipe()
        os.set_blocking(self._woken, False)
        os.set_blocking(self._wake, False)
        self._told: SimpleQueue[dict[str, Any]] = SimpleQueue()
        self._runs: set[str] = set()
        self._closing = self._force = False
        self._terminated = 0
        self._engine: HostEngine | None = None
        self._takers: list[threading.Thread] = []  # once the first run has loaded the code
        self._to_take: SimpleQueue[str | None] = SimpleQueue()

    def work(self) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, self._terminate)
        while self._runs or not self._closing:
            waiting: list[Any] = [self._woken]
            if self._channel is not None:
                waiting.append(self._channel)
            ready, _, _ = select.select(waiting, [], [])
            if self._woken in ready:
                self._awake()
            if self._channel is not None and self._channel in ready:
                for message in self._received():
                    self._do(message)
        for _ in self._takers:
            self._to_take.put(None)
        for taker in self._takers:
            taker.join()
        if self._engine is not None:
            self._engine.close(self._force)
        self._awake()

    def _terminate(self, number: int, frame: object) -> None:
        self._terminated += 1
        with contextlib.suppress(BlockingIOError):
            os.write(self._wake, b"\0")

    def _awake(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self._woken, 65536)
        with contextlib.suppress(Empty):
            while True:
                told = self._told.get_nowait()
                self._runs.discard(told.get("ended") or told.get("again") or told["left"])
                self._say(told)
        if self._terminated:
            self._do({"verb": "drain" if self._terminated == 1 else "force"})

    # ---- the socket -------------------------------------------------------------------------

    def _received(self) -> Iterator[dict[str, Any]]:
        assert self._channel is not None
        try:
            data = self._channel.recv(65536)
        except OSError:
            data = b""
        if not data:
            self._channel.close()
            self._channel = None
            self._closing = True
            return
        *lines, self._data = (self._data + data).split(b"\n")
        yield from map(json.loads, lines)

    def _say(self, message: dict[str, Any]) -> None:
        if self._channel is not None:
            with contextlib.suppress(OSError):  # the server is gone: the end of the stream will say so
                self._channel.sendall(json.dumps(message).encode() + b"\n")

    # ---- what is asked ------------------------------------------------------------------------

    def _do(self, message: dict[str, Any]) -> None:
        verb = message["verb"]
        if verb == "load":
            _load(message["store"])
        elif verb == "begin":
            self._begin(message)
        elif verb == "take":
            self._runs.update(message["runs"])
            runs = deque(message["runs"])
            while runs and not self._takers:  # until one was taken up: modules are loaded on the main thread
                if self._take([runs.popleft()]):
                    self._start_takers()
            for run_id in runs:
                self._to_take.put(run_id)
        else:
            self._closing = True
            self._force = self._force or verb == "force"
            if verb != "close" and self._engine is not None:
                self._engine.interrupt(force=verb == "force")

    def _begin(self, said: dict[str, Any]) -> None:
        _work_in(said["folder"])
        try:
            self._engine = HostEngine(
                self._told,
                self._wake,
                said["store"],
                artifacts=said["artifacts"],
                workers=said["workers"],
                home=said["home"],
                wakes=False,  # the server does
                **said["machine"],
            )
        except (DagengineError, OSError) as error:
            self._unfit(error)
        self._say({"ready": os.getpid()})

    def _unfit(self, error: DagengineError | OSError) -> NoReturn:
        """Nothing can be begun here, whichever run it is. On any thread."""
        self._say({"unfit": str(error)})
        os._exit(UNFIT_STATUS)

    def _start_takers(self) -> None:
        self._takers = [threading.Thread(target=self._take_more, name="taker", daemon=True) for _ in range(TAKERS)]
        for taker in self._takers:
            taker.start()

    def _take_more(self) -> None:
        """On a thread that waits for the store: all that have come meanwhile, together."""
        while (first := self._to_take.get()) is not None:
            run_ids = [first]
            with contextlib.suppress(Empty):
                while len(run_ids) < TAKEN_AT_ONCE:
                    following = self._to_take.get_nowait()
                    if following is None:
                        self._to_take.put(None)
                        break
                    run_ids.append(following)
            self._take(run_ids)

    def _take(self, run_ids: list[str]) -> int:
        """Take the runs up, on any thread; how many were."""
        assert self._engine is not None
        store = self._engine.store
        told: dict[str, BaseException | None]
        try:
            records = store.find_runs(run_ids)
            runs = []
            for run_id, record in records.items():
                if record.state.ended and record.state is not RunState.INTERRUPTED:
                    self._tell(ended=run_id, state=str(record.state))
                    continue
                folder = str(record.facts.get("cwd", ""))
                if not record.entry.get("file") and folder and folder not in sys.path and Path(folder).is_dir():
                    sys.path.insert(0, folder)
                runs.append(record)
            told = take_up_all(self._engine, runs)
            told |= {run_id: no_run(run_id, store.url) for run_id in run_ids if run_id not in records}
        except StoreError as error:
            told = dict.fromkeys(run_ids, error)
        except (DagengineError, OSError) as error:  # of none of them: the engine could not be opened
            self._unfit(error)
        for run_id, why in told.items():
            if isinstance(why, (RunOwned, RunExists, RunNotFound, Fenced)):
                self._tell(left=run_id, why=f"{type(why).__name__}: {why}")
            elif isinstance(why, StoreError):
                self._tell(again=run_id, why=f"{type(why).__name__}: {why}")
            elif why is not None:
                self._fail(store, run_id, why)
        return sum(why is None for why in told.values())

    def _tell(self, **message: str) -> None:
        """Have the server told. From any thread."""
        self._told.put(message)
        with contextlib.suppress(BlockingIOError):
            os.write(self._wake, b"\0")

    def _fail(self, store: Store, run_id: str, error: BaseException) -> None:
        """The run can't be begun: say so in its record, or where that fails, too, to the server."""
        from dagengine.functions import describe

        assert self._engine is not None
        reason = str(error) if isinstance(error, DagengineError) else describe(error)
        named = f"{type(error).__module__}.{type(error).__qualname__}"
        try:
            claim = store.claim(run_id, self._engine.process, lambda owner: False, reopen=False)
            failure = Failure("error", named, f"the run can't be begun: {reason}")
            end = FinishRun(RunState.FAILED, time.time(), failure)
            end_without_driver(store, self._engine.post.control, claim, end, FAIL_SECONDS)
        except Exception as second:
            self._tell(again=run_id, why=f"{reason}; and it could not be ended: {describe(second)}")
        else:
            self._tell(ended=run_id, state=str(RunState.FAILED), error=reason)


def _load(store: str) -> None:
    """Ahead of time, what every host needs for a store of this kind, and nobody's code."""
    import dagengine.runtime.processes

    if is_postgres(store):
        import dagengine.storage.postgres
    else:
        import dagengine.storage.sqlite  # noqa: F401


def _work_in(folder: str) -> None:
    """As if this process had been started in the folder, if it is one that we may enter."""
    with contextlib.suppress(OSError):
        before = str(Path.cwd())
        if folder:
            os.chdir(folder)
            if sys.path[0] == before:  # `python -m` puts it there
                sys.path[0] = folder


def main() -> None:
    """`python -m dagengine.serving.host DESCRIPTOR`: started by a server, which holds the other end."""
    Host(socket.socket(fileno=int(sys.argv[1]))).work()


if __name__ == "__main__":
    main()
