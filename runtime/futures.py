"""`Executor`: a `concurrent.futures.Executor` on worker processes of the runtime.

Everything is as `concurrent.futures` documents it for ProcessPoolExecutor, and its futures are `concurrent.futures.Future`
objects, so `wait`, `as_completed` and `asyncio` work with them. What differs:

- When a worker process dies, only the call that it ran fails (with `WorkerDied`, a `BrokenProcessPool`): the runtime
  knows which one that was. The executor goes on with another process. It is broken for good only if the initializer
  fails, as the original is.
- Functions without an importable name (lambdas, those of a notebook) can be submitted, too.
- Large arrays are not copied: arguments and results are read-only views on shared memory.
- `max_tasks_per_child` is accepted and has no effect: workers stay.

May import nothing of ours but errors and runtime modules.
"""

from __future__ import annotations

import concurrent.futures
import itertools
import os
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Any, ParamSpec, TypeVar

from dagengine.runtime.backlog import Backlog, InitializerFailed, RemoteTraceback, WorkerDied, run_chunk

__all__ = ["Executor", "InitializerFailed", "RemoteTraceback", "WorkerDied"]

P = ParamSpec("P")
T = TypeVar("T")


class Executor(concurrent.futures.Executor):
    """`max_workers` processes (one for each processor that this process may use).

    initializer, initargs: what each worker calls before its first call of ours
    memory, object_memory, spill, room_timeout, gpus, gpu_memory, resources: as of `dagengine.runtime.start`
    """

    def __init__(
        self,
        max_workers: int | None = None,
        mp_context: Any = None,
        initializer: Callable[..., Any] | None = None,
        initargs: tuple[Any, ...] = (),
        *,
        max_tasks_per_child: int | None = None,
        memory: int | None = None,
        object_memory: int | None = None,
        spill: str | Sequence[str] | None = None,
        room_timeout: float | None = None,
        gpus: int | None = None,
        gpu_memory: int | None = None,
        resources: dict[str, float] | None = None,
    ) -> None:
        if max_workers is not None and max_workers <= 0:
            raise ValueError("max_workers must be greater than 0")
        if initializer is not None and not callable(initializer):
            raise TypeError("initializer must be a callable")
        if max_tasks_per_child is not None:
            if not isinstance(max_tasks_per_child, int):
                raise TypeError("max_tasks_per_child must be an integer")
            if max_tasks_per_child <= 0:
                raise ValueError("max_tasks_per_child must be >= 1")
        workers = max_workers or len(os.sched_getaffinity(0))

        def open_session() -> Any:
            from dagengine.runtime.session import Session

            return Session.open(
                workers,
                memory=memory,
                object_memory=object_memory,
                spill=spill,
                room_timeout=room_timeout,
                gpus=gpus,
                gpu_memory=gpu_memory,
                resources=resources,
            )

        self._backlog = Backlog(workers, open_session, initializer, initargs)
        # When the executor is collected: what was submitted is done, then the workers end, as in the original.
        weakref.finalize(self, self._backlog.close).atexit = False

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        return self._backlog.submit(fn, args, kwargs)

    def map(
        self, fn: Callable[..., T], *iterables: Iterable[Any], timeout: float | None = None, chunksize: int = 1
    ) -> Iterator[T]:
        """As the original: in the order of the arguments; `chunksize` calls travel as one."""
        if chunksize < 1:
            raise ValueError("chunksize must be >= 1.")
        if chunksize == 1:
            return super().map(fn, *iterables, timeout=timeout)
        chunks = super().map(
            partial(run_chunk, fn), _chunked(zip(*iterables, strict=False), chunksize), timeout=timeout
        )
        return _each(chunks)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        if cancel_futures:
            self._backlog.cancel_waiting()
        self._backlog.close()
        if wait:
            self._backlog.join()


def _chunked(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    iterator = iter(items)
    while chunk := list(itertools.islice(iterator, size)):
        yield chunk


def _each(chunks: Iterator[list[T]]) -> Iterator[T]:
    for chunk in chunks:
        chunk.reverse()
        while chunk:
            yield chunk.pop()
