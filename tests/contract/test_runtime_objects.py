"""What every runtime with objects, actors, streams and groups promises, run on each of them."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dagengine.errors import Infeasible, ObjectStoreFull, RuntimeStopped
from dagengine.model import INLINE_LIMIT, Failure
from dagengine.runtime.processes import ProcessRuntime
from dagengine.runtime.protocol import (
    ActorLost,
    ActorWork,
    Content,
    Dropped,
    Failed,
    ListInput,
    Lost,
    ObjectId,
    ObjectInput,
    Placement,
    Replayed,
    Resources,
    Succeeded,
    TaskId,
    TimedOut,
    Yielded,
)
from dagengine.values import decode, encode
from tests.runtime.harness import WAIT, Harness, Input, inline, wait_for_file
from tests.runtime.left_behind import Left

MB = 1 << 20

Make = Callable[..., Harness]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    """Opens runtimes with the given settings, and checks at the end that nothing is left of them."""
    before = Left.now()
    opened: list[Harness] = []
    spill = tmp_path / "spill"

    def make_one(workers: int = 2, **settings: Any) -> Harness:
        settings.setdefault("spill", (str(spill),))
        harness = Harness(ProcessRuntime(workers, **settings))
        opened.append(harness)
        return harness.__enter__()

    yield make_one
    for harness in opened:
        harness.__exit__()
    before.check()
    assert not [path for path in spill.rglob("*") if path.is_file()], "a spill file is left"


def content(harness: Harness, object_id: ObjectId) -> Content | Failure:
    """Wait for what `read` tells."""
    found: list[Content | Failure] = []
    told = threading.Event()

    def tell(what: Content | Failure) -> None:
        found.append(what)
        told.set()

    harness.runtime.read(object_id, tell)
    assert told.wait(WAIT), "nothing was told"
    return found[0]


def value(harness: Harness, object_id: ObjectId) -> Any:
    read = content(harness, object_id)
    assert isinstance(read, Content), read
    if read.data is not None:
        return decode(read.data)
    assert read.shared is not None
    with read.shared.view() as view:
        found = decode(bytes(view))
    read.shared.close()
    return found


# ---- objects --------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [10, INLINE_LIMIT * 2, 3 * MB])
def test_what_was_put_can_be_read_and_given_to_tasks(make: Make, size: int) -> None:
    """Small or large, by whoever put it and by any task, until it is freed."""
    harness = make()
    harness.runtime.put((1,), encode("x" * size))
    assert value(harness, (1,)) == "x" * size
    assert harness.run("length", Input(), inputs=[ObjectInput((1,))]) == size
    nested = ListInput((ObjectInput((1,)), inline("y")))
    assert harness.run("lengths", Input(), inputs=[nested]) == [size, 1]
    harness.runtime.free([(1,), (99,)])


@pytest.mark.parametrize("size", [10, 3 * MB])
def test_a_tasks_output_is_an_object_that_others_may_wait_for(make: Make, size: int) -> None:
    """Readers may be submitted before it exists; the event hands over small results, too, and never large ones."""
    harness = make()
    reader = harness.spec("length", Input(), inputs=[ObjectInput((7,))])
    maker = harness.spec("repeat", "x", size, output=(7,))
    harness.submit(reader, maker)
    assert harness.result(reader.id) == size
    end = harness.end(maker.id, Succeeded)
    assert (end.data is None) == (size > INLINE_LIMIT)
    assert end.shared is None
    assert value(harness, (7,)) == "x" * size
    harness.runtime.free([(7,)])


def test_a_freed_object_lives_until_the_tasks_that_were_submitted_before_have_read_it(make: Make) -> None:
    """Freeing says that nobody will name it again, not that nobody needs it; then its room is free."""
    harness = make()
    harness.runtime.put((1,), encode("x" * MB))
    readers = [harness.spec("length", Input(), inputs=[ObjectInput((1,))]) for _ in range(20)]
    harness.submit(*readers)
    harness.runtime.free([(1,)])
    assert [harness.result(reader.id) for reader in readers] == [MB] * 20
    harness.settle(object_bytes=0)


def test_who_reads_what_a_failed_task_should_have_made_fails_as_it_did(make: Make) -> None:
    """Down a chain of readers, with the first one's failure."""
    harness = make()
    first = harness.spec("fail", "out of luck", output=(1,))
    second = harness.spec("same", Input(), inputs=[ObjectInput((1,))], output=(2,))
    third = harness.spec("same", Input(), inputs=[ObjectInput((2,))])
    harness.submit(third, second, first)
    for task in (first, second, third):
        failure = harness.end(task.id, Failed).failure
        assert (failure.type, failure.message) == ("ValueError", "out of luck")
    assert isinstance(content(harness, (2,)), Failure)


def test_an_array_is_read_where_it_lies_and_can_not_be_written(make: Make) -> None:
    """One copy in memory, whoever reads it."""
    pytest.importorskip("numpy")
    harness = make()
    maker = harness.spec("array", 500_000, output=(1,))
    harness.submit(maker)
    seen = harness.run("look_at_array", Input(), inputs=[ObjectInput((1,))])
    assert seen["sum"] == 500_000 * 499_999 / 2
    assert not seen["writeable"]
    assert "memfd" in seen["mapping"]


def test_a_view_that_outlives_its_task_keeps_the_bytes(make: Make) -> None:
    """A worker that keeps an array in a global variable sees the same numbers, however much is put meanwhile."""
    pytest.importorskip("numpy")
    harness = make(1, object_memory=16 * MB)
    harness.submit(harness.spec("array", MB, output=(1,)))
    whole = Resources(1.0)
    assert harness.run("keep_array", Input(), inputs=[ObjectInput((1,))], resources=whole) == MB
    harness.runtime.free([(1,)])
    for number in range(10, 30):
        harness.runtime.put((number,), encode(bytes([number]) * (3 * MB)))
    assert harness.run("sum_of_kept") == MB * (MB - 1) / 2


# ---- memory ---------------------------------------------------------------------------------


def test_more_objects_than_fit_are_spilled_and_come_back(make: Make) -> None:
    """Data of several times the limit: every byte is there, and the arena never has more than its limit."""
    harness = make(object_memory=8 * MB)
    for number in range(20):
        harness.runtime.put((number,), encode(bytes([number]) * (2 * MB)))
    stats = harness.runtime.stats()
    assert stats["spilled_bytes"] > 20 * MB
    assert stats["object_bytes"] <= 8 * MB
    for number in range(20):
        task = harness.start("checked", Input(), number, inputs=[ObjectInput((number,))])
        assert harness.result(task) == 2 * MB
    assert value(harness, (3,)) == bytes([3]) * (2 * MB)
    harness.runtime.free([(number,) for number in range(20)])
    harness.settle(objects=0, object_bytes=0, spill_bytes=0)


def test_six_slots_and_two_tasks_of_four_objects_each(make: Make) -> None:
    """Room for six objects, eight made before: both tasks finish, one after the other, and nothing is fetched in vain."""
    size = MB - 4096
    harness = make(2, object_memory=6 * MB)
    for number in range(8):
        harness.runtime.put((number,), encode(bytes([number]) * size))
    before = harness.runtime.stats()["restored_bytes"]
    specs = [
        harness.spec("lengths", [Input()] * 4, inputs=[ObjectInput((number,)) for number in numbers])
        for numbers in (range(4), range(4, 8))
    ]
    harness.submit(*specs)
    assert [harness.result(spec.id) for spec in specs] == [[size] * 4] * 2
    restored = harness.runtime.stats()["restored_bytes"] - before
    assert restored <= 8 * MB


def test_a_task_whose_output_finds_no_room_does_not_wait_for_ever(make: Make) -> None:
    """Tasks that hold all of the room by what they read, and each make more than is left, all end."""
    harness = make(2, object_memory=8 * MB)
    for number in range(2):
        harness.runtime.put((number,), encode(b"x" * (3 * MB)))
    specs = [
        harness.spec("repeat_like", Input(), 3 * MB, inputs=[ObjectInput((number % 2,))], output=(10 + number,))
        for number in range(6)
    ]
    harness.submit(*specs)
    for spec in specs:
        harness.end(spec.id, Succeeded)
    for number in range(6):
        assert len(value(harness, (10 + number,))) == 3 * MB


def test_an_object_larger_than_all_room_goes_to_the_disk(make: Make) -> None:
    """As a task's output, as what is put, and as a result that is handed over; it can be read, not given to a task."""
    harness = make(object_memory=2 * MB)
    harness.runtime.put((1,), encode(b"p" * (5 * MB)))
    assert value(harness, (1,)) == b"p" * (5 * MB)
    maker = harness.spec("repeat", "o", 5 * MB, output=(2,))
    handed = harness.spec("repeat", "h", 5 * MB)
    harness.submit(maker, handed)
    assert harness.result(handed.id) == "h" * (5 * MB)
    harness.end(maker.id, Succeeded)
    assert value(harness, (2,)) == "o" * (5 * MB)
    failure = harness.fails("length", Input(), inputs=[ObjectInput((2,))]).failure
    assert failure.kind == "objects"
    assert f"{2 * MB:,}" in failure.message


def test_a_result_that_was_handed_over_stays_until_it_is_closed(make: Make) -> None:
    """Whatever is spilled around it; and also when the runtime is closed before."""
    harness = make(object_memory=8 * MB)
    task = harness.start("repeat", "x", 3 * MB)
    end = harness.end(task, Succeeded)
    assert end.shared is not None
    for number in range(10):
        harness.runtime.put((number,), encode(b"y" * (2 * MB)))
    with end.shared.view() as view:
        assert decode(bytes(view)) == "x" * (3 * MB)
    assert os.pread(end.shared.fileno(), 4, end.shared.offset) == b"DGV1"
    harness.runtime.close()
    with end.shared.view() as view:
        assert decode(bytes(view)) == "x" * (3 * MB)
    end.shared.close()


def test_a_full_spill_space_is_an_error_that_says_so(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """When nothing can be freed, whoever puts is told what is full; when something was freed, it goes on."""
    from dagengine.runtime import spilling

    class Small(spilling.SpillSpace):
        def __init__(self, urls: Any) -> None:
            super().__init__(urls, limit=4 * MB)

    monkeypatch.setattr("dagengine.runtime.processes.SpillSpace", Small)
    harness = make(object_memory=4 * MB)

    def put_all() -> None:
        for number in range(20):
            harness.runtime.put((number,), encode(b"x" * MB))

    with pytest.raises(ObjectStoreFull, match="spill space"):
        put_all()
    failure = harness.fails("repeat", "x", 3 * MB, output=(100,)).failure
    assert failure.kind == "objects"
    harness.runtime.free([(number,) for number in range(20)])
    harness.runtime.put((50,), encode(b"x" * MB))
    assert harness.run("length", Input(), inputs=[ObjectInput((50,))]) == MB


def test_putting_ends_when_the_runtime_does(make: Make) -> None:
    """A closed runtime takes nothing, and says so."""
    harness = make()
    harness.runtime.close()
    for size in (10, MB):
        with pytest.raises(RuntimeStopped):
            harness.runtime.put((1,), encode(b"x" * size))


# ---- actors ---------------------------------------------------------------------------------


def create(harness: Harness, actor: int = 1, *args: Any, **fields: Any) -> TaskId:
    work = ActorWork((actor,), **fields.pop("work", {}))
    return harness.start("Counter", *args, mode="create", actor=work, **fields)


def call(harness: Harness, method: str, *args: Any, actor: int = 1, **fields: Any) -> TaskId:
    work = ActorWork((actor,), method, **fields.pop("work", {}))
    return harness.start("Counter", *args, mode="method", actor=work, **fields)


def test_an_actor_keeps_its_state_and_its_calls_their_order(make: Make) -> None:
    """Its calls run in the order of submission in one process, whatever else runs."""
    harness = make()
    create(harness, 1, 100)
    calls = [call(harness, "add", 1) for _ in range(500)]
    assert [harness.result(task) for task in calls] == list(range(101, 601))
    pids = {harness.result(call(harness, "pid")) for _ in range(5)}
    assert len(pids) == 1
    assert harness.run("pid") not in pids
    harness.runtime.release([(1,)])


def test_an_exception_leaves_the_actor_alive(make: Make) -> None:
    """A failed call is that call's failure."""
    harness = make()
    create(harness, 1, 5)
    assert harness.end(call(harness, "fail"), Failed).failure.message == "no luck"
    assert harness.result(call(harness, "add", 1)) == 6


def test_an_actor_that_can_not_be_made_fails_its_calls(make: Make) -> None:
    """The creation has failed by its own exception, the calls are lost for want of an actor."""
    harness = make()
    made = create(harness, 1, "no number")
    waiting = call(harness, "add", 1)
    assert harness.end(made, Failed).failure.type == "TypeError"
    assert harness.end(waiting, Lost).failure.kind == "actor"
    assert harness.run("same", 1) == 1


def test_the_death_of_an_actor_loses_the_call_that_ran_and_those_behind_it(make: Make) -> None:
    """Each is told: the one that ran with its worker and the signal, the others as never begun."""
    harness = make()
    create(harness, 1, 0)
    assert harness.result(call(harness, "add", 1)) == 1
    running = call(harness, "die")
    behind = [call(harness, "add", 1) for _ in range(10)]
    lost = harness.end(running, Lost)
    assert lost.failure.facts.get("signal") == "SIGSEGV"
    assert lost.worker >= 0
    for task in behind:
        end = harness.end(task, Lost)
        assert (end.worker, end.failure.kind) == (-1, "actor")
    assert harness.run("same", 1) == 1


def test_a_call_that_runs_too_long_takes_its_actor_with_it(make: Make) -> None:
    """The call has timed out; what waited behind it never began."""
    harness = make()
    create(harness, 1, 0)
    slow = call(harness, "hang", timeout=0.3, grace=0.2)
    behind = call(harness, "add", 1)
    harness.end(slow, TimedOut)
    assert harness.end(behind, Lost).worker == -1
    assert harness.end(call(harness, "add", 1), Lost).failure.kind == "actor"


def test_the_death_of_an_idle_actor_is_told(make: Make) -> None:
    """Nobody has to call it to learn that it is gone."""
    harness = make()
    create(harness, 1, 0)
    os.kill(harness.result(call(harness, "pid")), 9)
    harness.wait(lambda: any(isinstance(event, ActorLost) for event in harness.events))
    (event,) = (event for event in harness.events if isinstance(event, ActorLost))
    assert event.actor == (1,)
    assert "SIGKILL" in event.failure.message


def test_an_actors_state_can_be_saved_and_begun_with(make: Make) -> None:
    """A saved state and the calls after it, made once more, give the same actor."""
    harness = make()
    create(harness, 1, 10)
    call(harness, "add", 5)
    saved = harness.end(call(harness, "add", 1, work={"save_state": True}), Succeeded).state
    assert saved is not None
    assert saved.data is not None
    assert harness.result(call(harness, "add", 2)) == 18
    harness.runtime.release([(1,)], force=True)
    replay = (Replayed("add", encode(((2,), {})).to_bytes()),)
    from dagengine.runtime.protocol import InlineInput

    create(harness, 2, work={"state": InlineInput(saved.data), "replay": replay})
    assert harness.result(call(harness, "add", 0, actor=2)) == 18


def test_concurrent_calls_run_side_by_side(make: Make, tmp_path: Path) -> None:
    """Two that wait for each other end; those that are not concurrent wait for both."""
    harness = make()
    create(harness, 1, 0, work={"threads": 2})
    meeting = [call(harness, "meet", work={"concurrent": True}) for _ in range(2)]
    after = call(harness, "add", 1)
    for task in meeting:
        harness.end(task, Succeeded)
    assert harness.result(after) == 1


def test_a_released_actor_ends_after_its_calls(make: Make) -> None:
    """Politely: what was submitted is done. Its resources are there again."""
    harness = make(2)
    for actor in (1, 2):
        create(harness, actor, 0)
    calls = [call(harness, "add", 1) for _ in range(50)]
    harness.runtime.release([(1,), (2,)])
    assert harness.result(calls[-1]) == 50
    assert harness.run("same", 1, resources=Resources(2.0)) == 1


# ---- streams --------------------------------------------------------------------------------


def test_a_stream_is_read_while_it_is_made_and_waits_for_its_readers(make: Make, tmp_path: Path) -> None:
    """No more items are made ahead than it was allowed; each that is freed makes room for another."""
    harness = make()
    task = harness.start("count_up", 10, str(tmp_path), mode="stream", output=(5,), ahead=3)

    def yielded() -> list[Yielded]:
        return [event for event in harness.events if isinstance(event, Yielded)]

    harness.wait(lambda: len(yielded()) == 3)
    assert task not in harness.ends
    for index in range(10):
        harness.wait(lambda index=index: len(yielded()) > index)  # type: ignore[misc]
        event = yielded()[index]
        assert (event.index, event.object) == (index, (5, index))
        assert value(harness, event.object) == [index] * 1000
        assert len(list(tmp_path.iterdir())) <= index + 1 + 3
        harness.runtime.free([event.object])
    assert harness.result(task) == 10


def test_a_cancelled_stream_is_closed(make: Make, tmp_path: Path) -> None:
    """Asked politely, its generator is closed, and what it cleans up is cleaned up."""
    harness = make()
    task = harness.start("count_up", 10, str(tmp_path), mode="stream", output=(5,), ahead=2)
    harness.wait(lambda: sum(isinstance(event, Yielded) for event in harness.events) == 2)
    harness.runtime.cancel([task])
    assert harness.result(task) == 2
    assert (tmp_path / "closed").exists()


# ---- resources ------------------------------------------------------------------------------


def test_declared_gpus_are_given_out_and_shown_to_nobody_else(make: Make) -> None:
    """Whole devices, shares of one, and none: the environment says which a task may use."""
    harness = make(4, gpus=2, gpu_memory=1000)
    assert harness.run("visible_devices") == ""
    seen = harness.run("visible_devices", resources=Resources(1.0, gpus=2.0))
    assert sorted(seen.split(",")) == ["0", "1"]
    shared = [harness.start("visible_devices", resources=Resources(1.0, gpus=0.5, gpu_memory=400)) for _ in range(4)]
    assert {harness.result(task) for task in shared} <= {"0", "1"}
    for resources, text in ((Resources(gpus=3.0), "gpus"), (Resources(gpus=1.0, gpu_memory=1001), "memory")):
        with pytest.raises(Infeasible, match=text):
            harness.start("same", 1, resources=resources)
    harness._submitted = set(harness.ends)


def test_named_resources_are_never_given_out_twice(make: Make, tmp_path: Path) -> None:
    """One licence: one task at a time, whatever else is free."""
    harness = make(4, resources={"licence": 1})
    asks = Resources(1.0, custom=(("licence", 1.0),))
    specs = [harness.spec("alone", str(tmp_path / "lock"), resources=asks) for _ in range(8)]
    harness.submit(*specs)
    assert [harness.result(spec.id) for spec in specs] == [True] * 8


def test_a_placement_group_sets_aside_all_or_nothing(make: Make) -> None:
    """Tasks of the group run in what it has; others in the rest; a group that can never be is refused."""
    harness = make(2)
    told: list[Failure | None] = []
    reserved = threading.Event()

    def tell(failure: Failure | None) -> None:
        told.append(failure)
        reserved.set()

    harness.runtime.reserve((1,), [Resources(1.0)], "pack", tell)
    assert reserved.wait(WAIT)
    assert told == [None]
    free = harness.runtime.nodes()[0].free.cpus
    assert free == 1.0
    assert harness.run("same", 1, placement=Placement(group=(1,))) == 1
    assert harness.run("same", 2) == 2
    with pytest.raises(Infeasible):
        harness.runtime.reserve((2,), [Resources(5.0)], "pack", lambda failure: None)
    harness.runtime.unreserve((1,))
    assert harness.run("same", 3, resources=Resources(2.0)) == 3


def test_small_shares_of_a_cpu_run_side_by_side(make: Make, tmp_path: Path) -> None:
    """Four tasks of half a cpu on two cpus wait for each other, and end."""
    harness = make(2)
    specs = [harness.spec("meet_files", str(tmp_path), number, 4, resources=Resources(0.5)) for number in range(4)]
    harness.submit(*specs)
    assert [harness.result(spec.id) for spec in specs] == [4] * 4


def test_what_people_may_ask_is_answered(make: Make, tmp_path: Path) -> None:
    """Why a task waits, where it is, and what the node has."""
    harness = make(1)
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    running = harness.start("touch_and_wait", str(tmp_path / "on"), str(gate))
    wait_for_file(tmp_path / "on")
    waiting = harness.start("same", Input(), inputs=[ObjectInput((9,))])
    maker = harness.start("same", 1, output=(9,), resources=Resources(1.0))
    waits = harness.runtime.waits()
    assert set(waits) == {running, waiting, maker}
    assert all(isinstance(text, str) and text for text in waits.values())
    assert harness.runtime.explain(running)
    (node,) = harness.runtime.nodes()
    assert node.capacity.cpus == 1.0
    gate.write_text("go")
    assert harness.result(waiting) == 1


# ---- ends -----------------------------------------------------------------------------------


def test_a_stubborn_task_is_cancelled_within_its_grace_time(make: Make, tmp_path: Path) -> None:
    """It ignores SIGTERM and catches everything: SIGKILL follows."""
    harness = make()
    task = harness.start("refuse_to_end", str(tmp_path / "on"), grace=0.2)
    wait_for_file(tmp_path / "on")
    harness.runtime.cancel([task], force=True)
    assert harness.end(task, Dropped).started
    assert harness.run("same", 1) == 1


def test_a_task_may_clean_up_when_it_is_cancelled(make: Make, tmp_path: Path) -> None:
    """Within the grace time its `finally` runs."""
    harness = make()
    task = harness.start("clean_up", str(tmp_path / "on"), str(tmp_path / "clean"), grace=30.0)
    wait_for_file(tmp_path / "on")
    harness.runtime.cancel([task], force=True)
    assert harness.end(task, Dropped).started
    assert (tmp_path / "clean").exists()


def test_a_task_that_takes_all_memory_is_ended_by_name(make: Make) -> None:
    """With a limit on the tasks' memory: alone it fails with the figures instead of being tried for ever."""
    harness = make(1, memory=300 * MB)
    failure = harness.end(harness.start("hoard", 1000 * MB), Failed).failure
    assert failure.kind == "memory"
    assert failure.facts["limit"] == 300 * MB
    assert failure.facts["memory"] > 200 * MB
    assert not failure.retriable
    assert harness.run("same", 1) == 1


def test_a_poisonous_task_is_quarantined_by_the_name_of_its_signal(make: Make) -> None:
    """Its third dead worker is its last, however often it is submitted; other tasks of the function run on."""
    harness = make(1)
    ends = []
    for attempt in range(1, 6):
        spec = harness.spec("kill_self", 11)
        spec.id = (4, 4, attempt)
        harness.submit(spec)
        ends.append(harness.end(spec.id, Lost))
    assert all("quarantined" not in end.failure.message for end in ends[:2])
    for end in ends[2:]:
        assert "quarantined after killing 3 workers with SIGSEGV" in end.failure.message
        assert not end.failure.retriable
    assert {end.worker for end in ends[3:]} == {-1}
    assert harness.end(harness.start("kill_self", 11), Lost).worker >= 0


def test_a_lost_attempt_is_made_again_where_that_was_asked(make: Make, tmp_path: Path) -> None:
    """With `losses` the runtime tries by itself, and tells only the end."""
    harness = make(1)
    task = harness.start("die_first", str(tmp_path / "died"), losses=2)
    assert harness.result(task) == "survived"
    assert not any(isinstance(event, Lost) for event in harness.events)
