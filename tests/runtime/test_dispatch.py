"""The dispatcher, without processes or clock: what goes where, what is taken back, who is blamed."""

from __future__ import annotations

import random
from typing import Any, TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dagengine.errors import InternalError
from dagengine.runtime.dispatch_model import (
    IDLE_SECONDS,
    PREFETCH_SECONDS,
    PREFETCH_TASKS,
    START_TRIES,
    STUCK_SECONDS,
    TRANSITIONS,
    UNIT,
    Action,
    ActorReleased,
    Begun,
    Blocked,
    Closing,
    Ended,
    Finished,
    Move,
    Retire,
    Revoke,
    Send,
    Signal,
    StartWorker,
    Task,
    TaskState,
    Tick,
    Unblocked,
    WorkerDown,
)
from tests.runtime.world import World

A = TypeVar("A")


def only(kind: type[A], actions: list[Action]) -> list[A]:
    return [action for action in actions if isinstance(action, kind)]


def world(workers: int, known: float | None = None) -> World:
    """Workers that are up; `known`: what tasks of function 0 are known to take."""
    made = World(workers)
    made.up(*range(workers))
    if known is not None:
        made.seconds[0] = known
        made.submit(*made.tasks(1))
        made.finish_all()
        made.begun.clear()
    return made


def sent(made: World) -> dict[int, int]:
    return {number: len(worker.arriving) for number, worker in made.workers.items()}


# ---- giving ---------------------------------------------------------------------------------


def test_tasks_wait_until_a_worker_is_up() -> None:
    """Nothing is sent to a process that may never come up."""
    made = World(1)
    assert not only(Send, made.submit(*made.tasks(2)))
    made.up(0)
    assert sent(made) == {0: 1}


def test_idle_workers_get_one_task_each_in_the_order_of_submission() -> None:
    """An unknown function may take for ever: nothing is sent behind it."""
    made = world(2)
    tasks = made.tasks(5)
    made.submit(*tasks)
    assert sent(made) == {0: 1, 1: 1}
    assert sorted(made.begun) == [task.id for task in tasks[:2]]
    made.step(0)
    made.step(0)
    made.deliver(0)
    assert made.begun[2] == tasks[2].id


def test_quick_tasks_are_sent_ahead_up_to_both_bounds() -> None:
    """As many as the estimate allows, and never more than the bound on their number."""
    made = world(1, known=0.001)
    made.submit(*made.tasks(1000))
    assert sent(made) == {0: round(PREFETCH_SECONDS / 0.001)}
    made = world(1, known=0.000001)
    made.submit(*made.tasks(1000))
    assert sent(made) == {0: PREFETCH_TASKS}


def test_slow_tasks_are_not_sent_ahead() -> None:
    """What takes longer than the bound waits in the queue, where any worker can have it."""
    made = world(2, known=1.0)
    made.submit(*made.tasks(10))
    assert sent(made) == {0: 1, 1: 1}


def test_what_is_sent_ahead_is_shared_among_the_workers() -> None:
    """No worker gets a batch while another one sits idle."""
    made = world(4, known=0.0001)
    made.submit(*made.tasks(8))
    assert max(sent(made).values()) <= 3
    assert min(sent(made).values()) >= 1


def test_a_worker_is_refilled_in_batches() -> None:
    """One finished task does not cost one frame: refills wait until half of the work is gone."""
    made = world(1, known=0.00001)
    made.submit(*made.tasks(2000))
    sends = 0
    for _ in range(500):
        made.step(0)
        sends += len(only(Send, made.deliver(0)))
    assert sends < 10


@pytest.mark.parametrize("fields", [{"timeout": 9.0}, {"cpus": 2 * UNIT}, {"cpus": UNIT // 2}])
def test_special_tasks_are_sent_alone(fields: dict[str, Any]) -> None:
    """What has a timeout or asks for more than a worker neither waits behind a task nor has one behind it."""
    made = world(2, known=0.0001)
    special = made.tasks(1, plain=False, **fields)
    plain = made.tasks(10)
    made.submit(*special, *plain)
    holder = next(worker for worker in made.workers.values() if special[0] in worker.arriving)
    assert list(holder.arriving) == special
    made = world(2, known=0.0001)
    special = made.tasks(1, plain=False, **fields)
    made.submit(*made.tasks(10), *special)
    sharing = [worker for worker in made.workers.values() if special[0] in worker.arriving and len(worker.arriving) > 1]
    assert not sharing


def test_plain_tasks_use_no_more_cpus_than_there_are() -> None:
    """However many processes are idle: what was sent to the node ahead of need waits for a cpu."""
    made = world(2)
    made.submit(*made.tasks(4, plain=False, cpus=0))
    made.up(2, 3)
    made.finish_all()
    assert len(made.workers) == 4
    plain = made.tasks(8)
    made.submit(*plain)
    assert len(made.begun) == 4 + 2


def test_what_holds_its_cpus_leaves_plain_tasks_the_rest() -> None:
    """One that uses both cpus runs beside at most one plain task that had been sent to the node before."""
    made = world(2)
    (wide,) = made.tasks(1, plain=False, cpus=2 * UNIT)
    plain = made.tasks(4)
    made.submit(wide, *plain)
    assert made.begun == [wide.id]
    made.finish_all()
    assert len(made.ended) == 5


# ---- how many workers -----------------------------------------------------------------------


def test_a_task_that_was_given_all_it_needs_gets_a_worker_even_if_one_has_to_be_started() -> None:
    """Tasks of half a cpu run four at a time on two cpus."""
    made = world(2)
    halves = made.tasks(4, plain=False, cpus=UNIT // 2)
    started = only(StartWorker, made.submit(*halves))
    assert len(started) == 2
    made.up(*(start.worker for start in started))
    assert len(made.begun) == 4


def test_a_task_that_waits_inside_itself_gives_its_cpu_and_what_was_sent_behind_it_to_others() -> None:
    """Nested waits to any depth: each that waits gets another worker started, and what was behind it runs there."""
    made = world(1, known=0.0001)
    outer, *behind = made.tasks(5)
    made.submit(outer, *behind)
    made.step(0)
    actions = made.happen(Blocked(0))
    assert only(Revoke, actions)
    made.workers[0].read()
    made.deliver(0)
    (number,) = set(made.workers) - {0}
    made.up(number)
    while len(made.live) > 1:
        made.step(number)
        made.deliver(number)
    assert list(made.live) == [outer.id]
    made.happen(Unblocked(0))
    made.finish_all()
    assert outer.state is TaskState.FINISHED


def test_workers_above_the_number_that_is_kept_end_when_they_were_idle_for_long() -> None:
    """They came for a wave of waiting tasks; the next one may follow soon."""
    made = world(1)
    made.submit(*made.tasks(3, plain=False, cpus=0))
    made.up(1, 2)
    made.finish_all()
    assert made.timer == IDLE_SECONDS
    made.now = IDLE_SECONDS
    retired = only(Retire, made.happen(Tick()))
    assert len(retired) == 2
    for retire in retired:
        made.die(retire.worker)
    assert len(made.workers) == 1


def test_a_worker_that_has_seen_devices_is_used_again_for_the_same_ones_only() -> None:
    """A process can't forget a GPU: others get another worker, and one that holds a part of what is asked for ends."""
    made = world(2)
    first, same = (made.tasks(1, plain=False, devices=(0,))[0] for _ in range(2))
    made.submit(first)
    holder = first.worker
    made.finish_all()
    made.submit(same)
    assert same.worker == holder
    made.finish_all()
    (plain,) = made.tasks(1, plain=False)
    made.submit(plain)
    assert plain.worker != holder
    made.finish_all()
    (both,) = made.tasks(1, plain=False, devices=(0, 1))
    assert [retire.worker for retire in only(Retire, made.submit(both))] == [holder]
    made.finish_all()
    assert both.worker not in (holder, -1)


def test_a_worker_that_has_run_one_code_is_not_used_for_another() -> None:
    """Tasks of another pack wait for a worker of theirs, which is started; those behind them go on. None is replaced."""
    made = world(1)
    first, other, third = (made.tasks(1, code=code)[0] for code in "aba")
    made.submit(first)
    made.finish_all()
    starts = only(StartWorker, made.submit(other, third))
    assert [start.worker for start in starts] == [1]
    assert (third.worker, other.worker) == (first.worker, -1)
    made.up(1)
    made.finish_all()
    assert other.worker == 1
    again = made.tasks(4)
    for task, code in zip(again, "baab", strict=True):
        task.code = code
        assert not only(StartWorker, made.submit(task))
        made.finish_all()
    assert [task.worker for task in again] == [1, 0, 0, 1]
    (new,) = made.tasks(1, code="c")
    told = made.submit(new)
    assert [retire.worker for retire in only(Retire, told)] == [0]
    assert len(only(StartWorker, told)) == 1
    made.finish_all()


def test_what_waits_behind_a_long_task_gets_a_new_worker_if_the_idle_ones_have_run_another_code() -> None:
    """It is taken back once there is somebody who could have it."""
    made = world(2)
    (other,) = made.tasks(1, code="b")
    (known,) = made.tasks(1, code="a")
    made.submit(other, known)
    made.finish_all()
    many = made.tasks(10, code="a")
    told = [made.submit(task) for task in many]
    starts = [start for actions in told for start in only(StartWorker, actions)]
    assert len(starts) == 1
    made.up(starts[0].worker)
    made.now += 1.0
    made.tick()
    made.finish_all()
    assert starts[0].worker in {task.worker for task in many}


# ---- actors ---------------------------------------------------------------------------------


def actor(made: World, threads: int = 1) -> int:
    """Make actor (5,), which lives in the worker that is returned."""
    (create,) = made.tasks(1, plain=False, actor=(5,), creates=True, threads=threads)
    made.submit(create)
    number = create.worker
    made.finish_all()
    return number


def calls(made: World, count: int, **fields: Any) -> list[Task]:
    return made.tasks(count, plain=False, actor=(5,), **fields)


def test_calls_go_to_the_worker_of_their_actor_in_their_order() -> None:
    """All of them at once: nobody else could run them. The worker is the actor's, and another one takes its place."""
    made = world(1)
    number = actor(made)
    assert len(made.workers) == 2
    asked = calls(made, 5)
    made.submit(*asked)
    assert list(made.workers[number].arriving) == asked
    made.begun.clear()
    made.finish_all()
    assert made.begun == [task.id for task in asked[1:]] or made.begun == [task.id for task in asked]
    made.close(force=False)


def test_concurrent_calls_begin_side_by_side_and_end_in_any_order() -> None:
    """One that has to be alone waits for all before it."""
    made = world(1)
    number = actor(made, threads=3)
    side = calls(made, 2, concurrent=True)
    (alone,) = calls(made, 1)
    made.begun.clear()
    made.submit(*side, alone)
    assert made.begun == [task.id for task in side]
    made.happen(Finished(number, [(side[1].id, 0.1)]))
    assert made.begun == [task.id for task in side]
    made.live.pop(side[1].id, None)
    made.happen(Finished(number, [(side[0].id, 0.1)]))
    assert made.begun[-1] == alone.id


def test_the_death_of_an_actor_loses_what_had_begun_and_gives_back_the_rest() -> None:
    """The core is told of the calls first, then of the actor by the task that had made it."""
    made = world(1)
    number = actor(made)
    first, second, third = calls(made, 3)
    made.submit(first, second, third)
    made.step(number)
    made.die(number)
    assert [task.state for task in (first, second, third)] == [TaskState.LOST, TaskState.DROPPED, TaskState.DROPPED]
    assert [made.ended[task.id].started for task in (first, second, third)] == [True, False, False]
    assert made.actors_down == [((0, 1, 1), False)]
    late = calls(made, 1)
    made.submit(*late)
    assert not made.ended[late[0].id].started


def test_a_cancelled_call_is_taken_out_and_the_others_keep_their_order() -> None:
    """All that has not begun is taken back, and sent again without it."""
    made = world(1)
    number = actor(made)
    asked = calls(made, 5)
    made.submit(*asked)
    made.step(number)
    made.cancel(asked[2])
    assert asked[2].state is TaskState.DROPPED
    made.begun.clear()
    made.finish_all()
    assert [task.state for task in asked if task is not asked[2]] == [TaskState.FINISHED] * 4
    assert made.begun == [asked[1].id, asked[3].id, asked[4].id]


def test_an_actor_is_ended_politely_or_at_once() -> None:
    """Politely when it has nothing to do; with force its call is lost, by our own doing."""
    made = world(1)
    number = actor(made)
    assert only(Retire, made.happen(ActorReleased((5,), False))) == [Retire(number)]
    made.die(number)
    assert made.actors_down == [((0, 1, 1), True)]
    made = world(1)
    number = actor(made)
    (call,) = calls(made, 1)
    made.submit(call)
    made.step(number)
    assert only(Signal, made.happen(ActorReleased((5,), True))) == [Signal(number, hard=True)]
    made.die(number)
    assert call.state is TaskState.DROPPED
    assert made.ended[call.id].started


# ---- taking back ----------------------------------------------------------------------------


def test_an_idle_worker_gets_what_another_one_has_not_begun() -> None:
    """Work that was sent ahead does not wait behind a task that turns out to be long."""
    made = world(2, known=0.0004)
    made.submit(*made.tasks(8))
    made.step(0)
    slow = made.workers[0].running
    assert slow is not None
    while made.workers[1].arriving or made.workers[1].tasks or made.workers[1].running:
        made.step(1)
        made.deliver(1)
    made.now += STUCK_SECONDS
    made.happen(Tick())
    while len(made.live) > 1:
        made.step(1)
        made.deliver(1)
    assert list(made.live) == [slow.id]
    assert all(count == 1 for count in made.ran.values())


def test_a_little_work_sent_ahead_is_left_where_it_is_at_first() -> None:
    """It is done sooner than a revocation; only when its worker is stuck it is taken back."""
    made = world(2, known=0.0001)
    one, two, three = made.tasks(3)
    made.submit(one, two, three)
    number, other = (0, 1) if len(made.workers[0].arriving) == 2 else (1, 0)
    made.step(number)
    made.step(other)
    made.step(other)
    assert not only(Revoke, made.deliver(other))
    assert made.timer == made.now + STUCK_SECONDS
    assert only(Revoke, made.tick())


def test_nothing_is_sent_to_a_worker_that_owes_an_acknowledgement() -> None:
    """It could take the new task's permit for one that was taken back."""
    made = world(2, known=0.0004)
    made.submit(*made.tasks(8))
    made.step(0)
    while made.workers[1].arriving or made.workers[1].tasks or made.workers[1].running:
        made.step(1)
        made.deliver(1)
    made.now += STUCK_SECONDS
    made.happen(Tick())
    assert made.core.staff.workers[0].revoking == 1
    for send in only(Send, made.submit(*made.tasks(50))):
        assert send.worker != 0
    made.step(0)
    made.deliver(0)
    assert made.core.staff.workers[0].revoking == 0
    assert made.workers[0].arriving


def test_a_revocation_that_comes_too_late_is_not_repeated() -> None:
    """When all permits are taken, the results are on their way: asking again would only find the same."""
    made = world(2, known=0.0001)
    made.submit(*made.tasks(3))
    number, other = (0, 1) if len(made.workers[0].arriving) == 2 else (1, 0)
    made.step(number)
    made.step(number)
    made.step(other)
    made.step(other)
    made.deliver(other)
    assert len(only(Revoke, made.tick())) == 1
    assert made.core.staff.workers[number].revoking == 0
    made.now += 1.0
    assert not only(Revoke, made.happen(Tick()))


# ---- cancelling -----------------------------------------------------------------------------


def test_cancelling_drops_what_is_queued_or_sent_ahead_and_leaves_what_runs() -> None:
    """The others that were taken back with a cancelled task run later, once."""
    made = world(1, known=0.0001)
    running, *ahead = made.tasks(10)
    made.submit(running, *ahead)
    made.step(0)
    made.cancel(running, *ahead[:3])
    for task in ahead[:3]:
        assert task.state is TaskState.DROPPED
        assert not made.ended[task.id].started
    made.finish_all()
    assert running.state is TaskState.FINISHED
    assert {task.state for task in ahead[3:]} == {TaskState.FINISHED}
    assert all(count == 1 for count in made.ran.values())


def test_cancelling_by_force_ends_the_worker_first_politely() -> None:
    """SIGTERM, and SIGKILL when the grace is over; the attempt is dropped, others on that worker are not."""
    made = world(1, known=0.0001)
    running, ahead = made.tasks(2)
    made.submit(running, ahead)
    made.step(0)
    actions = made.cancel(running, force=True)
    assert only(Signal, actions) == [Signal(0, hard=False)]
    assert only(StartWorker, actions), "the one that takes its place"
    assert made.timer == made.now + 2.0
    assert only(Signal, made.tick()) == [Signal(0, hard=True)]
    actions = made.die(0)
    assert only(Ended, actions) == [Ended(running, True)]
    assert running.state is TaskState.DROPPED
    made.finish_all()
    assert ahead.state is TaskState.FINISHED


def test_a_forced_cancel_that_comes_too_late_kills_nobody_else() -> None:
    """If the task has finished and its worker already runs another one, that one is left alone."""
    made = world(1, known=0.0001)
    first, second = made.tasks(2)
    made.submit(first, second)
    made.step(0)
    made.step(0)
    assert made.workers[0].running is second
    assert not only(Signal, made.cancel(first, force=True))
    made.finish_all()
    assert (first.state, second.state) == (TaskState.FINISHED, TaskState.FINISHED)


# ---- timeouts -------------------------------------------------------------------------------


def test_a_task_that_runs_too_long_is_ended() -> None:
    """Its time counts from its beginning, not from its submission."""
    made = World(1)
    (timed,) = made.tasks(1, plain=False, timeout=5.0)
    made.submit(timed)
    made.now = 100.0
    made.up(0)
    made.step(0)
    assert made.timer == 105.0
    assert only(Signal, made.tick()) == [Signal(0, hard=False)]
    made.die(0)
    assert timed.state is TaskState.TIMED_OUT
    assert made.ended[timed.id].started


def test_a_result_that_arrives_before_the_worker_dies_counts() -> None:
    """The work is done: throwing it away would help nobody."""
    made = world(1)
    (timed,) = made.tasks(1, plain=False, timeout=5.0)
    made.submit(timed)
    made.step(0)
    made.tick()
    made.step(0)
    made.die(0)
    assert timed.state is TaskState.FINISHED


def test_deadlines_of_ended_tasks_do_not_pile_up() -> None:
    """Many short tasks with long timeouts leave no more timers than there are tasks."""
    made = world(1)
    for _ in range(1000):
        made.submit(*made.tasks(1, plain=False, timeout=3600.0))
        made.finish_all()
    assert len(made.core.timers) < 100


# ---- deaths ---------------------------------------------------------------------------------


def test_only_the_task_that_ran_is_blamed_for_a_death() -> None:
    """Tasks that were sent ahead go to the front of the queue, as if they had never been sent."""
    made = world(1, known=0.0001)
    tasks = made.tasks(10)
    made.submit(*tasks)
    made.step(0)
    made.step(0)
    made.die(0)
    assert [task.state for task in tasks] == [TaskState.FINISHED, TaskState.LOST, *[TaskState.QUEUED] * 8]
    made.finish_all()
    assert {task.state for task in tasks[2:]} == {TaskState.FINISHED}
    assert made.begun[2:] == [task.id for task in tasks[2:]]


def test_nobody_is_blamed_for_the_death_of_a_worker_that_had_not_begun() -> None:
    """A task whose permit was not taken runs elsewhere."""
    made = world(1)
    (task,) = made.tasks(1)
    made.submit(task)
    made.die(0)
    assert made.state(task) is TaskState.QUEUED
    made.finish_all()
    assert made.state(task) is TaskState.FINISHED


def test_what_was_taken_back_goes_before_what_was_never_sent() -> None:
    """Order of submission holds also when several workers die."""
    made = world(2, known=0.0001)
    tasks = made.tasks(1000)
    made.submit(*tasks)
    made.die(0)
    made.die(1)
    assert [task.id for task in made.core.queue] == [task.id for task in tasks]


def test_workers_that_never_come_up_make_the_runtime_give_up() -> None:
    """A few tries, later and later; then it says so, once."""
    made = World(1)
    for number in range(START_TRIES):
        assert not made.gave_up
        made.die(number)
        if number < START_TRIES - 1:
            made.tick()
    assert made.gave_up


def test_a_failing_start_is_tried_on_while_another_worker_works() -> None:
    """One worker is enough to go on."""
    made = World(2)
    made.up(0)
    number = 1
    for _ in range(3 * START_TRIES):
        made.die(number)
        made.tick()
        number += 1
    assert not made.gave_up
    made.submit(*made.tasks(3))
    made.finish_all()


# ---- closing --------------------------------------------------------------------------------


@pytest.mark.parametrize("force", [False, True])
def test_closing_ends_every_attempt_and_every_worker(force: bool) -> None:
    """What runs is waited for, or with force killed; the rest is dropped."""
    made = world(2, known=0.0001)
    tasks = made.tasks(100)
    made.submit(*tasks)
    made.step(0)
    running = made.workers[0].running
    assert running is not None
    made.close(force)
    assert running.state is (TaskState.DROPPED if force else TaskState.FINISHED)
    assert made.ended[running.id].started
    assert {task.state for task in tasks} <= {TaskState.DROPPED, TaskState.FINISHED}
    assert sum(made.ended[task.id].started for task in tasks) == (1 if force else len(made.ran) - 1)


def test_a_draining_close_can_be_forced_later() -> None:
    """The second, impatient close kills what the first one waits for."""
    made = world(1)
    (task,) = made.tasks(1)
    made.submit(task)
    made.step(0)
    assert not only(Signal, made.happen(Closing(force=False)))
    assert only(Signal, made.happen(Closing(force=True))) == [Signal(0, hard=True)]
    made.die(0)
    assert made.gone


# ---- refusals -------------------------------------------------------------------------------


def test_each_move_that_is_not_in_the_table_is_refused() -> None:
    """A task can't end twice, or begin before it is sent; a refused move changes nothing."""
    for state in TaskState:
        for move in Move:
            task = Task((0, 0, 0), 0, state=state)
            if (state, move) in TRANSITIONS:
                task.move(move)
                assert task.state is TRANSITIONS[state, move]
            else:
                with pytest.raises(InternalError, match=f"{state.name}.*{move.name}"):
                    task.move(move)
                assert task.state is state


def test_a_result_of_a_task_that_the_worker_does_not_run_is_refused() -> None:
    """A worker that answers for something else is an error of ours, not a result."""
    made = world(1)
    with pytest.raises(InternalError, match="does not run"):
        made.happen(Finished(0, [((7, 7, 7), 0.1)]))
    (task,) = made.tasks(1)
    made.submit(task)
    with pytest.raises(InternalError, match="while it is live"):
        made.submit(task)


# ---- any order ------------------------------------------------------------------------------


@settings(max_examples=60)
@given(seed=st.integers(0, 2**32), workers=st.integers(1, 4), force=st.booleans(), steps=st.integers(10, 120))
def test_whatever_happens_in_whatever_order_the_invariants_hold(
    seed: int, workers: int, force: bool, steps: int
) -> None:
    """Random submissions, results, deaths, cancels and ticks; every attempt ends once and runs as often as it may."""
    chance = random.Random(seed)
    made = World(workers)
    codes = chance.choice([[""], ["a", "b"], ["a", "b", "c"]])
    made.seconds = {0: 0.00005, 1: 0.0008, 2: 0.003, 3: 1.0}
    everything: list[Task] = []
    lost: dict[Task, int] = {}
    actors = 0
    for _ in range(steps):
        made.now += chance.choice([0.0, 0.00001, 0.0005, 0.003])
        number = chance.choice(list(made.workers)) if made.workers else None
        worker = made.workers[number] if number is not None else None
        match chance.choices(("submit", "step", "deliver", "die", "cancel", "force", "tick"), (4, 12, 8, 1, 1, 1, 2))[
            0
        ]:
            case "submit":
                for _ in range(chance.choice([1, 1, 3, 40])):
                    fields: dict[str, object] = chance.choice(
                        [
                            {},
                            {},
                            {},
                            {},
                            {"plain": False, "timeout": 0.002},
                            {"plain": False, "cpus": UNIT // 2},
                            {"plain": False, "cpus": UNIT * workers},
                            {"plain": False, "devices": (chance.randrange(2),)},
                            {"plain": False, "actor": (actors := actors + 1,), "creates": True, "threads": 2},
                            {
                                "plain": False,
                                "actor": (chance.randint(0, actors),),
                                "concurrent": chance.random() < 0.5,
                            },
                        ]
                    )
                    owner = fields.get("actor")
                    fields["code"] = codes[owner[0] % len(codes)] if isinstance(owner, tuple) else chance.choice(codes)
                    everything += made.tasks(1, function=chance.randrange(4), **fields)
                    made.submit(everything[-1])
            case "step" if worker is not None and number is not None and worker.up and not worker.signal:
                made.step(number)
            case "deliver" if number is not None:
                made.deliver(number)
            case "die" if worker is not None and number is not None:
                for task in (worker.running, *worker.tasks):
                    if task is not None:
                        lost[task] = lost.get(task, 0) + 1
                made.die(number)
            case "cancel" | "force" as how if made.live:
                chosen = chance.sample(list(made.live.values()), min(len(made.live), 3))
                made.cancel(*chosen, force=how == "force")
            case "tick" if made.timer is not None:
                made.tick()
        for new in [other for other in made.workers.values() if not other.up and chance.random() < 0.5]:
            made.up(new.number)
    if chance.random() < 0.5:
        made.finish_all()
    made.close(force)
    assert set(made.ended) == {task.id for task in everything}
    assert {task.id for task in made.core.queue} == set()
    for task in everything:
        runs = made.ran.get(task.id, 0)
        # An attempt that ran has ended by it, so it never runs a second time, whatever died or was taken back.
        assert runs <= 1, f"{task.id} ran {runs} times"
        assert made.ended[task.id].started >= bool(runs)


def test_the_same_events_give_the_same_actions() -> None:
    """Nothing in the core depends on anything but its events."""

    def play() -> list[str]:
        chance = random.Random(7)
        made = world(3, known=0.0002)
        told: list[str] = []
        for _ in range(300):
            number = chance.choice(list(made.workers))
            if not made.workers[number].up:
                made.up(number)
            made.step(number)
            told += map(repr, made.deliver(number))
            if chance.random() < 0.2:
                told += map(repr, made.submit(*made.tasks(chance.randrange(20), function=chance.randrange(2))))
            if chance.random() < 0.02:
                told += map(repr, made.die(number))
        return told

    assert play() == play()


def test_a_begun_task_is_told_before_it_ends() -> None:
    """Also when several results arrive at once."""
    made = world(1, known=0.0001)
    tasks = made.tasks(4)
    made.submit(*tasks)
    for _ in range(5):
        made.step(0)
    told = [(type(action), action.task) for action in made.deliver(0) if isinstance(action, (Begun, Ended))]
    assert told == [
        (Ended, tasks[0]),
        (Begun, tasks[1]),
        (Ended, tasks[1]),
        (Begun, tasks[2]),
        (Ended, tasks[2]),
        (Begun, tasks[3]),
        (Ended, tasks[3]),
    ]


def test_the_death_of_a_worker_that_holds_more_than_one_started_task_blames_the_first() -> None:
    """Permits that a task took away (it may close or read any descriptor) do not make the core lose a task."""
    made = world(1, known=0.0001)
    tasks = made.tasks(3)
    made.submit(*tasks)
    made.workers.pop(0)
    made.happen(WorkerDown(0, 0))
    assert [task.state for task in tasks] == [TaskState.LOST, TaskState.QUEUED, TaskState.QUEUED]
