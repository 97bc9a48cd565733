"""Objects, streams, actors and groups of the inline runtime, in the words of the protocol.

Another runtime joins by a line in RUNTIMES: nothing here depends on tasks being run one after the other.
"""

from __future__ import annotations

import hashlib
import itertools
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dagengine.errors import Infeasible
from dagengine.functions import Reference
from dagengine.model import Failure
from dagengine.runtime.inline import InlineRuntime
from dagengine.runtime.protocol import (
    ActorWork,
    Content,
    Dropped,
    Failed,
    InlineInput,
    Lost,
    ObjectInput,
    Placement,
    Replayed,
    Resources,
    Runtime,
    RuntimeEvent,
    Succeeded,
    TaskSpec,
    Yielded,
)
from dagengine.values import Placeholder, decode, encode

RUNTIMES: dict[str, Callable[[], Runtime]] = {"inline": lambda: InlineRuntime(gpus=2, gpu_memory=1 << 30)}

WAIT = 300.0
"""Seconds. Bounds what would otherwise hang; nothing is measured by it."""
FILE = Path(__file__).with_name("actor_tasks.py")
LARGE = "x" * 100_000


class Input(Placeholder):
    """Stands in a call for its next input."""


def call(*args: Any, **kwargs: Any) -> bytes:
    return encode((args, kwargs)).to_bytes()


def inline(value: Any) -> InlineInput:
    return InlineInput(encode(value).to_bytes())


class User:
    """Submits, and waits for what it is told."""

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime
        self.events: list[RuntimeEvent] = []
        self._functions: dict[str, int] = {}
        self._numbers = itertools.count()
        self._changed = threading.Condition()

    def sink(self, events: list[RuntimeEvent]) -> None:
        with self._changed:
            self.events += events
            self._changed.notify_all()

    def submit(self, name: str, data: bytes, **fields: Any) -> tuple[int, ...]:
        number = self._functions.get(name)
        if number is None:
            number = self._functions[name] = len(self._functions)
            self.runtime.define(number, Reference("actor_tasks", name, str(FILE)).to_json())
        task = (1, next(self._numbers), 1)
        self.runtime.submit([TaskSpec(task, number, data, **fields)])
        return task

    def wait(self, found: Callable[[], Any]) -> Any:
        with self._changed:
            assert self._changed.wait_for(lambda: found() is not None, WAIT), "it never happened"
            return found()

    def end(self, task: tuple[int, ...], kind: type[Any]) -> Any:
        ends = (Succeeded, Failed, Lost, Dropped)
        event = self.wait(lambda: next((e for e in self.events if isinstance(e, ends) and e.id == task), None))
        assert isinstance(event, kind), event
        return event

    def value(self, task: tuple[int, ...]) -> Any:
        return value_of(self.end(task, Succeeded))

    def read(self, object_id: tuple[int, ...]) -> Content | Failure:
        told: list[Content | Failure] = []
        there = threading.Event()

        def tell(found: Content | Failure) -> None:
            told.append(found)
            there.set()

        self.runtime.read(object_id, tell)
        assert there.wait(WAIT)
        return told[0]

    def actor(self, actor: tuple[int, ...], *args: Any, **fields: Any) -> tuple[int, ...]:
        return self.submit("Counter", call(*args), mode="create", actor=ActorWork(actor, **fields))

    def method(self, actor: tuple[int, ...], name: str, *args: Any, **fields: Any) -> tuple[int, ...]:
        return self.submit("Counter", call(*args), mode="method", actor=ActorWork(actor, name, **fields))


def value_of(content: Any) -> Any:
    """The value of a content, or of a result. Closes what is shared."""
    assert isinstance(content, (Content, Succeeded)), content
    if content.data is not None:
        data = content.data
    else:
        assert content.shared is not None
        data = bytes(content.shared.view())
        content.shared.close()
    assert hashlib.sha256(data).hexdigest() == content.digest
    return decode(data)


@pytest.fixture(params=RUNTIMES)
def user(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[User]:
    import sys

    monkeypatch.setattr(sys, "path", list(sys.path))
    made = User(RUNTIMES[request.param]())
    made.runtime.open(made.sink)
    yield made
    made.runtime.close(force=True)


# ---- objects --------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [5, LARGE])
def test_what_is_put_can_be_read_by_tasks_and_by_whoever_put_it(user: User, value: Any) -> None:
    """Small and large ones, until they are freed."""
    user.runtime.put((7,), encode(value))
    assert user.value(user.submit("same", call(Input()), inputs=(ObjectInput((7,)),))) == value
    assert value_of(user.read((7,))) == value
    assert user.runtime.stats()["objects"] == 1
    user.runtime.free([(7,)])
    assert user.runtime.stats()["objects"] == 0


@pytest.mark.parametrize("value", [5, LARGE])
def test_a_result_is_kept_as_an_object_and_read_before_it_exists(user: User, value: Any) -> None:
    """Its reader may be submitted first; a small result is told with the event as well, a large one is only kept."""
    reader = user.submit("same", call(Input()), inputs=(ObjectInput((1, 1)),))
    maker = user.submit("same", call(value), output=(1, 1))
    end = user.end(maker, Succeeded)
    assert end.shared is None
    assert (end.data is None) == (value == LARGE)
    assert user.value(reader) == value


def test_readers_of_an_object_fail_as_its_task_did(user: User) -> None:
    """Also those that are submitted after the failure."""
    maker = user.submit("fail", call("no"), output=(1,))
    failure = user.end(maker, Failed).failure
    assert user.end(user.submit("same", call(Input()), inputs=(ObjectInput((1,)),)), Failed).failure == failure
    assert user.read((1,)) == failure


def test_a_freed_object_lives_until_its_readers_have_ended(user: User) -> None:
    """Those that were submitted before; and one that is freed before it is made is not kept."""
    reader = user.submit("same", call(Input()), inputs=(ObjectInput((1,)),))
    user.runtime.free([(1,), (99,)])
    maker = user.submit("same", call(3), output=(1,))
    user.runtime.free([(1,)])
    assert user.value(reader) == 3
    user.end(maker, Succeeded)
    user.submit("same", call(4), output=(2,))
    user.runtime.free([(2,)])
    user.value(user.submit("same", call(0)))
    assert user.runtime.stats()["objects"] == 0


def test_a_task_that_waits_for_an_object_says_so_and_can_be_dropped(user: User) -> None:
    """explain and waits name the object."""
    task = user.submit("same", call(Input()), inputs=(ObjectInput((5,)),))
    assert "object (5,)" in user.runtime.explain(task)["waits_for"]
    assert "object (5,)" in user.runtime.waits()[task]
    user.runtime.cancel([task])
    user.end(task, Dropped)
    assert user.runtime.explain(task)["state"] == "unknown"


# ---- streams --------------------------------------------------------------------------------


@pytest.mark.parametrize("generator", ["count_to", "count_later"])
def test_a_stream_waits_for_its_readers(user: User, generator: str) -> None:
    """It makes no more than `ahead` items that nobody has read; its result is their number."""
    task = user.submit(generator, call(5), mode="stream", output=(3,), ahead=2)
    for index in range(5):
        assert value_of(user.read((3, index))) == index
        items = [event for event in user.events if isinstance(event, Yielded)]
        assert len(items) <= index + 3
        user.runtime.free([(3, index)])
    assert user.value(task) == 5
    assert [event.object for event in user.events if isinstance(event, Yielded)] == [(3, i) for i in range(5)]
    assert user.runtime.stats()["objects"] == 0


def test_a_stream_that_raises_fails_those_who_wait_for_its_next_item(user: User) -> None:
    """What it made before is there."""
    task = user.submit("fail_after", call(1), mode="stream", output=(3,))
    assert value_of(user.read((3, 0))) == 0
    assert user.end(task, Failed).failure == user.read((3, 1))


def test_what_is_no_generator_is_no_stream(user: User) -> None:
    """The failure says what was returned."""
    failure = user.end(user.submit("same", call(1), mode="stream", output=(3,)), Failed).failure
    assert "same is to yield its results, and returned int" in failure.message


def test_a_stream_that_nobody_reads_can_be_dropped(user: User) -> None:
    """It had begun."""
    task = user.submit("count_to", call(5), mode="stream", output=(3,), ahead=1)
    user.wait(lambda: next((event for event in user.events if isinstance(event, Yielded)), None))
    user.runtime.cancel([task], force=True)
    assert user.end(task, Dropped).started


# ---- actors ---------------------------------------------------------------------------------


def test_the_calls_of_an_actor_are_made_in_their_order(user: User) -> None:
    """Each finds what those before it have left; also async ones, and one whose input comes late."""
    user.actor((1,), 10)
    late = user.submit(
        "Counter", call(Input()), mode="method", inputs=(ObjectInput((9,)),), actor=ActorWork((1,), "add")
    )
    after = user.method((1,), "add_later", 100)
    user.runtime.put((9,), encode(1))
    assert user.value(late) == 11
    assert user.value(after) == 111


def test_a_state_is_handed_over_and_brought_back(user: User) -> None:
    """In another actor, with calls replayed on it, whose results are thrown away."""
    user.actor((1,), 1)
    end = user.end(user.method((1,), "add", 4, save_state=True), Succeeded)
    assert decode(end.data) == 5
    state = end.state
    assert state is not None
    assert hashlib.sha256(state.data).hexdigest() == state.digest
    replay = (Replayed("add", call(Input()), (inline(10),)), Replayed("add_later", call(100)))
    user.actor((2,), 1000, state=InlineInput(state.data), replay=replay)
    assert user.value(user.method((2,), "add", 0)) == 115
    assert user.value(user.method((1,), "add", 0)) == 5


def test_an_actor_that_can_not_be_made_is_none(user: User) -> None:
    """Its calls are lost, and so are those of one that a replay has failed to rebuild."""
    failure = user.end(user.actor((1,), "a", "b"), Failed).failure
    assert "TypeError" in failure.type
    assert "ActorLost" in user.end(user.method((1,), "add", 1), Lost).failure.type
    assert user.end(user.actor((2,), replay=(Replayed("add", call(-1)),)), Failed).failure.message == "only upwards"
    user.end(user.method((2,), "add", 1), Lost)


def test_an_actor_ends_when_what_was_submitted_to_it_has(user: User) -> None:
    """Politely; what comes after is lost. Unknown actors are ignored."""
    user.actor((1,))
    last = user.method((1,), "add", 1)
    user.runtime.release([(1,), (99,)])
    assert user.value(last) == 1
    user.end(user.method((1,), "add", 1), Lost)


def test_an_actor_is_ended_by_force_with_what_waits_for_it(user: User) -> None:
    """Its calls that have not begun are lost."""
    user.actor((1,))
    waiting = user.submit(
        "Counter", call(Input()), mode="method", inputs=(ObjectInput((9,)),), actor=ActorWork((1,), "add")
    )
    user.runtime.release([(1,)], force=True)
    user.end(waiting, Lost)
    user.end(user.method((1,), "add", 1), Lost)


# ---- groups and capacity --------------------------------------------------------------------


def test_groups_hold_all_of_their_bundles_or_wait(user: User) -> None:
    """The second is told when the first gives its own back; tasks run in what was reserved."""
    told: list[tuple[str, Failure | None]] = []
    ready = {name: threading.Event() for name in "ab"}

    def tell(name: str) -> Callable[[Failure | None], None]:
        def one(failure: Failure | None) -> None:
            told.append((name, failure))
            ready[name].set()

        return one

    both = [Resources(0.0, gpus=1.0)] * 2
    user.runtime.reserve((1,), both, "pack", tell("a"))
    assert ready["a"].wait(WAIT)
    user.runtime.reserve((2,), both, "pack", tell("b"))
    task = user.submit("same", call(1), resources=Resources(0.0, gpus=1.0), placement=Placement(group=(1,), bundle=1))
    assert user.value(task) == 1
    assert told == [("a", None)]
    assert user.runtime.nodes()[0].free.gpus == 0
    user.runtime.unreserve((1,))
    assert ready["b"].wait(WAIT)
    assert told == [("a", None), ("b", None)]


@pytest.mark.parametrize(
    ("bundles", "strategy"),
    [
        ([Resources(0.0, gpus=3.0)], "pack"),
        ([Resources(0.0, gpus=1.0)] * 3, "spread"),
        ([Resources(0.0), Resources(0.0)], "strict_spread"),
    ],
)
def test_groups_that_never_can_be_are_refused(user: User, bundles: list[Resources], strategy: str) -> None:
    """At once, saying what there is."""
    with pytest.raises(Infeasible):
        user.runtime.reserve((1,), bundles, strategy, lambda _: None)


@pytest.mark.parametrize(
    "asked",
    [
        Resources(gpus=3.0),
        Resources(gpus=1.0, gpu_memory=1 << 40),
        Resources(custom=(("licence", 1.0),)),
    ],
)
def test_what_is_not_there_is_refused(user: User, asked: Resources) -> None:
    """And named."""
    with pytest.raises(Infeasible, match=r"gpus?|licence"):
        user.submit("same", call(1), resources=asked)


def test_a_task_has_to_fit_its_bundle(user: User) -> None:
    """A bundle that is too small, one that is not there, a group that is none."""
    there = threading.Event()
    user.runtime.reserve((1,), [Resources(1.0)], "pack", lambda _: there.set())
    assert there.wait(WAIT)
    for placement in (Placement(group=(1,), bundle=3), Placement(group=(2,)), Placement(group=(1,))):
        with pytest.raises(Infeasible):
            user.submit("same", call(1), resources=Resources(1.0, gpus=1.0), placement=placement)
