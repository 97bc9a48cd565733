"""`Pool`: the interface of `multiprocessing.Pool` on worker processes of the runtime.

Methods, results, callbacks and errors are as `multiprocessing.pool` documents them. What differs:

- When a worker process dies, the call (or chunk) that it ran raises `WorkerDied`; the original hangs.
- Functions without an importable name (lambdas, those of a notebook) can be called, too.
- If the initializer fails, calls raise BrokenProcessPool; the original starts workers again and again.
- `maxtasksperchild` and `context` are accepted and have no effect: workers stay, and are forked from a clean process.

May import nothing of ours but errors and runtime modules.
"""

from __future__ import annotations

import itertools
import os
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from functools import partial
from multiprocessing import TimeoutError as PoolTimeout
from multiprocessing import pool as original
from typing import Any, Final

from dagengine.errors import Unpicklable
from dagengine.runtime.backlog import Backlog, RemoteTraceback, WorkerDied, run_chunk

__all__ = ["AsyncResult", "MapResult", "Pool", "WorkerDied"]

FED: Final = 1_000
"""Chunks for each worker that an imap takes from its iterable ahead of the results: the iterable may be endless."""


class AsyncResult:
    """The result of `apply_async`."""

    def __init__(
        self, callback: Callable[[Any], Any] | None = None, error_callback: Callable[[BaseException], Any] | None = None
    ) -> None:
        self._event = threading.Event()
        self._success = False
        self._value: Any = None
        self._callback = callback
        self._error_callback = error_callback

    def ready(self) -> bool:
        return self._event.is_set()

    def successful(self) -> bool:
        if not self.ready():
            raise ValueError(f"{self!r} not ready")
        return self._success

    def wait(self, timeout: float | None = None) -> None:
        self._event.wait(timeout)

    def get(self, timeout: float | None = None) -> Any:
        if not self._event.wait(timeout):
            raise PoolTimeout
        if self._success:
            return self._value
        raise self._value

    def _watch(self, future: Future[Any]) -> AsyncResult:
        future.add_done_callback(self._told)
        return self

    def _told(self, future: Future[Any]) -> None:
        error = _error_of(future)
        if error is None:
            self._set(True, future.result())
        else:
            self._set(False, error)

    def _set(self, success: bool, value: Any) -> None:
        self._success, self._value = success, value
        try:
            if success and self._callback is not None:
                self._callback(value)
            elif not success and self._error_callback is not None:
                self._error_callback(value)
        finally:
            self._event.set()


class MapResult(AsyncResult):
    """The result of `map_async`: a list, or the first error, when all calls have ended."""

    def __init__(
        self, callback: Callable[[Any], Any] | None, error_callback: Callable[[BaseException], Any] | None
    ) -> None:
        super().__init__(callback, error_callback)
        self._lock = threading.Lock()
        self._chunks: list[Any] = []
        self._left = 0
        self._error: BaseException | None = None

    def _watch_all(self, futures: list[Future[Any]]) -> MapResult:
        self._left = len(futures)
        self._chunks = [None] * len(futures)
        if not futures:
            self._set(True, [])
        for index, future in enumerate(futures):
            future.add_done_callback(partial(self._chunk_told, index))
        return self

    def _chunk_told(self, index: int, future: Future[Any]) -> None:
        error = _error_of(future)
        with self._lock:
            self._left -= 1
            if error is None:
                self._chunks[index] = future.result()
            elif self._error is None:
                self._error = error
            last = self._left == 0
        if not last:
            return
        if self._error is not None:
            self._set(False, self._error)
        else:
            self._set(True, list(itertools.chain.from_iterable(self._chunks)))


class IMapIterator:
    """The results of `imap` in their order, of `imap_unordered` in the order in which they come."""

    def __init__(self, feed: Callable[[IMapIterator], None], ordered: bool) -> None:
        self._changed = threading.Condition()
        self._futures: deque[Future[Any]] = deque()  # in order, or those that have ended
        self._items: deque[Any] = deque()
        self._unfinished = 0
        self._fed = False
        self._ordered = ordered
        threading.Thread(target=self._feed, args=(feed,), name="dagengine-imap", daemon=True).start()

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        return self.next()

    def next(self, timeout: float | None = None) -> Any:
        while not self._items:
            with self._changed:
                if not self._changed.wait_for(self._may_go_on, timeout):
                    raise PoolTimeout
                if not self._futures:
                    raise StopIteration from None
                future = self._futures.popleft()
            error = _error_of(future)
            if error is not None:
                raise error
            self._items.extend(future.result())
        return self._items.popleft()

    def _may_go_on(self) -> bool:
        if self._futures:
            return not self._ordered or self._futures[0].done()
        return self._fed and self._unfinished == 0

    def _feed(self, feed: Callable[[IMapIterator], None]) -> None:
        try:
            feed(self)
        except BaseException as error:
            failed: Future[Any] = Future()
            failed.set_exception(error)
            self._add(failed, 1 << 62)
        finally:
            with self._changed:
                self._fed = True
                self._changed.notify_all()

    def _add(self, future: Future[Any], most: int) -> None:
        """Waits while `most` are unfinished."""
        with self._changed:
            self._changed.wait_for(lambda: self._unfinished < most)
            self._unfinished += 1
            if self._ordered:
                self._futures.append(future)
        future.add_done_callback(self._told)

    def _told(self, future: Future[Any]) -> None:
        with self._changed:
            self._unfinished -= 1
            if not self._ordered:
                self._futures.append(future)
            self._changed.notify_all()


class Pool:
    """`processes` workers (one for each processor that this process may use)."""

    def __init__(
        self,
        processes: int | None = None,
        initializer: Callable[..., Any] | None = None,
        initargs: Iterable[Any] = (),
        maxtasksperchild: int | None = None,
        context: Any = None,
    ) -> None:
        workers = len(os.sched_getaffinity(0)) if processes is None else processes
        if workers < 1:
            raise ValueError("Number of processes must be at least 1")
        if maxtasksperchild is not None and (not isinstance(maxtasksperchild, int) or maxtasksperchild <= 0):
            raise ValueError("maxtasksperchild must be a positive int or None")
        if initializer is not None and not callable(initializer):
            raise TypeError("initializer must be a callable")

        def open_session() -> Any:
            from dagengine.runtime.session import Session

            return Session.open(workers)

        self._processes = workers
        self._backlog = Backlog(workers, open_session, initializer, tuple(initargs))
        self._closed = False
        self._feeding = 0
        self._lock = threading.Lock()
        weakref.finalize(self, self._backlog.close).atexit = False

    # ---- one call -----------------------------------------------------------------------------

    def apply(self, func: Callable[..., Any], args: Iterable[Any] = (), kwds: dict[str, Any] | None = None) -> Any:
        return self.apply_async(func, args, kwds).get()

    def apply_async(
        self,
        func: Callable[..., Any],
        args: Iterable[Any] = (),
        kwds: dict[str, Any] | None = None,
        callback: Callable[[Any], Any] | None = None,
        error_callback: Callable[[BaseException], Any] | None = None,
    ) -> AsyncResult:
        self._check_running()
        future = self._backlog.submit(func, tuple(args), dict(kwds or {}))
        return AsyncResult(callback, error_callback)._watch(future)

    # ---- many ---------------------------------------------------------------------------------

    def map(self, func: Callable[..., Any], iterable: Iterable[Any], chunksize: int | None = None) -> list[Any]:
        found: list[Any] = self.map_async(func, iterable, chunksize).get()
        return found

    def map_async(
        self,
        func: Callable[..., Any],
        iterable: Iterable[Any],
        chunksize: int | None = None,
        callback: Callable[[Any], Any] | None = None,
        error_callback: Callable[[BaseException], Any] | None = None,
    ) -> MapResult:
        return self._map(func, [(item,) for item in iterable], chunksize, callback, error_callback)

    def starmap(
        self, func: Callable[..., Any], iterable: Iterable[Iterable[Any]], chunksize: int | None = None
    ) -> list[Any]:
        found: list[Any] = self.starmap_async(func, iterable, chunksize).get()
        return found

    def starmap_async(
        self,
        func: Callable[..., Any],
        iterable: Iterable[Iterable[Any]],
        chunksize: int | None = None,
        callback: Callable[[Any], Any] | None = None,
        error_callback: Callable[[BaseException], Any] | None = None,
    ) -> MapResult:
        return self._map(func, [tuple(item) for item in iterable], chunksize, callback, error_callback)

    def _map(
        self,
        func: Callable[..., Any],
        calls: list[tuple[Any, ...]],
        chunksize: int | None,
        callback: Callable[[Any], Any] | None,
        error_callback: Callable[[BaseException], Any] | None,
    ) -> MapResult:
        self._check_running()
        if chunksize is None:
            chunksize, extra = divmod(len(calls), self._processes * 4)
            chunksize += bool(extra)
        chunksize = max(1, chunksize)
        futures = [
            self._backlog.submit(run_chunk, (func, calls[start : start + chunksize]), {})
            for start in range(0, len(calls), chunksize)
        ]
        return MapResult(callback, error_callback)._watch_all(futures)

    def imap(self, func: Callable[..., Any], iterable: Iterable[Any], chunksize: int = 1) -> IMapIterator:
        return self._imap(func, iterable, chunksize, ordered=True)

    def imap_unordered(self, func: Callable[..., Any], iterable: Iterable[Any], chunksize: int = 1) -> IMapIterator:
        return self._imap(func, iterable, chunksize, ordered=False)

    def _imap(
        self, func: Callable[..., Any], iterable: Iterable[Any], chunksize: int, *, ordered: bool
    ) -> IMapIterator:
        self._check_running()
        if chunksize < 1:
            raise ValueError(f"Chunksize must be 1+, not {chunksize:n}")
        backlog, most = self._backlog, FED * self._processes

        def feed(results: IMapIterator) -> None:
            try:
                items = iter(iterable)
                while chunk := [(item,) for item in itertools.islice(items, chunksize)]:
                    results._add(backlog.submit(run_chunk, (func, chunk), {}), most)
            finally:
                self._fed()

        with self._lock:
            self._feeding += 1
        return IMapIterator(feed, ordered)

    # ---- life ---------------------------------------------------------------------------------

    def close(self) -> None:
        """No more calls; the workers end when all are done."""
        with self._lock:
            self._closed = True
            fed = self._feeding == 0
        if fed:
            self._backlog.close()

    def _fed(self) -> None:
        with self._lock:
            self._feeding -= 1
            over = self._closed and self._feeding == 0
        if over:
            self._backlog.close()

    def terminate(self) -> None:
        """End the workers at once."""
        self._closed = True
        self._backlog.terminate()

    def join(self) -> None:
        """Wait for the workers' end. Raises ValueError if the pool is neither closed nor terminated."""
        if not self._closed:
            raise ValueError("Pool is still running")
        self._backlog.join()

    def __enter__(self) -> Pool:
        self._check_running()
        return self

    def __exit__(self, *_: object) -> None:
        self.terminate()

    def __reduce__(self) -> Any:
        raise NotImplementedError("pool objects cannot be passed between processes or pickled")

    def _check_running(self) -> None:
        if self._closed:
            raise ValueError("Pool not running")


def _error_of(future: Future[Any]) -> BaseException | None:
    """Why there is no result, as the original would say it."""
    if future.cancelled():
        return WorkerDied("the pool was terminated before this was done")
    error = future.exception()
    if isinstance(error, Unpicklable) and error.what.startswith("the result"):
        wrapped: BaseException = original.MaybeEncodingError(error, error.what)  # type: ignore[attr-defined]
        wrapped.__cause__ = error
        return wrapped
    if error is not None and isinstance(error.__cause__, RemoteTraceback):
        error.__cause__ = original.RemoteTraceback(error.__cause__.text)  # type: ignore[attr-defined]
    return error
