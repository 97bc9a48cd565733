"""Functions as tasks: arguments, results, errors, waiting, cancelling."""

from __future__ import annotations

import os
import pickle
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import dagengine.runtime as rt
from dagengine.errors import (
    BadArguments,
    BadOption,
    Infeasible,
    RefMisuse,
    RuntimeStopped,
    TaskCancelled,
    TaskTimeout,
    Unpicklable,
    WaitTimeout,
    WorkerLost,
)
from dagengine.runtime.raising import RemoteTraceback
from tests.runtime.api import functions as f
from tests.runtime.harness import WAIT

pytestmark = pytest.mark.usefixtures("runtime")


def test_a_call_is_a_ref_to_its_result() -> None:
    """`remote` returns at once, `get` has the value, and the plain function is still there."""
    ref = f.add.remote(1, 2)
    assert isinstance(ref, rt.Ref)
    assert rt.get(ref) == 3
    assert rt.get([f.add.remote(n, n) for n in range(100)]) == [2 * n for n in range(100)]
    assert f.add(1, 2) == 3


def test_refs_are_their_values_in_arguments_and_containers() -> None:
    """A ref may stand anywhere in the arguments, also twice, and before its task has ended."""
    one, two = f.add.remote(0, 1), f.add.remote(1, 1)
    assert rt.get(f.total.remote(one, [one, two], right := two)) == 6
    assert rt.get(f.same.remote({"a": [one, (two, {"b": right})]})) == {"a": [1, (2, {"b": 2})]}
    assert rt.get(f.add.remote(left=one, right=two)) == 3


def test_a_chain_is_submitted_before_its_first_link_has_ended() -> None:
    """Each call reads the one before; nobody waits in between."""
    ref = f.add.remote(0, 0)
    for _ in range(500):
        ref = f.add.remote(ref, 1)
    assert rt.get(ref) == 500


def test_any_keyword_is_the_users() -> None:
    """Names that libraries like to take for themselves reach the function."""
    assert rt.get(f.keywords.remote(self=1, fn=2, args=3, kwargs=4)) == (1, 2, 3, 4)


def test_functions_need_no_name_that_can_be_imported() -> None:
    """Lambdas, closures, partials, built-ins, bound methods and async functions run as well."""
    offset = 40
    assert rt.get(rt.remote(lambda x: x + offset).remote(2)) == 42
    assert rt.get(rt.remote(max).remote(3, 4)) == 4
    assert rt.get(rt.remote("a,b".split).remote(",")) == ["a", "b"]
    assert rt.get(f.later.remote(7)) == 7


def test_several_results_are_an_object_each() -> None:
    """`returns=3` gives three refs, each of which can be read without the others."""
    one, two, three = f.three.remote()
    assert rt.get(three) == 3
    assert rt.get(f.add.remote(one, two)) == 3
    doubled: Any = rt.remote(lambda x: (x, 2 * x)).options(returns=2)
    assert rt.get(doubled.remote(4)) == [4, 8]


def test_a_wrong_number_of_results_is_an_error_of_the_task() -> None:
    """The refs fail, saying how many were expected."""
    refs = f.three.options(returns=2).remote()
    with pytest.raises(ValueError, match=r"returns=2.*returned 3"):
        rt.get(refs)


def test_an_exception_comes_back_as_it_was_with_the_remote_traceback_as_its_cause() -> None:
    """Whoever reads the result of a failed task, or of one that depends on it, gets the exception."""
    failed = f.divide.remote(1, 0)
    with pytest.raises(ZeroDivisionError) as caught:
        rt.get(failed)
    assert isinstance(caught.value.__cause__, RemoteTraceback)
    assert "in divide" in str(caught.value.__cause__)
    with pytest.raises(ZeroDivisionError):
        rt.get(f.add.remote(f.add.remote(failed, 1), 1))


def test_get_does_not_wait_for_others_once_one_has_failed(tmp_path: Path) -> None:
    """A failure is told although another task of the list has not ended."""
    waiting = f.wait_for.remote(str(tmp_path / "go"))
    refs: list[Any] = [waiting, f.divide.remote(1, 0)]
    with pytest.raises(ZeroDivisionError):
        rt.get(refs)
    (tmp_path / "go").touch()
    rt.get(waiting)


def test_what_can_not_be_pickled_is_named() -> None:
    """An argument fails where the call is made, a result where it is read."""
    with pytest.raises(Unpicklable, match="argument"):
        f.same.remote(threading.Lock())
    with pytest.raises(Unpicklable, match="result"):
        rt.get(rt.remote(f.make_lock).remote())


def test_a_ref_that_is_used_as_its_value_says_what_to_do() -> None:
    """Arithmetic, truth and iteration of a promise are mistakes."""
    ref = f.add.remote(1, 1)
    misuses: list[Any] = [lambda: ref + 1, lambda: bool(ref), lambda: list(ref), lambda: ref[0], ref]
    for misuse in misuses:
        with pytest.raises(RefMisuse, match=r"rt\.get"):
            misuse()


def test_get_and_wait_refuse_what_is_no_ref() -> None:
    """The error says what came instead."""
    wrong: Any = [[3], "abc"]
    with pytest.raises(BadArguments, match="int"):
        rt.get(wrong[0])
    with pytest.raises(BadArguments, match="str"):
        rt.get(wrong[1])
    with pytest.raises(BadArguments, match="0 to 1"):
        rt.wait([f.add.remote(1, 1)], 2)


def test_get_gives_up_after_its_timeout_and_the_task_goes_on(tmp_path: Path) -> None:
    """WaitTimeout is a TimeoutError, and a later get has the value."""
    ref = f.wait_for.remote(str(tmp_path / "go"))
    with pytest.raises(WaitTimeout, match="wait_for"):
        rt.get(ref, timeout=0.02)
    (tmp_path / "go").touch()
    assert rt.get(ref) == str(tmp_path / "go")


def test_wait_tells_those_that_have_ended_from_the_rest(tmp_path: Path) -> None:
    """Failed tasks have ended as well."""
    blocked = f.wait_for.remote(str(tmp_path / "go"))
    refs: list[Any] = [f.divide.remote(1, 0), blocked]
    done, rest = rt.wait(refs)
    assert len(done) == 1
    assert rest == [blocked]
    assert rt.wait([blocked], timeout=0) == ([], [blocked])
    (tmp_path / "go").touch()
    assert rt.wait([blocked], 1) == ([blocked], [])


def test_a_cancelled_task_that_has_not_begun_never_does(tmp_path: Path) -> None:
    """Its readers are cancelled with it; a task that runs is left to end."""
    gates = [str(tmp_path / "begun0"), str(tmp_path / "begun1")]
    running = [f.note_and_wait.remote(begun, str(tmp_path / "go")) for begun in gates]
    queued = f.die.remote(str(tmp_path / "never"))
    reader = f.same.remote(queued)
    rt.cancel(queued)
    rt.cancel(running[0])
    with pytest.raises(TaskCancelled):
        rt.get(queued)
    with pytest.raises(TaskCancelled):
        rt.get(reader)
    (tmp_path / "go").touch()
    assert rt.get(running[1])
    assert not (tmp_path / "never").exists()


def test_a_running_task_is_ended_by_force(tmp_path: Path) -> None:
    """Its worker is replaced."""
    ref = f.note_and_wait.options(grace=0.2).remote(str(tmp_path / "begun"), str(tmp_path / "go"))
    rt.get(f.wait_for.remote(str(tmp_path / "begun")))
    rt.cancel(ref, force=True)
    with pytest.raises(TaskCancelled):
        rt.get(ref)
    assert rt.get(f.add.remote(1, 1)) == 2


def test_a_task_that_runs_too_long_is_ended(tmp_path: Path) -> None:
    """TaskTimeout is a TimeoutError that names the task."""
    with pytest.raises(TaskTimeout, match="note_and_wait"):
        rt.get(f.note_and_wait.options(timeout=0.1, grace=0.1).remote(str(tmp_path / "begun"), str(tmp_path / "go")))


def test_a_lost_worker_is_retried_and_then_named(tmp_path: Path) -> None:
    """`retries` further attempts; then WorkerLost says which signal it was."""
    assert rt.get(f.die_once.remote(str(tmp_path / "died"))) == "second attempt"
    log = tmp_path / "log"
    with pytest.raises(WorkerLost, match="SIGKILL"):
        rt.get(f.die.options(retries=1).remote(str(log)))
    assert log.read_text() == "xx"


def test_options_are_checked_when_they_are_said() -> None:
    """Unknown names, wrong types and wrong places are refused at once."""
    with pytest.raises(BadOption, match=r"cpus"):
        f.add.options(cpu=2)
    with pytest.raises(BadOption, match="at least 0"):
        rt.remote(cpus=-1)
    with pytest.raises(BadOption, match="actor"):
        f.add.options(max_restarts=2)
    with pytest.raises(BadOption, match="function"):
        f.Counter.options(retries=2)
    with pytest.raises(BadOption, match="group"):
        f.add.options(bundle=1)


def test_what_can_never_run_is_refused_at_once() -> None:
    """The error says what there is."""
    with pytest.raises(Infeasible, match="500"):
        f.add.options(cpus=500).remote(1, 1)
    with pytest.raises(Infeasible, match="licence"):
        f.add.options(resources={"licence": 1}).remote(1, 1)


def test_a_remote_function_can_be_sent_to_tasks() -> None:
    """Decorated functions and actor classes are values like others."""
    assert rt.get(f.kind_of.remote(f.add)) == "RemoteFunction"
    assert pickle.loads(pickle.dumps(f.add)) is f.add
    assert pickle.loads(pickle.dumps(f.Decorated)) is f.Decorated


def test_the_state_of_things_can_be_asked() -> None:
    """Nodes, counters, what is waited for, and why a task is where it is."""
    ref = f.add.remote(1, 1)
    rt.get(ref)
    [node] = rt.nodes()
    assert node.capacity.cpus == 2
    assert rt.stats()["tasks"] >= 1
    assert all(isinstance(why, str) for why in rt.waits().values())


def test_starting_twice_is_refused_and_asking_for_what_runs_is_not(runtime: Any) -> None:
    """`start()` with settings would not have them."""
    assert rt.start() is runtime
    with pytest.raises(RuntimeStopped, match="stop"):
        rt.start(3)


def test_many_threads_may_call_at_once() -> None:
    """Calls, gets and drops from eight threads give each thread its own results."""
    results: dict[int, list[int]] = {}

    def work(thread: int) -> None:
        results[thread] = rt.get([f.add.remote(thread, n) for n in range(50)])

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT)
    assert results == {thread: [thread + n for n in range(50)] for thread in range(8)}


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    """As in a terminal: what a shell has begun in the background ignores SIGINT."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_ends_a_get_and_nothing_else(tmp_path: Path) -> None:
    """KeyboardInterrupt comes out of the wait, and the runtime goes on."""
    interrupt = f.interrupt.remote(os.getpid(), str(tmp_path / "go"))
    blocked = f.wait_for.remote(str(tmp_path / "end"))
    with pytest.raises(KeyboardInterrupt):
        _touch_and_get(tmp_path / "go", blocked)
    (tmp_path / "end").touch()
    assert rt.get(interrupt) == 5
    assert rt.get(blocked) == str(tmp_path / "end")


def _touch_and_get(gate: Path, ref: rt.Ref[Any]) -> None:
    gate.touch()
    rt.get(ref, timeout=WAIT)
