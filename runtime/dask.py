"""A Dask scheduler: `dask.config.set(scheduler=dagengine.runtime.dask.get)`, or `get(graph, keys)`.

Each node of the graph becomes a task; values go from task to task as objects, so they spill when memory is full, and
arrays are mapped, not copied. A value is freed when the last node that reads it has ended. Nodes are submitted in Dask's
own order, which keeps few values alive; nothing here is recursive in the depth of the graph.

May import nothing of ours but errors and runtime modules. Dask is imported inside of functions: it is an extra.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterator, Mapping
from typing import Any

from dagengine.errors import BadArguments
from dagengine.runtime import clients
from dagengine.runtime.call_options import CallOptions
from dagengine.runtime.calling import encode_call, target
from dagengine.runtime.handles import Ref

__all__ = ["get"]


def get(dsk: Any, keys: Any, num_workers: int | None = None, callbacks: Any = None, **_: Any) -> Any:
    """The values of `keys` (a key, or lists of keys, nested), from the graph.

    num_workers: for the runtime, if this starts it; without it one for each processor
    callbacks: as of Dask's local schedulers; those that are registered are called, too
    Raises what a task raised, with its remote traceback as the cause; RuntimeError for a graph with a cycle.
    """
    try:
        from dask._task_spec import Alias, DataNode, convert_legacy_graph
        from dask.callbacks import local_callbacks, unpack_callbacks
        from dask.order import order
    except ImportError as error:
        raise BadArguments(f"this needs dask, as in pip install 'dagengine[dask]': {error}") from None

    if not isinstance(dsk, Mapping) and hasattr(dsk, "__dask_graph__"):
        dsk = dsk.__dask_graph__()
    wanted = set(_flat(keys))
    with local_callbacks(callbacks) as active:
        starts, start_states, before, after, finishes = unpack_callbacks(active)  # type: ignore[no-untyped-call]
        for call in starts:
            call(dsk)
        graph = _needed(convert_legacy_graph(dsk), wanted)
        state: dict[str, Any] = {"waiting": {}, "ready": set(graph), "running": set(), "finished": set(), "cache": {}}
        for call in start_states:
            call(graph, state)
        run = _Run(graph, wanted, num_workers, watched=bool(after))
        succeeded = False
        try:
            places: Any = order(graph)  # type: ignore[arg-type]  # our graphs are Dask's
            for key in sorted(graph, key=places.__getitem__):
                for call in before:
                    call(key, graph, state)
                node = graph[key]
                if isinstance(node, Alias):
                    run.keep(key, run.refs[node.target])
                elif isinstance(node, DataNode):
                    run.keep(key, run.client.put(node.value))
                else:
                    run.submit(key, node)
                run.used(node.dependencies)
            for key, value in run.ends(state):
                for call in after:
                    call(key, value, graph, state, None)
            values = dict(zip(run.results, run.client.get(list(run.results.values()), None), strict=True))
            succeeded = True
            return _shaped(keys, values)
        finally:
            if not succeeded:
                run.client.cancel_many(run.numbers)
            for call in finishes:
                call(graph, state, not succeeded)


class _Run:
    """One graph on its way. `watched`: somebody wants to be told of each value."""

    def __init__(
        self, graph: dict[Hashable, Any], wanted: set[Hashable], workers: int | None, *, watched: bool
    ) -> None:
        if workers is not None and not clients.running():
            clients.start(workers)
        self.client = clients.client()
        self.refs: dict[Hashable, Ref[Any]] = {}
        self.results: dict[Hashable, Ref[Any]] = {}
        self.numbers: list[int] = []
        self._wanted = wanted
        self._uses = Counter(read for node in graph.values() for read in node.dependencies)
        self._shape = self.client.declare(target(_run_node), CallOptions())
        self._watched: dict[Hashable, Ref[Any]] | None = {} if watched else None

    def submit(self, key: Hashable, node: Any) -> None:
        reads = {read: self.refs[read] for read in node.dependencies}
        call = encode_call((node, reads), {}, f"the task {key!r}", self.client.put_encoded)
        ref = self.client.submit(self._shape, call)
        self.numbers.append(ref.id[0])
        self.keep(key, ref)

    def keep(self, key: Hashable, ref: Ref[Any]) -> None:
        self.refs[key] = ref
        if key in self._wanted:
            self.results[key] = ref
        if self._watched is not None:
            self._watched[key] = ref

    def used(self, reads: Any) -> None:
        """What nobody else reads is given up: the runtime keeps it for the tasks that were submitted."""
        self._uses.subtract(reads)
        for read in reads:
            if not self._uses[read]:
                self.refs.pop(read, None)

    def ends(self, state: dict[str, Any]) -> Iterator[tuple[Hashable, Any]]:
        """The values, one by one as they come, for callbacks."""
        left = self._watched or {}
        while left:
            ended = self.client.wait(list(left.values()), 1, None)
            for key, is_over in zip(list(left), ended, strict=True):
                if is_over:
                    value = self.client.get([left.pop(key)], None)[0]
                    state["ready"].discard(key)
                    state["finished"].add(key)
                    yield key, value


def _run_node(node: Any, values: dict[Hashable, Any]) -> Any:
    """Runs in the worker."""
    return node(values)


def _flat(keys: Any) -> list[Hashable]:
    """The keys in nested lists. A tuple is a key."""
    found = []
    left = [keys]
    while left:
        key = left.pop()
        if isinstance(key, list):
            left += key
        else:
            found.append(key)
    return found


def _needed(graph: dict[Hashable, Any], wanted: set[Hashable]) -> dict[Hashable, Any]:
    """What of the graph leads to the keys. Raises KeyError for one that is not there."""
    found: dict[Hashable, Any] = {}
    left = list(wanted)
    while left:
        key = left.pop()
        if key not in found:
            found[key] = node = graph[key]
            left += node.dependencies
    return found


def _shaped(keys: Any, values: dict[Hashable, Any]) -> Any:
    if isinstance(keys, list):
        return tuple(_shaped(key, values) for key in keys)
    return values[keys]
