"""A joblib backend: `register()`, then `joblib.parallel_config("dagengine")` or `Parallel(backend="dagengine")`.

Batches, timeouts, generators of results and the abort at the first error are joblib's own, on an `Executor` of ours. Its
workers stay for the next call with as many of them. Parallel calls within tasks run on threads, as under joblib's loky.

May import nothing of ours but errors and runtime modules. joblib is imported inside of functions: it is an extra.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dagengine.errors import BadArguments
from dagengine.runtime import current
from dagengine.runtime.futures import Executor

__all__ = ["NAME", "register", "shutdown"]

NAME = "dagengine"

_executors: dict[int, Executor] = {}
"""By number of workers: kept from one Parallel call to the next. At most one, so that no workers lie about idle."""


def register() -> None:
    """Make the backend known to joblib under `NAME`. Harmless twice."""
    try:
        from joblib import register_parallel_backend
    except ImportError as error:
        raise BadArguments(f"this needs joblib, as in pip install 'dagengine[joblib]': {error}") from None
    register_parallel_backend(NAME, _backend())


def shutdown() -> None:
    """End the workers that are kept for the next Parallel call."""
    while _executors:
        _executors.popitem()[1].shutdown()


def _take(workers: int) -> Executor:
    found = _executors.get(workers)
    if found is None:
        shutdown()
        found = _executors[workers] = Executor(workers)
    return found


def _backend() -> type:
    from joblib._parallel_backends import AutoBatchingMixin, FallbackToBackend, ParallelBackendBase, SequentialBackend
    from joblib.parallel import cpu_count

    class DagengineBackend(AutoBatchingMixin, ParallelBackendBase):  # type: ignore[misc]
        supports_retrieve_callback = True
        supports_inner_max_num_threads = False

        def effective_n_jobs(self, n_jobs: int | None) -> int:
            if n_jobs == 0:
                raise ValueError("n_jobs == 0 in Parallel has no meaning")
            if n_jobs is None or current.link is not None:
                return 1
            return max(cpu_count() + 1 + n_jobs, 1) if n_jobs < 0 else n_jobs

        def configure(self, n_jobs: int = 1, parallel: Any = None, **_: Any) -> int:
            workers = self.effective_n_jobs(n_jobs)
            if workers == 1:
                raise FallbackToBackend(SequentialBackend(nesting_level=self.nesting_level))
            self.parallel = parallel
            self._executor: Executor | None = _take(workers)
            self._workers = workers
            return workers

        def submit(self, func: Callable[[], Any], callback: Callable[[Any], Any] | None = None) -> Any:
            assert self._executor is not None
            future = self._executor.submit(func)
            if callback is not None:
                future.add_done_callback(callback)
            return future

        def retrieve_result_callback(self, out: Any) -> Any:
            return out.result()

        def terminate(self) -> None:
            self._executor = None
            self.reset_batch_stats()

        def abort_everything(self, ensure_ready: bool = True) -> None:
            """What has not begun is dropped; what runs is ended with its workers."""
            executor, self._executor = self._executor, None
            if executor is not None:
                _executors.pop(self._workers, None)
                executor._backlog.terminate()
            if ensure_ready:
                self.configure(n_jobs=self.parallel.n_jobs, parallel=self.parallel)

    return DagengineBackend
