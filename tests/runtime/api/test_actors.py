"""Classes as actors: order, concurrency, names, restarts, checkpoints, ends."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

import dagengine.runtime as rt
from dagengine.errors import ActorLost, BadArguments, LoadError, RefMisuse
from tests.runtime.api import functions as f
from tests.runtime.api.fake import FakeRuntime
from tests.runtime.harness import WAIT


@pytest.mark.usefixtures("runtime")
class TestOnProcesses:
    """On worker processes."""

    def test_a_decorated_class_is_an_actors(self) -> None:
        """`@remote class C` and `remote(C)` are the same."""
        decorated: Any = f.Decorated
        assert rt.get(decorated.remote().where.remote()) != os.getpid()

    def test_calls_are_done_in_their_order_on_one_state(self) -> None:
        """An actor lives in a process of its own."""
        counter = f.Counter.remote(5)
        assert rt.get([counter.add.remote(1) for _ in range(100)]) == list(range(6, 106))
        assert rt.get(counter.pid.remote()) == rt.get(counter.pid.remote())

    def test_actors_do_not_starve_tasks(self) -> None:
        """Unless they ask for cpus they hold none: more actors than there are cpus leave room for tasks."""
        counters = [f.Counter.remote(number) for number in range(4)]
        assert rt.get([counter.add.remote() for counter in counters]) == [1, 2, 3, 4]
        assert rt.get(f.add.remote(1, 1), timeout=WAIT) == 2

    def test_refs_are_values_in_calls_and_results_of_calls_are_objects(self) -> None:
        """Actors and tasks read each other's results without the controller in between."""
        counter = f.Counter.remote()
        ref = counter.add.remote(f.add.remote(1, 2))
        assert rt.get(f.add.remote(ref, counter.add.remote(ref))) == 9
        assert rt.get(f.array_sum.remote(counter.make.remote(100_000))) == sum(range(100_000))

    def test_an_error_of_a_call_is_that_calls_alone(self) -> None:
        """The actor goes on."""
        counter = f.Counter.remote()
        with pytest.raises(KeyError, match="no such thing"):
            rt.get(counter.fail.remote())
        assert rt.get(counter.add.remote()) == 1

    def test_what_a_constructor_raises_its_calls_raise(self) -> None:
        """Making it returns at once; the first call tells."""
        broken = f.Broken.remote()
        with pytest.raises(ValueError, match="can't be made"):
            rt.get(broken.hello.remote())
        with pytest.raises(ValueError, match="can't be made"):
            rt.get(broken.hello.remote())

    @pytest.mark.parametrize("kind", [f.Meeting, f.AsyncMeeting])
    def test_concurrent_calls_run_side_by_side(self, kind: Any) -> None:
        """On threads, or as coroutines of one event loop."""
        meeting = kind.remote(4)
        assert all(rt.get([meeting.meet.remote() for _ in range(4)], timeout=WAIT))

    def test_a_handle_can_be_sent_to_tasks(self) -> None:
        """All of them call the same actor; a task may make one and return its handle."""
        counter = f.Counter.remote()
        counts = rt.get([f.add_thrice.remote(counter) for _ in range(2)])
        assert sorted(counts[0] + counts[1]) == [1, 2, 3, 4, 5, 6]
        made = rt.get(f.make_counter.remote())
        assert rt.get(made.add.remote()) == 12

    def test_a_named_actor_is_found_by_its_name(self) -> None:
        """Here and in tasks; the name is free again when the actor has ended."""
        counter = f.Counter.options(name="clerk").remote()
        assert rt.get(rt.actor("clerk").add.remote()) == 1
        assert rt.get(f.find_and_add.remote("clerk")) == 2
        with pytest.raises(BadArguments, match="clerk"):
            f.Counter.options(name="clerk").remote()
        rt.kill(counter)
        with pytest.raises(LoadError, match="clerk"):
            rt.actor("clerk")
        assert rt.get(f.Counter.options(name="clerk").remote().add.remote()) == 1

    def test_a_lost_actor_says_why(self) -> None:
        """The call that ran, those behind it and later ones fail with ActorLost, which names the signal."""
        counter = f.Counter.remote()
        dying, behind = counter.die.remote(), counter.add.remote()
        for ref in (dying, behind, counter.add.remote()):
            with pytest.raises(ActorLost, match="SIGKILL"):
                rt.get(ref)

    def test_a_restarted_actor_begins_as_at_first(self) -> None:
        """Without a checkpoint its state is the constructor's; calls that had not begun are done there."""
        counter = f.Counter.options(max_restarts=1).remote(10)
        assert rt.get(counter.add.remote()) == 11
        dying, behind = counter.die.remote(), counter.add.remote(5)
        with pytest.raises(ActorLost, match="SIGKILL"):
            rt.get(dying)
        assert rt.get(behind) == 15
        with pytest.raises(ActorLost):
            rt.get(counter.die.remote())
        with pytest.raises(ActorLost):
            rt.get(counter.add.remote())

    def test_a_checkpoint_brings_the_state_back(self) -> None:
        """With `checkpoint_every=2` at most the last call is missing after a restart."""
        counter = f.Counter.options(max_restarts=1, checkpoint_every=2).remote()
        assert rt.get([counter.add.remote() for _ in range(5)]) == [1, 2, 3, 4, 5]
        with pytest.raises(ActorLost):
            rt.get(counter.die.remote())
        assert rt.get(counter.add.remote()) == 5

    def test_a_class_may_say_what_its_state_is(self) -> None:
        """`checkpoint` and `restore` are called instead of pickling an object that can't be."""
        saving = f.Saving.options(checkpoint_every=1).remote()
        assert rt.get([saving.push.remote(n) for n in range(3)])[-1] == [0, 1, 2]
        with pytest.raises(ActorLost):
            rt.get(saving.die.remote())
        assert rt.get(saving.push.remote(3)) == [0, 1, 2, 3]

    def test_a_killed_actor_is_not_made_again(self, tmp_path: Path) -> None:
        """What runs on it fails, and so does what is called later."""
        counter = f.Counter.options(max_restarts=5, grace=0.1).remote()
        running = counter.wait_then_add.remote(str(tmp_path / "begun"), str(tmp_path / "go"))
        rt.get(f.wait_for.remote(str(tmp_path / "begun")))
        rt.kill(counter)
        for ref in (running, counter.add.remote()):
            with pytest.raises(ActorLost, match="killed"):
                rt.get(ref, timeout=WAIT)

    def test_a_method_that_runs_too_long_costs_the_actor(self, tmp_path: Path) -> None:
        """Its process is ended, and made again if it may be."""
        counter = f.Counter.options(max_restarts=1, grace=0.1).remote()
        late = counter.wait_then_add.options(timeout=0.1, grace=0.1).remote(str(tmp_path / "b"), str(tmp_path / "go"))
        with pytest.raises(TimeoutError):
            rt.get(late)
        assert rt.get(counter.add.remote()) == 1

    def test_a_method_has_to_be_called_by_remote(self) -> None:
        """So does a class: what is no method is no attribute."""
        counter = f.Counter.remote()
        with pytest.raises(RefMisuse, match=r"add\.remote"):
            counter.add()
        with pytest.raises(AttributeError, match="subtract"):
            counter.subtract.remote()
        with pytest.raises(BadArguments, match="cpus"):
            counter.add.options(cpus=2)


def test_an_actor_ends_with_its_last_handle(fake: FakeRuntime) -> None:
    """Copies of the handle count, and what was called is done before."""
    fake.hold()
    counter = f.Counter.remote()
    copy = rt.get(rt.put([counter]))[0]
    ref = counter.add.remote()
    del counter
    assert fake.released == []
    del copy
    fake.go()
    assert rt.get(ref) == 1
    fake.await_released(1)


def test_a_call_waits_for_an_argument_that_may_be_made_again(fake: FakeRuntime) -> None:
    """What reads a call on an actor with restarts is submitted when the call has ended; calls behind it keep their order."""
    first = f.Counter.options(max_restarts=1).remote()
    second = f.Counter.remote()
    fake.hold()
    late = first.add.remote(7)
    refs = [second.add.remote(late), second.add.remote(1)]
    assert [spec.actor.method for spec in fake.submitted if spec.mode == "method" and spec.actor] == ["add"]
    fake.go()
    assert rt.get(refs) == [7, 8]


def test_calls_that_had_not_begun_go_to_the_next_incarnation_in_their_order(fake: FakeRuntime) -> None:
    """They come before calls that were made after the loss."""
    counter = f.Counter.options(max_restarts=1, name="kept").remote()
    assert rt.get(counter.add.remote()) == 1
    fake.hold()
    refs = [counter.add.remote(n) for n in (10, 20)]
    fake.lose((counter._token.number, 0))
    refs.append(counter.add.remote(40))
    fake.go()
    assert rt.get(refs) == [10, 30, 70]


def test_a_cancelled_call_that_waits_here_is_never_submitted(fake: FakeRuntime) -> None:
    """Calls behind it go on."""
    first = f.Counter.options(max_restarts=1).remote()
    second = f.Counter.remote()
    fake.hold()
    late = first.add.remote(7)
    waiting, behind = second.add.remote(late), second.add.remote(1)
    rt.cancel(waiting)
    fake.go()
    assert rt.get(behind) == 1
