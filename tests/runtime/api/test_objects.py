"""Values as objects: put, how long they live, groups, and the end of everything."""

from __future__ import annotations

import gc
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import dagengine.runtime as rt
from dagengine.errors import BadArguments, BadOption, Infeasible, RuntimeStopped
from dagengine.runtime import clients
from tests.runtime.api import functions as f
from tests.runtime.api.fake import FakeRuntime
from tests.runtime.harness import WAIT
from tests.runtime.left_behind import Left

ROOT = Path(__file__).parents[3]


class TestOnProcesses:
    """On worker processes."""

    @pytest.fixture(autouse=True)
    def _started(self, runtime: object) -> None:
        return

    def test_a_large_value_is_a_read_only_view(self) -> None:
        """Nobody can change what others read."""
        import numpy as np

        ref = rt.put(np.arange(1_000_000))
        assert rt.get(f.array_sum.remote(ref)) == sum(range(1_000_000))
        array = rt.get(ref)
        del ref
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1
        assert int(array[-1]) == 999_999  # what is read stays where it is

    def test_a_large_argument_becomes_an_object(self) -> None:
        """Also beside refs, and by keyword."""
        import numpy as np

        assert rt.get(f.array_sum.remote(np.arange(100_000))) == sum(range(100_000))
        assert rt.get(f.array_sum.remote(array=np.arange(100_000))) == sum(range(100_000))

    def test_tasks_of_a_group_run_in_what_was_set_aside(self) -> None:
        """While the group is there, its cpus are nobody else's."""
        with rt.group([{"cpus": 1}], "strict_pack") as group:
            assert rt.get(f.add.options(group=group, bundle=0).remote(1, 2)) == 3
            assert rt.nodes()[0].free.cpus == 1
            counter = f.Counter.options(group=group).remote()
            assert rt.get(counter.add.remote()) == 1
            del counter

    def test_a_group_that_can_never_be_is_refused(self) -> None:
        """So are strategies and resources that do not exist."""
        with pytest.raises(Infeasible):
            rt.group([{"cpus": 500}])
        with pytest.raises(BadOption, match="strict_pack"):
            rt.group([{"cpus": 1}], "tight")
        with pytest.raises(BadOption, match="cpu"):
            rt.group([{"cpu": 1}])


def test_an_object_is_freed_with_its_last_ref(fake: FakeRuntime) -> None:
    """Results, put values, items of streams and several results alike; copies of a ref count as one."""
    ref = f.make_array.remote(10_000)
    rt.get(ref)
    copy = ref
    del ref
    assert fake.freed == []
    del copy
    fake.await_freed(1)
    made: Any
    for made in (rt.put(b"x" * 100_000), f.three.remote(), list(f.count_to.remote(3))):
        rt.get(made)
    del made
    fake.await_freed(1 + 1 + 3 + 3)
    assert {key: value for key, value in fake.objects.items() if key not in fake.freed} == {}


def test_a_task_that_nobody_reads_is_run_and_its_result_freed(fake: FakeRuntime) -> None:
    """Dropping the ref drops the result, not the work."""
    f.make_array.remote(10_000)
    fake.await_freed(1)
    assert [spec.mode for spec in fake.submitted] == ["call"]


def test_refs_in_a_value_are_held_by_its_object(fake: FakeRuntime) -> None:
    """They come back as refs when the value is read, and go with it."""
    inner = rt.put(b"y" * 100_000)
    outer: rt.Ref[Any] = rt.put([inner, "text"])
    number = inner.id
    del inner
    gc.collect()
    [back, _] = rt.get(outer)
    assert back.id == number
    assert rt.get(back) == b"y" * 100_000
    assert fake.freed == []
    del back, outer
    fake.await_freed(1)
    assert number in fake.freed


def test_a_ref_that_was_pickled_by_hand_comes_back_while_it_lives(fake: FakeRuntime) -> None:
    """Afterwards the error says that its object is gone."""
    ref = f.add.remote(1, 2)
    data = pickle.dumps(ref)
    assert pickle.loads(data) is ref
    del ref
    fake.await_freed(1)
    with pytest.raises(BadArguments, match="freed"):
        pickle.loads(data)


def test_a_long_chain_of_refs_is_dropped_without_recursion(fake: FakeRuntime) -> None:
    """Each ref of an unfinished chain holds the one before it: 50,000 of them go at once."""
    fake.hold()
    ref = f.add.remote(0, 0)
    for _ in range(50_000):
        ref = f.add.remote(ref, 1)
    fake.closed = True
    rt.stop()
    with pytest.raises(RuntimeStopped):
        rt.get(ref)


def test_what_has_no_result_when_the_runtime_stops_says_so(fake: FakeRuntime) -> None:
    """Waiting threads are woken, and refs of a stopped runtime are refused by the next."""
    fake.hold()
    ref = f.add.remote(1, 1)
    rt.stop()
    with pytest.raises(RuntimeStopped, match="stopped"):
        rt.get(ref)


def test_a_ref_of_another_runtime_is_refused(fake: FakeRuntime) -> None:
    """It would name another object there, or none. What it knows itself it tells."""
    ref = f.add.remote(1, 1)
    rt.get(ref)
    rt.stop()
    from dagengine.runtime.session import Session

    clients._session = Session(FakeRuntime(), clients._forget)
    other = f.add.remote(1, 1)
    assert rt.get(ref) == 2  # small values are where their refs are
    with pytest.raises(BadArguments, match="another runtime"):
        rt.get([other, ref])
    with pytest.raises(BadArguments, match="another runtime"):
        f.add.remote(ref, 1)


def test_it_starts_by_itself_and_leaves_nothing() -> None:
    """The first call starts it; after `stop` no process, thread or descriptor is left."""
    left = Left.now()
    assert rt.get(f.add.remote(1, 2)) == 3
    rt.stop()
    rt.stop()
    gc.collect()
    left.check()


def run(code: str, *, rc: int = 0) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=WAIT,
    )
    assert done.returncode == rc, done.stderr
    return done.stdout


def test_a_script_needs_no_stop() -> None:
    """Functions of a script travel by value, and the interpreter's end is the runtime's."""
    code = """
import dagengine.runtime as rt
limit = 10
@rt.remote
def f(x): return x + limit
class Plain: pass
@rt.remote
class A:
    def get(self): return f, Plain().__class__.__name__
if __name__ == "__main__":
    print(rt.get([f.remote(1), A.remote().get.remote()])[0], rt.get(f.remote(f.remote(1))))
"""
    assert run(code) == "11 21\n"


def test_a_fork_of_the_process_gets_a_runtime_of_its_own() -> None:
    """In the child nothing of the parent's is freed or ended."""
    code = """
import os, sys
import dagengine.runtime as rt
double = rt.remote(lambda x: 2 * x)
ref = double.remote(1)
assert rt.get(ref) == 2
pid = os.fork()
if pid == 0:
    del ref
    assert rt.get(double.remote(3)) == 6
    rt.stop()
    os._exit(0)
assert os.waitpid(pid, 0)[1] == 0
print(rt.get(ref), rt.get(double.remote(4)))
"""
    assert run(code) == "2 8\n"


def test_importing_it_is_light() -> None:
    """Neither the wire nor arrays nor a database come with the import of the front."""
    heavy = {"numpy", "pyarrow", "sqlalchemy", "fsspec", "msgspec", "asyncio", "multiprocessing", "concurrent.futures"}
    code = f"import sys, dagengine.runtime; print(sorted({heavy!r} & set(sys.modules)))"
    assert run(code) == "[]\n"
