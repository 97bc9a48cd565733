"""What every runtime promises, run on each of them. A new backend joins by a line in RUNTIMES."""

from __future__ import annotations

import hashlib
import os
import pickle
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dagengine.errors import Infeasible, RuntimeStopped, Unpicklable
from dagengine.functions import Reference
from dagengine.model import INLINE_LIMIT
from dagengine.runtime.inline import InlineRuntime
from dagengine.runtime.processes import ProcessRuntime
from dagengine.runtime.protocol import (
    Dropped,
    Failed,
    FileInput,
    ListInput,
    Resources,
    Runtime,
    Succeeded,
    TaskSpec,
)
from dagengine.values import decode, encode
from tests.runtime.harness import TASKS, WAIT, Harness, Input, inline

RUNTIMES: dict[str, Callable[[], Runtime]] = {
    "inline": InlineRuntime,
    "processes": lambda: ProcessRuntime(2),
}


@pytest.fixture(params=RUNTIMES)
def make(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Runtime]:
    # The inline runtime loads the tasks' file here, and its folder goes to the import path.
    monkeypatch.setattr(sys, "path", list(sys.path))
    return RUNTIMES[request.param]


@pytest.fixture
def harness(make: Callable[[], Runtime]) -> Iterator[Harness]:
    with Harness(make()) as harness:
        yield harness


# ---- values ---------------------------------------------------------------------------------


def test_a_task_is_called_with_its_arguments_and_its_result_comes_back(harness: Harness) -> None:
    """Positional and named arguments arrive, and the result is told with its digest, size and times."""
    task = harness.start("add", 2, kwargs={"right": 3})
    end = harness.end(task, Succeeded)
    assert end.data is not None
    assert decode(end.data) == 5
    assert end.size == len(end.data)
    assert end.digest == hashlib.sha256(end.data).hexdigest()
    assert end.started_at <= end.finished_at
    assert end.shared is None


def test_an_async_task_is_run_to_its_end(harness: Harness) -> None:
    """The result of a coroutine function is what it returns."""
    assert harness.run("add_later", 2, 3) == 5


def test_inputs_take_the_places_of_the_placeholders(harness: Harness) -> None:
    """Inputs are found wherever the call has a placeholder, lists of inputs included."""
    assert harness.run("add", [Input()], [1, Input()], inputs=[inline(5), inline(6)]) == [5, 1, 6]
    several = ListInput((inline(1), inline(2), inline(3)))
    assert harness.run("total", Input(), inputs=[several]) == 6
    nested = ListInput((several, ListInput(())))
    assert harness.run("same", Input(), inputs=[nested]) == [[1, 2, 3], []]


def test_many_inputs_arrive_whole(harness: Harness) -> None:
    """A list of inputs that together are larger than any frame."""
    values = [str(number) * 1000 for number in range(2000)]
    given = ListInput(tuple(inline(value) for value in values))
    assert harness.run("same", Input(), inputs=[given]) == values


def test_an_input_is_read_from_its_file(harness: Harness, tmp_path: Path) -> None:
    """A value in a file is given like any other."""
    encoded = encode({"a": [1, 2]}).to_bytes()
    file = tmp_path / "value"
    file.write_bytes(encoded)
    given = FileInput(str(file), len(encoded), hashlib.sha256(encoded).hexdigest(), verify=True)
    assert harness.run("same", Input(), inputs=[given]) == {"a": [1, 2]}


@pytest.mark.parametrize("damage", ["changed", "cut", "gone"])
def test_a_damaged_file_is_a_failure_that_says_so(harness: Harness, tmp_path: Path, damage: str) -> None:
    """Bytes that are not the recorded ones never reach a task: the failure names what is wrong with them."""
    encoded = encode("x" * 1000).to_bytes()
    file = tmp_path / "value"
    given = FileInput(str(file), len(encoded), hashlib.sha256(encoded).hexdigest(), verify=True)
    if damage != "gone":
        file.write_bytes(encoded[:-1] + (b"y" if damage == "changed" else b""))
    failure = harness.fails("same", Input(), inputs=[given]).failure
    assert failure.kind == "artifact"
    assert ("gone" if damage == "gone" else "damaged") in failure.message


@pytest.mark.parametrize("size", [INLINE_LIMIT // 2, INLINE_LIMIT * 2, 3_000_000])
def test_a_large_result_is_told_by_a_shared_object(harness: Harness, size: int) -> None:
    """Up to the limit results come as bytes, above it in shared memory; the digest is of the same bytes."""
    task = harness.start("same", "x" * size)
    assert harness.result(task) == "x" * size
    end = harness.end(task, Succeeded)
    assert (end.shared is None) == (size <= INLINE_LIMIT)
    if end.shared is not None:
        assert (end.shared.size, end.shared.digest) == (end.size, end.digest)
        end.shared.close()
        end.shared.close()
        with pytest.raises(ValueError, match="closed"):
            end.shared.fileno()


def test_the_context_is_there_while_the_task_runs_and_not_after(harness: Harness) -> None:
    """A task reads its own context; the next one, which has none, does not find it."""
    assert harness.run("current_context", context={"run_id": "r", "attempt": 2}) == {"run_id": "r", "attempt": 2}
    assert harness.run("current_context") is None


def test_a_task_does_not_see_the_context_variables_of_another(harness: Harness) -> None:
    """Each attempt runs in a context of its own."""
    assert [harness.run("count_in_context") for _ in range(3)] == [1, 1, 1]


def test_a_task_starts_in_the_folder_of_the_program(harness: Harness, tmp_path: Path) -> None:
    """A task that changes its folder does not change that of the next one."""
    here = str(Path.cwd())
    for _ in range(2):
        assert harness.run("change_folder", str(tmp_path)) == here
    assert [harness.run("folder") for _ in range(2)] == [here, here]


def test_a_function_can_travel_by_value(harness: Harness) -> None:
    """A function that no module has is found all the same."""
    import cloudpickle

    number = 41
    pickled = cloudpickle.dumps(lambda value: value + number, 5).hex()
    harness.runtime.define(900, Reference("__main__", "<lambda>", None, pickled).to_json())
    spec = TaskSpec((9, 9, 9), 900, encode(((1,), {})).to_bytes())
    harness.submit(spec)
    assert harness.result(spec.id) == 42


# ---- failures -------------------------------------------------------------------------------


def test_an_exception_is_told_with_the_users_part_of_its_traceback(harness: Harness) -> None:
    """The failure holds type, message, the user's frames and the exception itself."""
    failure = harness.fails("fail", "out of luck").failure
    assert (failure.kind, failure.type, failure.message, failure.retriable) == (
        "error",
        "ValueError",
        "out of luck",
        True,
    )
    lines = failure.traceback.splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert f'File "{TASKS}"' in lines[1]
    assert lines[-1] == "ValueError: out of luck"
    assert failure.pickled is not None
    error = pickle.loads(failure.pickled)
    assert type(error) is ValueError
    assert error.args == ("out of luck",)


def test_a_traceback_shows_the_cause_and_an_async_tasks_own_frames(harness: Harness) -> None:
    """The chain of exceptions is shown, and of an async task no frame of the event loop."""
    text = harness.fails("fail_deeper", "first").failure.traceback
    assert text.index("ValueError: first") < text.index("direct cause") < text.index("KeyError: 'deeper'")
    text = harness.fails("fail_later").failure.traceback
    assert "asyncio" not in text
    assert "fail_later" in text


@pytest.mark.parametrize(("name", "kind"), [("leave", "SystemExit"), ("interrupt", "KeyboardInterrupt")])
def test_an_exit_is_a_failure_of_the_task_and_the_worker_goes_on(harness: Harness, name: str, kind: str) -> None:
    """`sys.exit` in a task ends that attempt and nothing else: its worker is there for the next tasks."""
    arguments = [3] if name == "leave" else []
    failed = harness.fails(name, *arguments)
    assert failed.failure.type == kind
    whole = harness.runtime.capacity()
    for _ in range(4):
        # None is new: the one that failed is among them.
        assert harness.end(harness.start("same", 1, resources=whole), Succeeded).worker <= max(failed.worker, 1)


def test_whatever_an_exception_does_a_failure_comes_out(harness: Harness) -> None:
    """Exceptions that have no text, hold what can't be pickled, or don't survive it, are told as text."""
    failure = harness.fails("fail_unspeakably").failure
    assert failure.type.endswith("Unspeakable")
    assert "can't be made" in failure.message
    for name in ("fail_unpicklably", "fail_needing_two"):
        failure = harness.fails(name).failure
        assert failure.pickled is None
        assert failure.message


def test_a_long_message_is_shortened(harness: Harness) -> None:
    """A failure's texts are bounded, whatever was raised."""
    failure = harness.fails("fail_at_length", 1_000_000).failure
    assert len(failure.message) < 11_000
    assert len(failure.traceback) < 110_000
    assert failure.pickled is None


def test_an_unpicklable_result_names_the_path_to_what_can_not_be_pickled(harness: Harness) -> None:
    """The failure says which part of whose result it was, and is not worth a retry."""
    failure = harness.fails("unpicklable_result").failure
    assert failure.kind == "unpicklable"
    assert "the result of unpicklable_result" in failure.message
    assert "result['bad'][1]" in failure.message
    assert not failure.retriable
    assert failure.pickled is not None
    assert isinstance(pickle.loads(failure.pickled), Unpicklable)
    assert harness.fails("unpicklable_generator").failure.kind == "unpicklable"


def test_the_tasks_own_predicate_says_whether_a_failure_is_worth_a_retry(harness: Harness) -> None:
    """A decorated function is unwrapped, and asked about its exceptions; a predicate that raises means no."""
    assert harness.run("divide", 6, 2) == 3.0
    assert harness.fails("divide", 1, 1).failure.retriable
    assert not harness.fails("divide", -1, 2).failure.retriable
    broken = harness.fails("divide", 1, 0).failure
    assert not broken.retriable
    assert broken.type == "ZeroDivisionError"
    assert "a broken predicate" in broken.traceback


def test_a_function_that_is_not_there_is_a_failure_of_the_task(harness: Harness) -> None:
    """A reference that leads nowhere fails the attempts that need it, by name."""
    harness.runtime.define(901, Reference("tasks", "nowhere", str(TASKS)).to_json())
    spec = TaskSpec((9, 9, 8), 901, encode(((), {})).to_bytes())
    harness.submit(spec)
    failure = harness.end(spec.id, Failed).failure
    assert failure.type == "dagengine.errors.LoadError"
    assert "nowhere" in failure.message


# ---- maps -----------------------------------------------------------------------------------


def test_an_expansion_makes_one_call_for_each_item(harness: Harness) -> None:
    """The item takes the list's place, other arguments stay, other placeholders keep their order less one."""
    inputs = [inline([10, 20]), inline("second"), inline("third")]
    fixed = ({"deep": [Input()]}, Input())
    task = harness.start("same", Input(), *fixed, kwargs={"named": 1}, inputs=inputs, mode="expand")
    end = harness.end(task, Succeeded)
    assert end.data is None
    assert end.calls is not None
    assert [decode(call, ["second", "third"]) for call in end.calls] == [
        ((10, {"deep": ["second"]}, "third"), {"named": 1}),
        ((20, {"deep": ["second"]}, "third"), {"named": 1}),
    ]


def test_an_expanded_call_can_be_run(harness: Harness) -> None:
    """What an expansion returns is a call like any other."""
    fixed = inline(100)
    task = harness.start("add", Input(), Input(), inputs=[inline(range(3)), fixed], mode="expand")
    calls = harness.end(task, Succeeded).calls
    assert calls is not None
    specs = [TaskSpec((2, index, 1), harness.function("add"), call, (fixed,)) for index, call in enumerate(calls)]
    harness.submit(*specs)
    assert [harness.result(spec.id) for spec in specs] == [100, 101, 102]


def test_a_large_expansion_arrives_whole(harness: Harness) -> None:
    """Calls that together are larger than any frame."""
    task = harness.start("same", Input(), inputs=[inline(list(range(20_000)))], mode="expand")
    calls = harness.end(task, Succeeded).calls
    assert calls is not None
    assert [decode(call) for call in calls] == [((number,), {}) for number in range(20_000)]


def test_an_expansion_of_nothing_and_of_no_list(harness: Harness) -> None:
    """No items make no calls; what has no items is a failure that names its type."""
    task = harness.start("same", Input(), inputs=[inline([])], mode="expand")
    assert harness.end(task, Succeeded).calls == []
    failure = harness.fails("same", Input(), inputs=[inline(5)], mode="expand").failure
    assert failure.type == "TypeError"
    assert "int" in failure.message


# ---- life -----------------------------------------------------------------------------------


def test_an_attempt_that_takes_its_time_is_told_as_started(harness: Harness, tmp_path: Path) -> None:
    """While it runs, with the worker that its end names, too."""
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    task = harness.start("touch_and_wait", str(tmp_path / "touched"), str(gate))
    started = harness.wait_started(task)
    gate.write_text("go on")
    assert harness.end(task, Succeeded).worker == started.worker


def test_thousands_of_tasks_all_end(harness: Harness) -> None:
    """Every attempt of a wide fan ends exactly once with its own result."""
    specs = [harness.spec("same", number) for number in range(3000)]
    harness.submit(*specs[:1000])
    harness.submit(*specs[1000:])
    assert [harness.result(spec.id) for spec in specs] == list(range(3000))


def test_tasks_may_be_submitted_from_several_threads(harness: Harness) -> None:
    """Submitting is safe from anywhere, the sink's thread included."""
    groups = [[harness.spec("same", number) for number in range(50)] for _ in range(4)]
    threads = [threading.Thread(target=harness.submit, args=group) for group in groups]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for group in groups:
        assert [harness.result(spec.id) for spec in group] == list(range(50))


def test_an_infeasible_task_is_refused_and_none_of_its_batch_is_queued(harness: Harness) -> None:
    """Who asks for more than there is learns it at once, with the numbers."""
    there = harness.runtime.capacity()
    harmless = harness.spec("same", 1)
    for resources, text in (
        (Resources(cpus=there.cpus + 1), "cpus"),
        (Resources(memory=there.memory + 1), "memory"),
    ):
        with pytest.raises(Infeasible, match=text):
            harness.runtime.submit([harmless, harness.spec("same", 2, resources=resources)])
    assert harness.run("same", 3) == 3
    assert harmless.id not in harness.ends
    whole = Resources(there.cpus, there.memory)
    assert harness.run("same", 4, resources=whole) == 4


def test_a_cancelled_attempt_that_is_queued_is_dropped(harness: Harness, tmp_path: Path) -> None:
    """Queued attempts never run; the one that runs is left to end by itself."""
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    whole = harness.runtime.capacity()
    running = harness.start("touch_and_wait", str(tmp_path / "on"), str(gate), resources=whole)
    harness.wait_started(running)
    queued = [harness.start("same", number) for number in range(20)]
    harness.runtime.cancel([running, *queued[:10], (8, 8, 8)])
    for end in harness.ends_of(queued[:10]):
        assert isinstance(end, Dropped)
        assert not end.started
    gate.write_text("go")
    assert harness.result(running) == "go"
    assert [harness.result(task) for task in queued[10:]] == list(range(10, 20))


def test_closing_waits_for_what_runs_and_drops_what_is_queued(make: Callable[[], Runtime], tmp_path: Path) -> None:
    """After a close every attempt has ended: those that ran by themselves, the others dropped."""
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    with Harness(make()) as harness:
        whole = harness.runtime.capacity()
        running = harness.start("touch_and_wait", str(tmp_path / "on"), str(gate), resources=whole)
        harness.wait_started(running)
        more = [harness.start("same", number) for number in range(10)]
        closing = threading.Thread(target=harness.runtime.close)
        closing.start()
        for end in harness.ends_of(more):
            assert isinstance(end, Dropped)
        gate.write_text("go")
        assert harness.result(running) == "go"
        closing.join()


def test_closing_twice_or_before_opening_is_harmless(make: Callable[[], Runtime]) -> None:
    """A runtime that was closed, ever, takes no tasks."""
    runtime = make()
    runtime.close()
    runtime.close(force=True)
    with pytest.raises(RuntimeStopped):
        runtime.submit([])
    with pytest.raises(RuntimeStopped):
        runtime.open(lambda events: None)
    with Harness(make()) as harness:
        assert harness.run("same", 1) == 1
        harness.runtime.close()
        harness.runtime.close()
        with pytest.raises(RuntimeStopped):
            harness.runtime.submit([harness.spec("same", 1)])


def test_the_sink_may_submit_and_close(make: Callable[[], Runtime]) -> None:
    """Called on the runtime's own thread, the sink does not deadlock with it."""
    ended = threading.Event()
    results: list[Any] = []

    class Chain(Harness):
        def sink(self, events: Any) -> None:
            super().sink(events)
            for event in events:
                if isinstance(event, Succeeded) and event.data is not None:
                    results.append(decode(event.data))
                    if len(results) < 5:
                        self.start("add", results[-1], 1)
                    else:
                        self.runtime.close()
                        ended.set()

    with Chain(make()) as chain:
        chain.start("same", 0)
        assert ended.wait(WAIT)
    assert results == [0, 1, 2, 3, 4]
