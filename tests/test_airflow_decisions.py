"""What a try of an Airflow task does about the run that is there. Needs no Airflow."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest

from dagengine.airflow_plugin.decisions import (
    ON_CLEAR,
    ON_RETRY,
    WHERE,
    Attach,
    Begin,
    Decision,
    Fork,
    Found,
    Refuse,
    Resume,
    Return,
    Where,
    decide,
)
from dagengine.model import RunState

RUN, OLD = "a" * 32, "b" * 32
UNFINISHED_WITHOUT_HELP = [
    RunState.FAILED, RunState.CANCELLED, RunState.INTERRUPTED, RunState.MISMATCH, RunState.CRASHED,
]  # fmt: skip


def mine(state: RunState, **said: Any) -> Found:
    return Found(RUN, state, **said)


def old(state: RunState, **said: Any) -> Found:
    return Found(OLD, state, **said)


@pytest.mark.parametrize("where", WHERE)
def test_the_first_try_begins_a_run(where: Where) -> None:
    """Nothing is there."""
    assert decide(None, None, where=where) == Begin()


@pytest.mark.parametrize(("where", "state"), list(product(WHERE, UNFINISHED_WITHOUT_HELP)))
def test_a_retry_goes_on_with_a_run_that_did_not_succeed(where: Where, state: RunState) -> None:
    """Finished steps are not repeated."""
    assert decide(mine(state), None, where=where) == Resume(RUN)


def test_a_retry_begins_anew_if_that_is_asked_for() -> None:
    """With on_retry="restart"; the run that failed stays as it is."""
    assert decide(mine(RunState.FAILED), None, on_retry="restart") == Begin(anew=True)
    assert decide(mine(RunState.PENDING, begun=False), None, on_retry="restart") == Resume(RUN)


def test_a_run_that_was_undone_is_begun_anew() -> None:
    """Nothing in it goes on: a retry that resumed it would fail at once, having done nothing."""
    for state in (RunState.FAILED, RunState.CANCELLED):
        assert decide(mine(state, undone=True), None) == Begin(anew=True)
        assert decide(None, old(state, undone=True)) == Begin()


@pytest.mark.parametrize(("where", "on_retry"), list(product(WHERE, ON_RETRY)))
def test_a_run_that_has_succeeded_is_returned(where: Where, on_retry: Any) -> None:
    """The task's process died between the run's end and Airflow's hearing of it."""
    assert decide(mine(RunState.SUCCEEDED), None, where=where, on_retry=on_retry) == Return(RUN)


@pytest.mark.parametrize(("where", "on_retry"), list(product(WHERE, ON_RETRY)))
def test_a_run_on_which_somebody_works_is_waited_for(where: Where, on_retry: Any) -> None:
    """Two never work on the same run; a paused one is a person's to let go on."""
    for found in (mine(RunState.RUNNING), mine(RunState.PAUSED), mine(RunState.PENDING, expected=True)):
        assert decide(found, None, where=where, on_retry=on_retry) == Attach(RUN)


def test_a_waiting_run_is_a_servers_or_the_next_trys() -> None:
    """Without a server, nobody would wake a run whose task has died."""
    assert decide(mine(RunState.WAITING), None, where="here") == Resume(RUN)
    assert decide(mine(RunState.WAITING), None, where="serve") == Attach(RUN)


@pytest.mark.parametrize(("where", "state"), list(product(WHERE, RunState)))
def test_another_call_under_the_same_id_is_refused_whatever_its_state(where: Where, state: RunState) -> None:
    """Never a silent attach, nor a result of other arguments."""
    for said in ({"same_arguments": False}, {"same_workflow": False}):
        decision = decide(mine(state, **said), None, where=where)
        assert isinstance(decision, Refuse)
        assert RUN[:12] in decision.reason
        assert "\n" not in decision.reason


def test_a_cleared_task_shares_what_its_failed_run_has_done() -> None:
    """A new run with today's code; finished steps whose code has not changed are not repeated."""
    for state in UNFINISHED_WITHOUT_HELP:
        assert decide(None, old(state)) == Fork(OLD)
        assert decide(None, old(state, same_arguments=False)) == Fork(OLD, rebind=True)
        assert decide(None, old(state, same_workflow=False)) == Begin()
        assert decide(None, old(state, begun=False)) == Begin()


def test_a_cleared_task_that_had_succeeded_runs_again() -> None:
    """That is what it was cleared for."""
    assert decide(None, old(RunState.SUCCEEDED)) == Begin()


def test_a_cleared_task_can_be_told_what_to_do() -> None:
    """on_clear="new" looks at nothing; "reuse" takes the run as a retry would."""
    for state in (*UNFINISHED_WITHOUT_HELP, RunState.SUCCEEDED):
        assert decide(None, old(state), on_clear="new") == Begin()
    assert decide(None, old(RunState.SUCCEEDED), on_clear="reuse") == Return(OLD)
    assert decide(None, old(RunState.FAILED), on_clear="reuse", on_retry="restart") == Resume(OLD)
    assert isinstance(decide(None, old(RunState.SUCCEEDED, same_arguments=False), on_clear="reuse"), Refuse)


def test_a_cleared_task_does_not_work_beside_the_run_that_it_left_alone() -> None:
    """With on_kill="leave" the run goes on: the new try waits for it, unless it is to do something else."""
    assert decide(None, old(RunState.RUNNING)) == Attach(OLD)
    assert isinstance(decide(None, old(RunState.RUNNING, same_arguments=False)), Refuse)


def test_every_case_has_an_answer_and_only_the_same_call_is_ever_taken_over() -> None:
    """No combination of what is found and asked for is forgotten; and none attaches to, resumes or returns another call."""
    runs = [
        Found(RUN, state, *said) for state in RunState for said in product((False, True), repeat=5)
    ]  # fmt: skip
    for where, on_retry, on_clear in product(WHERE, ON_RETRY, ON_CLEAR):
        for run in runs:
            for decision in (
                decide(run, None, where=where, on_retry=on_retry, on_clear=on_clear),
                decide(None, run, where=where, on_retry=on_retry, on_clear=on_clear),
            ):
                assert isinstance(decision, Decision)
                if isinstance(decision, Attach | Resume | Return):
                    assert run.same_call
                if isinstance(decision, Fork):
                    assert run.same_workflow
                    assert decision.rebind is not run.same_arguments
