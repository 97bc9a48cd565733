"""Tries of an Airflow task whose runs are worked on in its own process. Without Airflow; real engines and real kills."""

from __future__ import annotations

import os
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dagengine.airflow_plugin.identity import TaskKey
from dagengine.airflow_plugin.outcomes import Kind, is_reference
from dagengine.client import Client
from dagengine.model import RunState
from tests.acceptance.processes import await_end
from tests.attending.site import Site
from tests.postgres.server import fresh_schema, shared

CLEARED = TaskKey("etl", "manual__1", "load", -1, 3)


def test_a_try_works_on_the_tasks_run_to_its_end(site: Site) -> None:
    """The result is for XCom; the log says where to look; the record says whose run it is."""
    (site.folder / "ok").touch()
    outcome = site.attend("adds", facts={"log_url": "http://airflow/log"})
    assert (outcome.kind, outcome.value) == (Kind.SUCCEEDED, 7)
    run = site.record()
    assert run.facts["airflow"]["key"] == "airflow/etl/manual__1/load/-1/2"
    assert run.facts["airflow"]["log_url"] == "http://airflow/log"
    said = "\n".join(site.said)
    assert f"dagengine show {run.id[:12]} --store {site.store}" in said
    assert "second: 1 of 1 step done" in said


def test_a_retry_resumes_the_run_and_repeats_nothing_that_finished(site: Site) -> None:
    """The failure names the step and its exception; what the step had printed is in the log."""
    outcome = site.attend("adds")
    assert outcome.kind is Kind.FAILED
    assert "failed in step adds/second[0]: ValueError: not yet" in outcome.text
    assert "  second printed this" in site.said
    (site.folder / "ok").touch()
    assert site.attend("adds", 2).value == 7
    assert site.ledger() == {"first-3": 1, "second-6": 2}


def test_a_retry_after_the_runs_end_returns_its_result(site: Site) -> None:
    """The process died between the run's end and Airflow's hearing of it: nothing is done again."""
    (site.folder / "ok").touch()
    site.attend("adds")
    assert site.attend("adds", 2).value == 7
    assert site.ledger() == {"first-3": 1, "second-6": 1}


@pytest.mark.parametrize("said", [{"kwargs": {"x": 4}}, {"kwargs": {"x": 3.0}}])
def test_other_arguments_under_the_same_id_are_refused(site: Site, said: dict[str, Any]) -> None:
    """Never a silent attach: the task fails for good, and the run stays as it is."""
    site.attend("adds")
    outcome = site.attend("adds", 2, **said)
    assert outcome.kind is Kind.FAILED_FOR_GOOD
    assert "was begun with other arguments" in outcome.text
    assert site.attend("holds", 2).kind is Kind.FAILED_FOR_GOOD
    assert site.state() is RunState.FAILED
    assert site.ledger() == {"first-3": 1, "second-6": 1}


def test_a_cleared_task_shares_what_its_failed_run_has_done(site: Site) -> None:
    """A run of its own, which does not repeat the finished step, and has today's code for the others."""
    site.attend("adds")
    (site.folder / "ok").touch()
    assert site.attend("adds", 3, CLEARED).value == 7
    assert site.ledger() == {"first-3": 1, "second-6": 2}
    assert site.record(CLEARED).forked_from == site.key.engine_id
    assert site.record(CLEARED).facts["airflow"]["generation"] == 3
    assert site.state() is RunState.FAILED


def test_a_cleared_task_with_other_arguments_shares_what_they_do_not_reach(site: Site) -> None:
    """The fork has today's arguments."""
    site.attend("adds")
    (site.folder / "ok").touch()
    assert site.attend("adds", 3, CLEARED, kwargs={"x": 5}).value == 11
    assert site.ledger() == {"first-3": 1, "second-6": 1, "first-5": 1, "second-10": 1}


def test_a_cleared_task_that_had_succeeded_runs_again(site: Site) -> None:
    """With on_clear="reuse" it does not."""
    (site.folder / "ok").touch()
    site.attend("adds")
    assert site.attend("adds", 3, CLEARED, on_clear="reuse").value == 7
    assert site.ledger() == {"first-3": 1, "second-6": 1}
    assert site.attend("adds", 3, CLEARED).value == 7
    assert site.ledger() == {"first-3": 2, "second-6": 2}


def test_a_retry_may_begin_anew(site: Site) -> None:
    """With on_retry="restart"; the try after that finds the new run."""
    site.attend("adds", on_retry="restart")
    site.attend("adds", 2, on_retry="restart")
    assert site.ledger() == {"first-3": 2, "second-6": 2}
    assert site.state(site.key.restarted(2)) is RunState.FAILED
    (site.folder / "ok").touch()
    assert site.attend("adds", 3).value == 7
    assert site.state(site.key.restarted(2)) is RunState.SUCCEEDED
    assert site.ledger() == {"first-3": 2, "second-6": 3}


def test_a_dag_run_that_was_deleted_and_made_again_has_runs_of_its_own(site: Site) -> None:
    """Airflow names it as before: neither its first try nor a later one is given what the deleted one had returned."""
    (site.folder / "ok").touch()
    assert site.attend("adds", instance="first").value == 7
    assert site.attend("adds", instance="first").value == 7
    assert site.ledger()["first-3"] == 1
    assert site.attend("adds", instance="second").value == 7
    assert site.ledger()["first-3"] == 2
    assert site.attend("adds", 2, instance="third", not_before=time.time() - 60).value == 7
    assert site.ledger()["first-3"] == 2
    assert site.attend("adds", 2, instance="fourth", not_before=time.time() + 3600).value == 7
    assert site.ledger()["first-3"] == 3
    assert any("is of another DAG run of this id, which is gone" in line for line in site.said)
    assert site.record(site.key.next_edition()).facts["airflow"]["instance"] == "second"


def test_ending_the_task_cancels_the_run_and_a_retry_goes_on_with_it(site: Site) -> None:
    """Marked, cleared or timed out: what runs is ended; what has finished is kept."""
    attendant = site.start(site.work("holds"))
    pids = site.await_started()
    attendant.stop("cancel")
    outcome = site.end(attendant)
    assert (outcome.kind, site.state()) == (Kind.FAILED, RunState.CANCELLED)
    assert outcome.text.startswith("the task was ended")
    assert await_end(pids) == []
    attendant = site.start(site.work("holds", 2))
    site.await_started()
    site.let_go()
    assert site.end(attendant).value == 7
    assert site.ledger() == {"first-3": 1, "hold-6": 2}


def test_a_run_that_goes_on_in_others_is_ended_and_resumed_where_it_is(site: Site) -> None:
    """The task's run is the whole chain of `continue_with`."""
    attendant = site.start(site.work("goes_on"))
    site.await_started()
    attendant.stop("cancel")
    assert site.end(attendant).kind is Kind.FAILED
    assert site.state() is RunState.CANCELLED
    attendant = site.start(site.work("goes_on", 2))
    site.await_started()
    site.let_go()
    assert site.end(attendant).value == 6
    assert site.ledger() == {"hold-5": 2}


def test_the_run_may_be_left_when_the_task_is_ended(site: Site) -> None:
    """With on_kill="leave" it can be resumed by whoever wants to."""
    attendant = site.start(site.work("holds"))
    site.await_started()
    attendant.stop("leave")
    attendant.stop("leave")  # asked twice: what runs is not waited for
    assert site.end(attendant).kind is Kind.FAILED
    assert site.state() is RunState.INTERRUPTED


def test_what_the_run_did_may_be_undone_when_the_task_is_ended(site: Site) -> None:
    """With on_kill="compensate"."""
    attendant = site.start(site.work("undoable"))
    site.await_started()
    attendant.stop("compensate")
    assert site.end(attendant).kind is Kind.FAILED
    assert site.ledger()["undo-3"] == 1
    assert site.state() is RunState.CANCELLED
    attendant = site.start(site.work("undoable", 2))  # of what is undone nothing goes on
    site.await_started()
    site.let_go()
    assert site.end(attendant).value == 7
    assert site.ledger()["first-3"] == 2


@pytest.mark.parametrize("whole_group", [False, True], ids=["the process", "its group"])
def test_a_killed_task_leaves_nothing_and_the_next_try_takes_over_at_once(site: Site, whole_group: bool) -> None:
    """After SIGKILL, to the process or to its group as Airflow's supervisor sends it: no worker, no child of a worker."""
    write_try(site)
    killed = site.process(str(site.folder / "try.py"))
    pids = site.await_started()
    (os.killpg if whole_group else os.kill)(killed.pid, signal.SIGKILL)
    killed.wait()
    assert await_end(pids) == []
    assert site.state() is RunState.CRASHED
    attendant = site.start(site.work("holds", 2))
    site.await_started()
    site.let_go()
    assert site.end(attendant).value == 7
    assert site.ledger() == {"first-3": 1, "hold-6": 2}


def write_try(site: Site) -> None:
    """A first try in a process that is to be killed: try.py."""
    (site.folder / "try.py").write_text(
        "from dagengine.airflow_plugin.attending import Work\n"
        "from dagengine.airflow_plugin.here import Here\n"
        "from dagengine.airflow_plugin.identity import TaskKey\n"
        f"work = Work({site.key!r}, 1, {str(site.file) + ':holds'!r}, (), {{'x': 3}}, store={site.store!r},"
        " machine={'workers': 1})\n"
        "here = Here(work, print)\n"
        "here.start(); here.wait(); print(here.outcome())\n"
    )


def test_a_killed_tasks_run_in_postgresql_is_taken_over_at_once(tmp_path: Path) -> None:
    """On the same machine the owner is proved dead: its lease is not waited for."""
    made = Site(tmp_path, shared().url(fresh_schema(), lease="600"))
    try:
        write_try(made)
        killed = made.process(str(made.folder / "try.py"))
        made.await_started()
        killed.kill()
        killed.wait()
        attendant = made.start(made.work("holds", 2))
        made.await_started()
        made.let_go()
        assert made.end(attendant).value == 7
        assert made.ledger() == {"first-3": 1, "hold-6": 2}
    finally:
        made.close()


def test_a_try_waits_for_another_process_that_works_on_the_run(site: Site) -> None:
    """Airflow has given up a process that lives: its run is not begun twice, and its result is this try's."""
    write_try(site)
    site.process(str(site.folder / "try.py"))
    site.await_started()
    attendant = site.start(site.work("holds", 2))
    while not any("worked on by process" in line for line in site.said):
        assert not attendant.wait(0.05)
    site.let_go()
    assert site.end(attendant).value == 7
    assert site.ledger() == {"first-3": 1, "hold-6": 1}


def test_a_try_takes_over_what_another_process_of_its_task_lets_go_of(site: Site) -> None:
    """That one is killed, or cancels the run because Airflow ends it: the try that waits has the task now."""
    first = site.start(site.work("holds"))
    site.await_started()
    second = site.start(site.work("holds", 2))
    while not any("worked on by process" in line for line in site.said):
        assert not second.wait(0.05)
    first.stop("cancel")
    site.end(first)
    site.await_started()
    site.let_go()
    assert site.end(second).value == 7
    assert site.ledger() == {"first-3": 1, "hold-6": 2}


@pytest.mark.parametrize("workflow", ["holds", "goes_on"])
def test_a_person_who_cancels_the_run_fails_the_task_for_good(site: Site, workflow: str) -> None:
    """No retry undoes what a person has decided; also of a run that has gone on in another one by then."""
    attendant = site.start(site.work(workflow))
    site.await_started()
    with Client(site.store) as client:
        client.cancel(site.key.engine_id)
    outcome = site.end(attendant)
    assert outcome.kind is Kind.FAILED_FOR_GOOD
    assert "was cancelled" in outcome.text


def test_a_paused_run_is_waited_for_until_somebody_lets_it_go_on(site: Site) -> None:
    """A person pauses it, a person unpauses it; meanwhile the task goes on."""
    attendant = site.start(site.work("holds"))
    site.await_started()
    assert site.process("-m", "dagengine", "pause", "--now", site.key.engine_id, "--store", site.store).wait() == 0
    while not any("is paused" in line for line in site.said):
        assert not attendant.wait(0.05)
    unpaused = site.process("-m", "dagengine", "unpause", site.key.engine_id, "--store", site.store, "--workers", "1")
    site.await_started()
    site.let_go()
    assert site.end(attendant).value == 7
    assert unpaused.wait() == 0
    assert site.ledger()["first-3"] == 1


def test_code_that_has_changed_since_is_the_retrys_where_the_process_has_it_loaded(site: Site) -> None:
    """A process can't have two versions of a module: it goes on with today's, and says so."""
    site.attend("adds")
    source = site.file.read_text().replace("return x + 1", "return x + 100")
    site.file.write_text(source)
    renew(site)
    (site.folder / "ok").touch()
    assert site.attend("adds", 2).value == 106
    assert any("goes on with today's code" in line for line in site.said)
    assert site.ledger() == {"first-3": 1, "second-6": 2}


def renew(site: Site) -> None:
    """The process loads today's version of the flows, as a new one would whose DAG file imports them."""
    import sys

    from dagengine import functions
    from dagengine.workflows import load

    del sys.modules[site.module], functions._files[site.module]
    load(f"{site.file}:adds")


@pytest.mark.parametrize(
    ("workflow", "said", "text"),
    [
        ("adss", {}, "Did you mean adds?"),
        ("adds", {"kwargs": {}}, "missing a required argument: 'x'"),
        ("adds", {"kwargs": {"x": 1, "y": 2}}, "unexpected keyword argument 'y'"),
        ("adds", {"kwargs": {"x": threading.Lock()}}, "can't be pickled"),
        ("adds", {"machine": {"workers": 0}}, "workers is 0"),
    ],
)
def test_what_is_wrong_with_the_call_is_one_clear_failure(
    site: Site, workflow: str, said: dict[str, Any], text: str
) -> None:
    """For good, in one line, and nothing is begun."""
    outcome = site.attend(workflow, **said)
    assert outcome.kind is Kind.FAILED_FOR_GOOD
    assert text in outcome.text
    assert "\n" not in outcome.text
    with Client(site.store) as client:
        assert client.known(site.key.engine_id) is None


def test_a_store_that_cannot_be_reached_is_a_failure_that_may_be_retried(site: Site) -> None:
    """It may come back. The password is not said."""
    url = "postgresql://user:secret@127.0.0.1:9/none?connect_timeout=1"
    outcome = site.attend("adds", store=url)
    assert outcome.kind is Kind.FAILED
    assert "secret" not in "\n".join([outcome.text, *site.said])


def test_a_missing_file_is_one_clear_failure(site: Site) -> None:
    """It names the file."""
    work = replace(site.work("adds"), workflow=f"{site.folder}/nowhere.py:adds")
    outcome = site.end(site.start(work))
    assert outcome.kind is Kind.FAILED_FOR_GOOD
    assert "nowhere.py" in outcome.text


@pytest.mark.parametrize("what", ["tuple", "large"])
def test_a_result_that_xcom_should_not_have_goes_as_a_reference(site: Site, what: str) -> None:
    """Whoever is given it reads the value from the store."""
    value = site.attend("returns", kwargs={"what": what}).value
    assert is_reference(value)
    with Client(value["store"]) as client:
        assert len(client.result(value["run"])) in (2, 2_000_000)


def test_a_wait_that_is_interrupted_by_a_signal_can_be_waited_for_again(site: Site) -> None:
    """Airflow's time limit raises in the main thread, which then waits until the run is ended: it has to be."""

    class Late(BaseException):
        pass

    def raise_late(number: int, frame: object) -> None:
        raise Late

    def wait_and_be_interrupted() -> None:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        attendant.wait()

    attendant = site.start(site.work("holds"))
    site.await_started()
    before = signal.signal(signal.SIGALRM, raise_late)
    try:
        with pytest.raises(Late):
            wait_and_be_interrupted()
    finally:
        signal.signal(signal.SIGALRM, before)
    assert not attendant.wait(0)
    attendant.stop("cancel")
    assert site.end(attendant).kind is Kind.FAILED
    assert site.state() is RunState.CANCELLED
