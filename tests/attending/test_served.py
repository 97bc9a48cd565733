"""Tries of an Airflow task whose runs are left to `dagengine serve`. Without Airflow; a real server."""

from __future__ import annotations

import pytest

from dagengine.airflow_plugin.attending import Attendant
from dagengine.airflow_plugin.identity import TaskKey
from dagengine.airflow_plugin.outcomes import Kind
from dagengine.airflow_plugin.served import Collecting
from dagengine.client import Client
from dagengine.model import RunState
from tests.attending.site import SECONDS, Site

CLEARED = TaskKey("etl", "manual__1", "load", -1, 3)


def await_said(site: Site, attendant: Attendant, text: str) -> None:
    while not any(text in line for line in site.said):
        assert not attendant.wait(0.05), attendant.outcome()


def test_a_server_works_on_the_tasks_run_and_a_retry_leaves_it_to_the_server_again(site: Site) -> None:
    """What failed is tried again, what has finished is not; a cleared task shares that, too."""
    site.serve()
    outcome = site.attend("adds", where="serve")
    assert outcome.kind is Kind.FAILED
    assert "failed in step adds/second[0]: ValueError: not yet" in outcome.text
    assert site.attend("adds", 2, where="serve").kind is Kind.FAILED
    assert site.ledger() == {"first-3": 1, "second-6": 2}
    (site.folder / "ok").touch()
    assert site.attend("adds", 3, CLEARED, where="serve").value == 7
    assert site.attend("adds", 4, CLEARED, where="serve").value == 7
    assert site.ledger() == {"first-3": 1, "second-6": 3}
    assert site.record(CLEARED).facts["airflow"]["key"] == "airflow/etl/manual__1/load/-1/3"


def test_two_tries_at_once_have_one_run(site: Site) -> None:
    """The second attaches; when the task ends, the run is cancelled."""
    site.serve()
    first = site.start(site.work("holds", where="serve"))
    site.await_started()
    second = site.start(site.work("holds", 2, where="serve"))
    await_said(site, second, "is under way")
    site.let_go()
    assert (site.end(first).value, site.end(second).value) == (7, 7)
    assert site.ledger() == {"first-3": 1, "hold-6": 1}


@pytest.mark.parametrize(("how", "state"), [("cancel", RunState.CANCELLED), ("leave", RunState.SUCCEEDED)])
def test_ending_the_task_ends_the_servers_run_or_leaves_it(site: Site, how: str, state: RunState) -> None:
    """As on_kill says; a retry goes on with the one, and finds the other."""
    site.serve()
    attendant = site.start(site.work("holds", where="serve"))
    site.await_started()
    attendant.stop("cancel" if how == "cancel" else "leave")
    assert site.end(attendant).kind is Kind.FAILED
    if how == "leave":
        site.let_go()
    with Client(site.store) as client:
        assert client.wait(site.key.engine_id, SECONDS).state is state
    retry = site.start(site.work("holds", 2, where="serve"))
    if how == "cancel":
        site.await_started()
        site.let_go()
    assert site.end(retry).value == 7
    assert site.ledger()["first-3"] == 1


def test_a_try_need_not_wait(site: Site) -> None:
    """Neither with wait=False nor, after a while, where a trigger waits; another process hears of the end."""
    attendant = site.start(site.work("adds", where="serve", wait=False))
    site.end(attendant)
    assert (attendant.left_waiting, attendant.run_id) == (True, site.key.engine_id)
    deferred = site.start(site.work("adds", 2, where="serve", defer_after=0.0))
    site.end(deferred)
    assert deferred.left_waiting
    assert site.state() is RunState.PENDING
    (site.folder / "ok").touch()
    site.serve()
    collecting = Collecting(
        site.work("", 2, where="serve"), lambda level, text: site.said.append(text), site.key.engine_id
    )
    collecting.start()
    assert site.end(collecting).value == 7


def test_other_arguments_are_refused_while_the_run_waits_in_its_queue(site: Site) -> None:
    """Two tasks with the same derived id, or templates that change from try to try: never a silent attach."""
    site.end(site.start(site.work("adds", where="serve", wait=False)))
    outcome = site.attend("adds", 2, where="serve", kwargs={"x": 4})
    assert outcome.kind is Kind.FAILED_FOR_GOOD
    assert "was begun with other arguments" in outcome.text


def test_a_queue_that_is_not_there_is_one_clear_failure(site: Site) -> None:
    """It says what there is, and nothing is recorded."""
    outcome = site.attend("adds", where="serve", queue="defualt")
    assert outcome.kind is Kind.FAILED_FOR_GOOD
    assert "Did you mean default?" in outcome.text
    with Client(site.store) as client:
        assert client.known(site.key.engine_id) is None
