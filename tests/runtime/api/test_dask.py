"""The Dask scheduler, held against what Dask documents of `get` and asks of its own schedulers."""

from __future__ import annotations

from collections.abc import Iterator
from operator import add, truediv
from typing import Any

import pytest

import dagengine.runtime as rt
from dagengine.runtime.dask import get
from dagengine.runtime.raising import RemoteTraceback

dask = pytest.importorskip("dask", reason="the dask extra is not installed")
pytestmark = pytest.mark.filterwarnings("default")  # Dask's own and its friends' deprecations are not ours to raise


@pytest.fixture(scope="module", autouse=True)
def _runtime() -> Iterator[None]:
    with rt.start(2):
        yield


def inc(value: int) -> int:
    return value + 1


def test_keys_may_be_nested_and_their_shape_is_kept() -> None:
    """A key, a list of keys, lists in lists; keys may be tuples, and values that stand in the graph."""
    graph = {"x": 1, "y": (inc, "x"), ("z", 0): (add, "y", "x"), "data": [1, "x", ["y"]], "name": "text"}
    assert get(graph, "y") == 2
    assert get(graph, ["x", ("z", 0)]) == (1, 3)
    assert get(graph, [["x"], ["y", ["x", "y"]]]) == ((1,), (2, (1, 2)))
    assert get(graph, ["data", "name"]) == ([1, 1, [2]], "text")
    assert get(graph, []) == ()


def test_aliases_nested_tasks_and_tasks_in_lists_are_followed() -> None:
    """The old way of writing graphs: tuples in tuples, lists of tasks, keys that stand for keys."""
    graph = {"a": 1, "b": "a", "c": "b", "d": (sum, [(inc, "c"), "a", (inc, (inc, 3))]), "e": "d"}
    assert get(graph, ["c", "e"]) == (1, 8)


def test_task_objects_are_run() -> None:
    """The new way: Task, TaskRef, Alias, DataNode and containers of them."""
    from dask._task_spec import Alias, DataNode, List, Task, TaskRef

    graph = {
        "x": DataNode("x", 5),
        "y": Task("y", add, TaskRef("x"), 1),
        "z": Task("z", sum, List(TaskRef("x"), TaskRef("y"))),
        "again": Alias("again", "z"),
        "kw": Task("kw", dict, a=TaskRef("again")),
    }
    assert get(graph, ["again", "kw"]) == (11, {"a": 11})


def test_what_no_key_needs_is_not_run() -> None:
    """A task that would fail beside the way is no trouble; a key that is missing is a KeyError."""
    assert get({"x": 1, "bad": (truediv, 1, 0)}, "x") == 1
    with pytest.raises(KeyError):
        get({"x": 1}, "y")


def test_an_exception_comes_as_it_was_raised_with_the_remote_traceback() -> None:
    """It does not wait for what else the graph has to do."""
    graph: dict[Any, Any] = {"x": (truediv, 1, 0), "y": (inc, "x")}
    with pytest.raises(ZeroDivisionError) as caught:
        get(graph, ["y"])
    assert isinstance(caught.value.__cause__, RemoteTraceback)


def test_a_circle_is_refused() -> None:
    """As by Dask's own schedulers."""
    with pytest.raises(RuntimeError, match=r"[Cc]ycle"):
        get({"x": (inc, "y"), "y": (inc, "x")}, "x")


def test_a_graph_10_000_deep_runs() -> None:
    """No recursion anywhere."""
    graph: dict[Any, Any] = {("x", 0): 0}
    graph.update({("x", n): (inc, ("x", n - 1)) for n in range(1, 10_001)})
    assert get(graph, ("x", 10_000)) == 10_000


def test_a_graph_10_000_wide_runs() -> None:
    """One task reads them all."""
    graph: dict[Any, Any] = {("x", n): (inc, n) for n in range(10_000)}
    graph["sum"] = (sum, [("x", n) for n in range(10_000)])
    assert get(graph, "sum") == sum(range(10_001))


def test_collections_compute_on_it() -> None:
    """As `scheduler=` of compute, of the configuration, and of delayed functions and bags."""
    from dask import bag
    from dask.delayed import delayed

    assert delayed(sum)([delayed(inc)(n) for n in range(10)]).compute(scheduler=get) == 55
    numbers: Any = bag.from_sequence(range(100), npartitions=4)  # type: ignore[no-untyped-call]
    with dask.config.set(scheduler=get):
        assert numbers.map(inc).sum().compute() == 5_050
        assert dask.compute(delayed(inc)(1), delayed(inc)(2)) == (2, 3)


def test_arrays_go_from_task_to_task_without_copies() -> None:
    """Large blocks are objects of the runtime; all of them are freed afterwards."""
    import numpy as np

    def total(blocks: list[Any]) -> int:
        assert not any(block.flags.writeable for block in blocks)
        return int(sum(block.sum() for block in blocks))

    graph: dict[Any, Any] = {("block", n): (np.full, 100_000, n) for n in range(8)}
    graph["total"] = (total, [("block", n) for n in range(8)])
    assert get(graph, "total") == 100_000 * sum(range(8))


def test_callbacks_are_told_of_each_task() -> None:
    """Those of Dask's diagnostics work."""
    from dask.callbacks import Callback

    told: dict[Any, Any] = {}
    finished: list[bool] = []

    class Notes(Callback):
        def _posttask(self, key: Any, result: Any, dsk: Any, state: Any, worker: Any) -> None:
            told[key] = result

        def _finish(self, dsk: Any, state: Any, failed: bool) -> None:
            finished.append(failed)

    with Notes():  # type: ignore[no-untyped-call]
        assert get({"x": 1, "y": (inc, "x"), "z": "y"}, ["z", "y"]) == (2, 2)
        with pytest.raises(ZeroDivisionError):
            get({"x": (truediv, 1, 0)}, "x")
    assert told == {"x": 1, "y": 2, "z": 2}
    assert finished == [False, True]
