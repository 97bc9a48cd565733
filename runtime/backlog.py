"""Calls that wait for a pool of workers, as `concurrent.futures` and `multiprocessing` know them. `futures.Executor`,
`pool.Pool` and the joblib backend are faces of this.

    submit ─▶ queue ─▶ (so many that workers stay busy) ─▶ session ─▶ collector's thread ─▶ Future

What is in the queue can be cancelled; what has been handed to the workers counts as running. How many are handed over
beyond one for each worker follows from how long calls take: about 5 ms of work each, so that short calls don't pay a
round trip each and long ones can be cancelled till late.

Results are unpickled, and callbacks run, on a thread of the pool's own: they are the user's code.

May import nothing of ours but errors, model, values and runtime modules.
"""

from __future__ import annotations

import atexit
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor  # noqa: F401 - loaded first: see `_finish_all`
from concurrent.futures.process import BrokenProcessPool
from queue import Empty, SimpleQueue
from types import FunctionType
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakKeyDictionary, WeakSet

from dagengine.errors import RuntimeStopped, Unpicklable
from dagengine.model import INLINE_LIMIT, Failure
from dagengine.runtime.call_options import CallOptions
from dagengine.runtime.calling import EncodedCall, encode_call, name_of, target
from dagengine.runtime.owners import outcome
from dagengine.runtime.protocol import Lost, RuntimeEvent, Succeeded
from dagengine.runtime.raising import RemoteTraceback, exception_of
from dagengine.values import decode, encode

if TYPE_CHECKING:
    from dagengine.runtime.session import Session
    from dagengine.runtime.shapes import Shape

AHEAD: Final = 0.005
"""Seconds of work that each worker has before it."""

MOST_AHEAD: Final = 256
"""Calls that each worker has before it at the most, as the runtime sends no more ahead either."""

FIRST_GUESS: Final = 0.05
"""Seconds that a call is thought to take before any has ended."""


class WorkerDied(BrokenProcessPool):
    """The worker process died while it ran this call. Only this call is lost; the pool goes on with a new process."""


class InitializerFailed(Exception):
    """What workers were to run first raised an exception."""


class Item:
    """One call on its way. Told of its end by the session; belongs to the backlog's lock otherwise."""

    __slots__ = ("backlog", "call", "future", "inside", "name", "shape")

    actor = None

    def __init__(self, backlog: Backlog, shape: Shape, call: EncodedCall, future: Future[Any]) -> None:
        self.backlog = backlog
        self.shape = shape
        self.call = call
        self.future = future
        self.name = shape.name
        self.inside: list[Any] = []

    # With the session's lock held: only hand over.

    def succeeded(self, event: Succeeded) -> None:
        self.backlog.results.put((self, event))

    def ended_badly(self, event: RuntimeEvent) -> None:
        self.backlog.results.put((self, event))

    def failed(self, failure: Failure) -> None:
        self.backlog.results.put((self, failure))


class Backlog:
    """`open_session`: starts the workers, at the first call."""

    def __init__(
        self,
        workers: int,
        open_session: Callable[[], Session],
        initializer: Callable[..., Any] | None = None,
        initargs: tuple[Any, ...] = (),
    ) -> None:
        self.workers = workers
        self.results: SimpleQueue[Any] = SimpleQueue()
        self.broken: str | None = None
        self.closing = False
        self.ended = threading.Event()
        self._open_session = open_session
        self._session: Session | None = None
        self._lock = threading.RLock()
        self._queue: deque[Item] = deque()
        self._running = 0
        self._seconds = FIRST_GUESS
        self._thread: threading.Thread | None = None
        self._shapes: WeakKeyDictionary[Any, Any] = WeakKeyDictionary()
        self._generic: Any = None
        self._initializer = initializer
        self._initargs = initargs
        self._initial: Any = None
        _open.add(self)

    # ---- any thread ---------------------------------------------------------------------------

    def submit(self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Future[Any]:
        """Raises RuntimeError once it is closed, BrokenProcessPool if workers can't be made ready."""
        with self._lock:
            if self.broken:
                raise BrokenProcessPool(self.broken)
            if self.closing:
                raise RuntimeError("cannot schedule new futures after shutdown")
            session = self._session or self._start()
        future: Future[Any] = Future()
        try:
            shape, leading = self._shape(session, function)
            call = encode_call(leading + args, kwargs, shape.name, session.put_encoded)
        except Exception as error:
            # As a call that can't be sent fails in the original: not here, but where its result is asked for.
            future.set_running_or_notify_cancel()
            future.set_exception(_as_raised(error))
            return future
        with self._lock:
            self._queue.append(Item(self, shape, call, future))
        self._pump()
        return future

    def _start(self) -> Session:
        self._session = session = self._open_session()
        self._thread = threading.Thread(target=self._collect, name="dagengine-results", daemon=True)
        self._thread.start()
        return session

    def _shape(self, session: Session, function: Callable[..., Any]) -> tuple[Shape, tuple[Any, ...]]:
        """How workers find the function, and what goes before the call's arguments."""
        if self._initializer is not None:
            if self._initial is None:
                data = encode((self._initializer, self._initargs), "the initializer").to_bytes()
                initial: Any = data if len(data) <= INLINE_LIMIT // 2 else session.put(data)
                self._initial = (f"{id(self)}", initial)
                self._generic = session.declare(target(_prepared), _NO_RETRY)
            return self._generic, (*self._initial, function)
        if isinstance(function, FunctionType) and "<locals>" not in function.__qualname__:
            found = self._shapes.get(function)
            if found is None:
                found = self._shapes[function] = session.declare(target(function), _NO_RETRY)
            return found, ()
        # Lambdas, partials, bound methods: they travel with each call, and leave nothing behind.
        if self._generic is None:
            self._generic = session.declare(target(_call), _NO_RETRY)
        return self._generic, (function,)

    def _pump(self) -> None:
        """Hand over as many calls as keep the workers busy."""
        while True:
            with self._lock:
                if not self._queue or self._running >= self._window():
                    return
                item = self._queue.popleft()
                if not item.future.set_running_or_notify_cancel():
                    self._look_for_the_end()
                    continue
                self._running += 1
                session = self._session
            assert session is not None
            try:
                session.submit_owned(item.shape, item.call, item)
            except Exception as error:
                self.results.put((item, error))
                return

    def _window(self) -> int:
        ahead = min(MOST_AHEAD, int(AHEAD / max(self._seconds, 1e-6)))
        return self.workers * ahead + self.workers + 1

    def cancel_waiting(self) -> None:
        """Cancel what no worker was given."""
        with self._lock:
            queue, self._queue = self._queue, deque()
        for item in queue:
            item.future.cancel()
            item.future.set_running_or_notify_cancel()
        with self._lock:
            self._look_for_the_end()

    def close(self) -> None:
        """No more calls; the workers end when all that were made have."""
        with self._lock:
            self.closing = True
            if self._session is None:
                self.ended.set()
            self._look_for_the_end()

    def terminate(self) -> None:
        """End the workers now: what has not ended fails."""
        with self._lock:
            self.closing = True
            session = self._session
        self.cancel_waiting()
        if session is not None:
            session.stop(force=True)
        self.close()

    def join(self, timeout: float | None = None) -> bool:
        """Wait for the end of a closed backlog: its workers are gone then."""
        if not self.ended.wait(timeout):
            return False
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(timeout)
        return True

    def _look_for_the_end(self) -> None:
        if self.closing and not self._queue and not self._running and self._session is not None:
            self.results.put(None)

    # ---- the collector's thread ---------------------------------------------------------------

    def _collect(self) -> None:
        while True:
            told = self.results.get()
            ended = 0
            while told is not None:
                ended += 1
                self._deliver(*told)
                del told
                try:
                    told = self.results.get_nowait()
                except Empty:
                    break
            else:
                if self._is_over(ended):
                    return
                ended = 0
            if ended:
                with self._lock:
                    self._running -= ended
                self._pump()
                with self._lock:
                    self._look_for_the_end()

    def _is_over(self, ended: int) -> bool:
        with self._lock:
            self._running -= ended
            over = self.closing and not self._queue and not self._running
        if ended:
            self._pump()
        if not over:
            return False
        assert self._session is not None
        self._session.stop(force=False)
        self.ended.set()
        return True

    def _deliver(self, item: Item, told: Any) -> None:
        try:
            if isinstance(told, Succeeded):
                seconds = max(0.0, told.finished_at - told.started_at)
                self._seconds += (seconds - self._seconds) * 0.2
                if told.data is not None:
                    value = decode(told.data)
                else:
                    assert told.shared is not None
                    view = told.shared.view()
                    told.shared.close()
                    value = decode(view)
            else:
                raise self._exception(item, told)
        except BaseException as error:
            item.future.set_exception(error)
        else:
            item.future.set_result(value)

    def _exception(self, item: Item, told: Any) -> BaseException:
        if isinstance(told, BaseException):
            return told
        over = self._session.over if self._session is not None else None
        failure = told if isinstance(told, Failure) else outcome(told, item.name, over)
        if isinstance(told, Lost) or failure.kind == "lost":
            return WorkerDied(f"{item.name}: {failure.message}")
        error = exception_of(failure, item.name)
        if isinstance(error, InitializerFailed):
            return self._break(str(error), error.__cause__)
        if isinstance(error, RuntimeStopped):
            return BrokenProcessPool(f"{item.name} was not done: {failure.message}")
        return error

    def _break(self, reason: str, cause: BaseException | None) -> BaseException:
        with self._lock:
            self.broken = reason
            queue, self._queue = self._queue, deque()
        for item in queue:
            if item.future.set_running_or_notify_cancel():
                item.future.set_exception(BrokenProcessPool(reason))
        error = BrokenProcessPool(reason)
        error.__cause__ = cause
        return error


def _as_raised(error: Exception) -> BaseException:
    """What pickling itself raised, as in the original, with our words beside it."""
    cause = error.__cause__
    if not isinstance(error, Unpicklable) or cause is None:
        return error
    cause.add_note(str(error))
    return cause


_NO_RETRY = CallOptions(retries=0)

_open: WeakSet[Backlog] = WeakSet()


def _finish_all() -> None:
    """The end of the interpreter waits for what was submitted."""
    for backlog in list(_open):
        backlog.close()
        backlog.join()


# As `concurrent.futures` itself does: before the interpreter ends its threads. What is registered last is done first, so
# that the thread pools that the runtime uses are still there.
getattr(threading, "_register_atexit", atexit.register)(_finish_all)


# ---- in the worker --------------------------------------------------------------------------

_prepared_for: set[str] = set()


def _call(function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
    return function(*args, **kwargs)


def _prepared(token: str, initial: bytes, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
    """Call the function in a process where the initializer has run."""
    if token not in _prepared_for:
        initializer, initargs = decode(initial)
        try:
            initializer(*initargs)
        except BaseException as error:
            said = f"{type(error).__name__}: {error}"
            raise InitializerFailed(f"the initializer {name_of(initializer)} failed in a worker: {said}") from error
        _prepared_for.add(token)
    return function(*args, **kwargs)


def run_chunk(function: Callable[..., Any], chunk: list[tuple[Any, ...]], /) -> list[Any]:
    """Several calls as one."""
    return [function(*args) for args in chunk]


__all__ = ["Backlog", "InitializerFailed", "Item", "RemoteTraceback", "WorkerDied", "run_chunk"]
