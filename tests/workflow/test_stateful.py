"""Stateful steps as users see them: the state is that of the record, whatever fails, and whenever the run is resumed."""

from __future__ import annotations

import asyncio
import pickle
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from dagengine import aio, get, stateful, workflow
from dagengine.engine import Engine
from dagengine.errors import BadArguments, BadOption, DefinitionError, RefMisuse, RunFailed, RunMismatch
from dagengine.model import Failure, RunState, StepKind, StepRecord, StepState
from dagengine.run import Run
from dagengine.runtime.inline import InlineRuntime
from dagengine.runtime.processes import ProcessRuntime
from dagengine.runtime.protocol import ActorLost, Runtime, Succeeded
from tests.engines import opened
from tests.workflow.stateful_flows import (
    Heavy,
    Notebook,
    Saved,
    Seldom,
    Unpicklable,
    adding,
    an_account,
    executed,
    number,
    stepwise,
    times,
    total_of,
    two_accounts,
)

RUNTIMES: dict[str, Callable[[], Runtime]] = {"inline": InlineRuntime, "processes": lambda: ProcessRuntime(2)}
"""Another runtime joins by a line."""

SEEN: list[Any] = []
EVENTS: dict[str, threading.Event] = {}
"""Between a test and the body of its workflow, which is pickled if it is not at the top of a module."""


@pytest.fixture(params=RUNTIMES)
def make(request: pytest.FixtureRequest) -> Callable[[], Runtime]:
    return RUNTIMES[request.param]


@pytest.fixture
def engine(tmp_path: Path, make: Callable[[], Runtime]) -> Iterator[Engine]:
    with opened(tmp_path, make()) as engine:
        yield engine


@pytest.fixture
def ledger(tmp_path: Path) -> str:
    return str(tmp_path / "ledger")


def set_flag(ledger: str, name: str, on: bool = True) -> None:
    path = Path(f"{ledger}.{name}")
    if on:
        path.touch()
    else:
        path.unlink()


def steps_of(engine: Engine, run: Run[Any]) -> dict[str, StepRecord]:
    number = engine.store.find_run(run.id).number
    return {step.key: step for step in engine.store.steps(number)}


# ---- outside of a run -----------------------------------------------------------------------


def test_outside_of_a_run_a_stateful_class_is_the_plain_class(ledger: str) -> None:
    """Instances, subclasses, pickles, and what is raised for wrong arguments."""
    account = Saved(ledger, 5)
    assert isinstance(account, Saved)
    assert account.add(2) == 7
    assert pickle.loads(pickle.dumps(account)).entries == [5, 2]
    with pytest.raises(TypeError):
        Saved()  # type: ignore[call-arg]

    class Child(Saved):
        def __init__(self) -> None:
            super().__init__(ledger, 100)

    assert Child().total() == 100


def test_classes_of_all_kinds_can_be_stateful() -> None:
    """With a __new__ of their own, without an __init__, with slots."""

    @stateful
    class Own:
        def __new__(cls, value: int) -> Own:
            made = super().__new__(cls)
            made.value = value + 1  # type: ignore[attr-defined]
            return made

        def __init__(self, value: int) -> None:
            self.given = value

    @stateful
    class Bare:
        __slots__ = ("value",)

    made = Own(1)
    assert (made.value, made.given) == (2, 1)  # type: ignore[attr-defined]
    assert isinstance(Bare(), Bare)
    with pytest.raises(TypeError, match="takes no arguments"):
        Bare(1)  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("misuse", "message"),
    [
        (lambda: stateful(checkpoint_every=0), "checkpoint_every=0 has to be a whole number"),
        (lambda: stateful(checkpoint_every=True), "checkpoint_every=True"),
        (lambda: stateful(retires=3), "Did you mean retries"),  # type: ignore[call-overload]
        (lambda: stateful(key="a"), "key= belongs to one call"),
        (lambda: stateful(checkpoint=False), "checkpoint=False is for tasks"),
        (lambda: stateful(lambda: None), "takes a class"),  # type: ignore[call-overload]
    ],
)
def test_wrong_options_are_told_where_they_are_said(misuse: Callable[[], Any], message: str) -> None:
    """At the decorator, and not when a run is on its way."""
    with pytest.raises((BadOption, DefinitionError), match=message):
        misuse()


# ---- calls are steps ------------------------------------------------------------------------


def test_calls_are_steps_that_find_the_state_that_the_one_before_has_left(engine: Engine, ledger: str) -> None:
    """Keys count the calls of a method on an object; the record knows what creates, what may change, what only reads."""
    run = engine.start(adding, ledger, "saved", [1, 2, 3])
    assert run.result() == ([1, 3, 6], 6)
    steps = steps_of(engine, run)
    assert {key: step.kind for key, step in steps.items()} == {
        "adding/Saved[0]": StepKind.CREATE,
        "adding/Saved[0]/add[0]": StepKind.METHOD,
        "adding/Saved[0]/add[1]": StepKind.METHOD,
        "adding/Saved[0]/add[2]": StepKind.METHOD,
        "adding/Saved[0]/total[0]": StepKind.READONLY,
    }
    assert steps["adding/Saved[0]/add[0]"].task == "Saved.add"
    assert executed(ledger) == ["init", "add 1", "add 2", "add 3", "total"]


def test_two_objects_have_states_of_their_own(engine: Engine, ledger: str) -> None:
    """Their calls may be told in turn."""
    assert engine.start(two_accounts, ledger).result() == [4, 103]


def test_a_call_takes_refs_and_gives_them(engine: Engine, ledger: str) -> None:
    """As the call of a task does."""

    @workflow
    def flow() -> int:
        account = Saved(ledger, number(3))
        return get(number(account.add(number(4))))

    assert engine.start(flow).result() == 7


def test_async_bodies_and_async_methods(engine: Engine, ledger: str) -> None:
    """A call can be awaited; concurrent branches count their calls apart, so that interleaving can't change keys."""

    @workflow
    async def flow() -> list[int]:
        account = Saved(ledger)

        async def branch(amount: int) -> int:
            return await account.add_later(amount)

        await asyncio.gather(branch(1), branch(2))
        await aio.get(account.add(3))
        return await aio.get(account.history())

    run = engine.start(flow)
    assert sorted(run.result()) == [0, 1, 2, 3]
    assert [key for key in steps_of(engine, run) if "add" in key] == [
        "flow/Saved[0]/branch[0]/add_later[0]",
        "flow/Saved[0]/branch[1]/add_later[0]",
        "flow/Saved[0]/add[0]",
    ]


def test_an_object_that_is_never_called_is_made_all_the_same(engine: Engine, ledger: str) -> None:
    """What its constructor raises is not lost."""

    @workflow
    def flow() -> int:
        Saved(ledger)
        return 1

    set_flag(ledger, "no-account")
    with pytest.raises(RunFailed, match="no account today"):
        engine.start(flow).result()


@pytest.mark.parametrize(
    ("misuse", "message"),
    [
        (lambda a: a.entries, "read its attribute entries. Give the class a @readonly method"),
        (lambda a: setattr(a, "entries", []), "set its attribute entries"),
        (lambda a: delattr(a, "entries"), "delete its attribute"),
        (lambda a: [*a], "iterate over it. Call one of its methods"),
        (len, "take its length"),
        (lambda a: a[0], "index it"),
        (lambda a: a(), "call it"),
        (lambda a: a + 1, "calculate with it"),
        (total_of, "hand it to a task, or return it. Hand over what one of its methods returns"),
        (lambda a: total_of(cast("Any", [a, "x" * 100_000])), "hand it to a task"),
    ],
)
def test_an_object_in_a_body_has_nothing_but_its_methods(
    engine: Engine, ledger: str, misuse: Callable[[Any], Any], message: str
) -> None:
    """Each other use says what to do instead."""

    @workflow
    def flow() -> None:
        misuse(Saved(ledger))

    with pytest.raises(RunFailed) as caught:
        engine.start(flow).result()
    assert isinstance(caught.value.__cause__, RefMisuse)
    assert "flow/Saved[0] lives in a worker, so you can't " + message in str(caught.value.__cause__)


@workflow
def asking(ledger: str) -> None:
    account = Saved(ledger)
    SEEN.extend([hasattr(account, "entries"), hasattr(account, "add"), repr(account), account.currency()])
    with pytest.raises(BadArguments, match=r"Saved\.add\(self, amount.* missing a required argument"):
        account.add()  # type: ignore[call-arg]
    with pytest.raises(BadArguments, match="Saved"):
        Saved()  # type: ignore[call-arg]


def test_what_an_object_in_a_body_is_not_asked_of_its_worker(engine: Engine, ledger: str) -> None:
    """hasattr, repr, static methods, wrong arguments."""
    SEEN.clear()
    engine.start(asking, ledger).result()
    assert SEEN == [False, True, "<stateful asking/Saved[0]>", "EUR"]


def test_an_object_that_is_a_value_is_no_step(engine: Engine, ledger: str) -> None:
    """A task may return one: unpickling it in the body records nothing."""

    @workflow
    def flow() -> int:
        account = get(an_account(ledger))
        return get(total_of(account))

    run = engine.start(flow)
    assert run.result() == 40
    assert list(steps_of(engine, run)) == ["flow/an_account[0]", "flow/total_of[0]"]


@workflow
def keeping(ledger: str) -> None:
    SEEN.append(Saved(ledger))


@workflow
def calling_the_kept() -> None:
    SEEN[0].add(1)


def test_an_object_of_another_run_can_not_be_called(engine: Engine, ledger: str) -> None:
    """It says whose it is."""
    SEEN.clear()
    engine.start(keeping, ledger).result()
    with pytest.raises(RunFailed, match="belongs to another run"):
        engine.start(calling_the_kept).result()
    SEEN.clear()


# ---- failures -------------------------------------------------------------------------------


def test_a_failed_call_leaves_the_state_as_it_was(engine: Engine, ledger: str) -> None:
    """It had changed it already; the calls after it run, on the state before it."""
    set_flag(ledger, "no-2")
    run = engine.start(stepwise, ledger, "saved", [1, 2, 4])
    assert run.result() == 5
    steps = steps_of(engine, run)
    assert steps["stepwise/Saved[0]/add[1]"].state is StepState.FAILED
    assert executed(ledger) == ["init", "add 1", "add 2", "add 4", "total"]  # from the saved state: nothing replayed


def test_calls_that_are_not_saved_are_replayed_and_their_results_thrown_away(engine: Engine, ledger: str) -> None:
    """With checkpoint_every=3, two calls are made again to rebuild what the third one spoiled."""
    set_flag(ledger, "no-3")
    run = engine.start(stepwise, ledger, "seldom", [1, 2, 3, 4, 5])
    assert run.result() == 12
    assert executed(ledger) == ["init", "add 1", "add 2", "add 3", "init", "add 1", "add 2", "add 4", "add 5", "total"]
    attempts = {key: step.attempts for key, step in steps_of(engine, run).items()}
    assert set(attempts.values()) == {1}


def test_a_retry_starts_from_the_state_before_the_call(engine: Engine, ledger: str) -> None:
    """Nothing of the failed attempt is left in it."""
    run = engine.start(adding, ledger, "stubborn", [1, 2])
    assert run.result() == ([1, 3], 3)
    assert times(ledger)["add 1"] == 2


def test_what_depends_on_a_failed_call_is_skipped_and_the_rest_of_the_chain_is_not(engine: Engine, ledger: str) -> None:
    """A failed call is a failed step like any other."""

    @workflow
    def flow() -> None:
        account = Saved(ledger)
        broken = account.add(2)
        account.add(broken)
        account.add(3)

    set_flag(ledger, "no-2")
    run = engine.start(flow)
    with pytest.raises(RunFailed, match="not 2"):
        run.result()
    states = {key.rpartition("/")[2]: step.state for key, step in steps_of(engine, run).items()}
    assert states == {
        "Saved[0]": StepState.SUCCEEDED,
        "add[0]": StepState.FAILED,
        "add[1]": StepState.SKIPPED,
        "add[2]": StepState.SUCCEEDED,
    }


def test_a_constructor_that_fails_skips_the_calls(engine: Engine, ledger: str) -> None:
    """They say because of what."""
    set_flag(ledger, "no-account")
    run = engine.start(adding, ledger, "saved", [1])
    with pytest.raises(RunFailed, match="no account today"):
        run.result()
    skipped = [step for step in steps_of(engine, run).values() if step.state is StepState.SKIPPED]
    assert [step.failure and step.failure.facts["cause"] for step in skipped] == ["adding/Saved[0]"] * 2


def test_a_failed_read_only_call_leaves_the_process_in_use(engine: Engine, ledger: str) -> None:
    """Nothing is rebuilt."""

    @workflow
    def flow() -> int:
        account = Seldom(ledger)
        account.add(1)
        with pytest.raises(ValueError, match="no total"):
            get(account.total())
        return get(account.add(2))

    set_flag(ledger, "no-total")
    assert engine.start(flow).result() == 3
    assert executed(ledger) == ["init", "add 1", "total", "add 2"]


def test_a_state_that_can_not_be_saved_fails_the_call_and_says_so(engine: Engine) -> None:
    """The message names the part that can't be pickled."""

    @workflow
    def flow() -> int:
        return Unpicklable().touch()

    with pytest.raises(RunFailed, match="the state of Unpicklable can't be pickled"):
        engine.start(flow).result()


def test_a_class_may_say_what_its_state_is(engine: Engine, ledger: str) -> None:
    """checkpoint() is saved, and restore() brings it back, for one that pickle could not handle."""

    @workflow
    def flow() -> int:
        book = Notebook(ledger)
        book.write("one")
        with pytest.raises(ValueError, match="torn"):
            get(book.tear())
        return get(book.write("two"))

    assert engine.start(flow).result() == 2
    assert executed(ledger) == ["restore"]


def test_large_states_are_artifacts(engine: Engine, ledger: str, tmp_path: Path) -> None:
    """Durable before the commit that names them, beside a small result or a large one; mapped when they are restored."""

    @workflow
    def flow() -> tuple[float, int]:
        heavy = Heavy(ledger)
        weight = get(heavy.both_large())
        with pytest.raises(ValueError, match="not 2"):
            get(heavy.add(2))
        return float(weight.sum()), get(heavy.add(4))

    set_flag(ledger, "no-2")
    run = engine.start(flow)
    assert run.result() == (10_000.0, 4)
    saved = engine.store.saved_state(engine.store.find_run(run.id).number, 0)
    assert saved.state is not None
    assert saved.state.inline is None
    assert engine.artifacts.exists(saved.state.digest)


# ---- the process of an object ---------------------------------------------------------------


class Forgetful(InlineRuntime):
    """An actor dies as soon as it has served a call."""

    def open(self, sink: Any) -> None:
        def forget(events: list[Any]) -> None:
            served = [self.called.get(event.id) for event in events if isinstance(event, Succeeded)]
            for actor in filter(None, served):
                self._work.end_actor(actor)
            sink([*events, *(ActorLost(actor, Failure("lost", "ActorLost", "died")) for actor in filter(None, served))])

        self.called: dict[Any, Any] = {}
        super().open(forget)

    def submit(self, tasks: Any) -> None:
        self.called |= {spec.id: spec.actor.id for spec in tasks if spec.mode == "method"}
        super().submit(tasks)


@pytest.mark.parametrize("kind", ["saved", "seldom"])
def test_an_object_survives_the_death_of_its_process(tmp_path: Path, ledger: str, kind: str) -> None:
    """After each call: it is rebuilt for the next, and no call is a step twice."""
    with opened(tmp_path, Forgetful()) as engine:
        run = engine.start(adding, ledger, kind, [1, 2, 3, 4])
        assert run.result() == ([1, 3, 6, 10], 10)
        assert {step.attempts for step in steps_of(engine, run).values()} == {1}
    assert times(ledger)["add 1"] == (1 if kind == "saved" else 3)


class Watched(InlineRuntime):
    """Says which actors were made and released."""

    def __init__(self) -> None:
        super().__init__()
        self.made: list[Any] = []
        self.released: list[Any] = []

    def submit(self, tasks: Any) -> None:
        self.made += [spec.actor.id for spec in tasks if spec.mode == "create"]
        super().submit(tasks)

    def release(self, actors: Any, force: bool = False) -> None:
        self.released += actors
        super().release(actors, force)


@workflow
def one_after_the_other(ledger: str) -> None:
    for start in (1, 2):
        account = Saved(ledger, start)
        for amount in (1, 2, 3):
            get(account.add(amount))
        del account
        SEEN.append(start)
    get(number(1))


def test_an_object_keeps_its_process_until_no_call_can_come(tmp_path: Path, ledger: str) -> None:
    """One process for all calls; it is given back when the body has dropped the object, and at the latest with the run."""
    runtime = Watched()
    with opened(tmp_path, runtime) as engine:
        engine.start(one_after_the_other, ledger).result()
        assert len(runtime.made) == 2
        assert runtime.released == runtime.made


@workflow
def held_up(ledger: str) -> int:
    account = Saved(ledger)
    get(account.add(1))
    EVENTS["reached"].set()
    EVENTS["go on"].wait(300)
    return get(account.add(2))


def test_a_run_that_is_cancelled_lets_go_of_its_objects(tmp_path: Path, ledger: str) -> None:
    """And can be resumed: what was recorded stands."""
    runtime = Watched()
    EVENTS.update({"reached": threading.Event(), "go on": threading.Event()})
    with opened(tmp_path, runtime) as engine:
        run = engine.start(held_up, ledger)
        assert EVENTS["reached"].wait(300)
        engine.cancel(run.id)
        assert run.wait(300)
        assert run.state is RunState.CANCELLED
        assert runtime.released == runtime.made
        EVENTS["go on"].set()
        assert engine.resume(run.id).result() == 3
    assert times(ledger)["add 1"] == 1


# ---- going on -------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["saved", "seldom"])
@pytest.mark.parametrize("flow", [adding, stepwise])
def test_a_resumed_run_goes_on_from_the_recorded_state(
    tmp_path: Path, ledger: str, make: Callable[[], Runtime], kind: str, flow: Any
) -> None:
    """In another process: the last saved state and the calls since; nothing recorded is a step again."""

    @workflow
    def stopping(ledger: str, kind: str, amounts: list[int]) -> Any:
        result = flow(ledger, kind, amounts)
        if Path(f"{ledger}.stop").exists():
            get(result if flow is stepwise else result[1])
            raise RuntimeError("stop here")
        return result, KIND_AFTER(ledger)

    set_flag(ledger, "stop")
    with opened(tmp_path, make()) as engine:
        run = engine.start(stopping, ledger, kind, [1, 2, 3, 4])
        with pytest.raises(RunFailed, match="stop here"):
            run.result()
    set_flag(ledger, "stop", on=False)
    before = times(ledger)
    with opened(tmp_path, make()) as engine:
        # the body closes over this test: it is resumed with the code at hand
        resumed = engine.resume(run.id)
        found, after = resumed.result()
    assert found == (([1, 3, 6, 10], 10) if flow is adding else 10)
    assert after == 1
    assert times(ledger) - before == {"init": 1, "add 1": 1}  # of the new object only


def KIND_AFTER(ledger: str) -> int:
    return get(Saved(ledger).add(1))


@pytest.mark.parametrize(("kind", "again"), [("saved", []), ("seldom", ["init", "add 1", "add 2"])])
def test_a_failed_call_runs_again_on_the_state_of_the_record(
    tmp_path: Path, ledger: str, make: Callable[[], Runtime], kind: str, again: list[str]
) -> None:
    """After a correction: the state before it is rebuilt, from what is saved and by as few calls as that needs."""
    set_flag(ledger, "no-3")
    with opened(tmp_path, make()) as engine:
        run = engine.start(adding, ledger, kind, [1, 2, 3])
        with pytest.raises(RunFailed, match="not 3"):
            run.result()
    set_flag(ledger, "no-3", on=False)
    before = executed(ledger)
    with opened(tmp_path, make()) as engine:
        assert engine.resume(run.id).result() == ([1, 3, 6], 3)
    assert executed(ledger)[len(before) :] == [*again, "add 3"]


def test_a_failed_call_that_others_have_passed_runs_again_on_what_they_left(
    tmp_path: Path, ledger: str, make: Callable[[], Runtime]
) -> None:
    """The record stands: later calls found the state without it, and it finds theirs. Replays keep to that order."""
    set_flag(ledger, "no-2")
    set_flag(ledger, "no-8")
    with opened(tmp_path, make()) as engine:
        run = engine.start(adding, ledger, "seldom", [1, 2, 4, 8])
        with pytest.raises(RunFailed):
            run.result()
    set_flag(ledger, "no-2", on=False)
    with opened(tmp_path, make()) as engine:
        run = engine.resume(run.id)
        with pytest.raises(RunFailed, match="not 8"):
            run.result()
    set_flag(ledger, "no-8", on=False)
    with opened(tmp_path, make()) as engine:
        assert engine.resume(run.id).result() == ([1, 7, 5, 15], 5)


@workflow
def changing(ledger: str) -> None:
    get(Saved(ledger).add(SEEN[0]))
    if SEEN == [1]:
        raise RuntimeError("stop")


def test_a_call_that_is_changed_is_a_mismatch(tmp_path: Path, ledger: str, make: Callable[[], Runtime]) -> None:
    """The body calls a method with other arguments than are recorded under the key."""
    with opened(tmp_path, make()) as engine:
        SEEN[:] = [1]
        run = engine.start(changing, ledger)
        with pytest.raises(RunFailed):
            run.result()
        SEEN[:] = [2]
        with pytest.raises(RunMismatch) as caught:
            engine.resume(run.id).result()
    assert caught.value.key == "changing/Saved[0]/add[0]"


def test_a_damaged_state_is_named_and_fails_the_calls_that_need_it(
    tmp_path: Path, ledger: str, make: Callable[[], Runtime]
) -> None:
    """Its bytes are gone from among the artifacts: no call runs on anything else."""
    set_flag(ledger, "no-2")
    with opened(tmp_path, make()) as engine:
        run = engine.start(adding, ledger, "heavy", [1, 2])
        with pytest.raises(RunFailed):
            run.result()
        saved = engine.store.saved_state(engine.store.find_run(run.id).number, 0)
        assert saved.state is not None
        Path(engine.artifacts.local_path(saved.state.digest, saved.state.size)).unlink()
    set_flag(ledger, "no-2", on=False)
    with opened(tmp_path, make()) as engine, pytest.raises(RunFailed, match=saved.state.digest[:12]):
        engine.resume(run.id).result()
