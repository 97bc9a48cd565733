"""`dagengine.Client`: submitting, looking, resuming, cancelling from a process that works on no run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dagengine import Client, RunState, StepState
from dagengine.engine import Engine
from dagengine.errors import (
    BadArguments,
    BadOption,
    LoadError,
    RunCancelled,
    RunConflict,
    RunExists,
    RunFailed,
    RunNotFound,
)
from dagengine.runtime import InlineRuntime
from dagengine.serving.submission import Submission
from dagengine.storage import queues
from dagengine.storage.interface import Store
from tests import client_flows as flows
from tests.postgres.server import fresh_schema, shared

FLOWS = Path(__file__).with_name("client_flows.py")


@pytest.fixture(params=["sqlite", "postgres"])
def client(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Client]:
    """Of a new store."""
    flows.attempts.clear()
    flows.fails.clear()
    url = shared().url(fresh_schema()) if request.param == "postgres" else None
    with Client(url, home=tmp_path / "home") as opened:
        yield opened


def work_on(client: Client, run_id: str) -> None:
    """Work off what is left of the run, as a server would: nobody asked for it to be opened again."""
    settings = client.settings
    with Engine(settings.store.value, home=settings.home.value, runtime=InlineRuntime()) as engine:
        engine.resume(run_id, reopen=False).wait()


def taken(client: Client) -> tuple[str, ...]:
    """What a server would take from the default queue."""
    return queues.take(client.store, "default", "server", 10, 4e9).runs


def test_a_run_is_submitted_worked_on_elsewhere_and_its_result_read(client: Client) -> None:
    """By whole id, with the caller's facts in its record."""
    run_id = client.submit(flows.doubled, (4,), how=Submission(run_id="abc"), facts={"airflow": {"dag": "d"}})
    assert (run_id, client.state(run_id), taken(client)) == ("abc", RunState.PENDING, ("abc",))
    with pytest.raises(RunConflict, match="has not ended: it is pending"):
        client.result(run_id)
    work_on(client, run_id)
    assert (client.result(run_id), client.state(run_id)) == (8, RunState.SUCCEEDED)
    assert client.find(run_id).facts["airflow"] == {"dag": "d"}
    assert [step.key for step in client.steps(run_id)] == ["doubled/double[0]"]
    assert client.step(run_id, "double").state is StepState.SUCCEEDED


def test_an_id_is_given_once(client: Client) -> None:
    """A second submission under a taken id leaves the first as it is, and adds nothing."""
    client.submit(flows.doubled, (4,), how=Submission(run_id="abc"))
    with pytest.raises(RunExists):
        client.submit(flows.doubled, (5,), how=Submission(run_id="abc"))
    assert client.same_call("abc", flows.doubled, (4,))


def test_a_workflow_is_named_by_its_file(client: Client) -> None:
    """As the command line names it; what is not there is said in one line."""
    run_id = client.submit(f"{FLOWS}:doubled", kwargs={"x": 2})
    assert client.find(run_id).entry["file"] == str(FLOWS)
    assert client.same_call(run_id, f"{FLOWS}:doubled", (2,))
    with pytest.raises(LoadError, match=r"has no workflow doubld\. Did you mean doubled\?"):
        client.submit(f"{FLOWS}:doubld", (2,))
    with pytest.raises(BadArguments, match="missing a required argument"):
        client.submit(f"{FLOWS}:doubled")
    with pytest.raises(BadOption, match="there is no queue 'nihgtly'"):
        client.submit(f"{FLOWS}:doubled", (2,), how=Submission("nihgtly"))


@pytest.mark.parametrize(
    ("workflow", "args", "kwargs", "same"),
    [
        (flows.doubled, (4, "me"), {}, True),
        (flows.doubled, (4,), {"by": "me"}, True),
        (flows.doubled, (), {"x": 4, "by": "me"}, True),
        (flows.doubled, (4,), {}, False),
        (flows.doubled, (5, "me"), {}, False),
        (flows.other, (4, "me"), {}, False),
    ],
)
def test_the_same_call_is_known_whichever_way_its_arguments_are_given(
    client: Client, workflow: Any, args: tuple[Any, ...], kwargs: dict[str, Any], same: bool
) -> None:
    """Other arguments are not, nor is another workflow with the same ones."""
    run_id = client.submit(flows.doubled, (4, "me"))
    assert client.same_call(run_id, workflow, args, kwargs) is same


def test_large_arguments_are_compared_by_what_they_are(client: Client) -> None:
    """They lie among the artifacts."""
    run_id = client.submit(flows.doubled, (list(range(50_000)),))
    assert client.same_call(run_id, flows.doubled, (list(range(50_000)),))
    assert not client.same_call(run_id, flows.doubled, (list(range(50_001)),))


def test_states_of_many_runs_are_one_question(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many there are, and whatever among them is not there."""
    ids = [client.submit(flows.doubled, (number,)) for number in range(5)]
    work_on(client, ids[0])
    asked: list[int] = []
    standings = type(client.store).standings

    def counted(store: Store, wanted: list[str]) -> list[Any]:
        asked.append(len(wanted))
        return standings(store, wanted)

    monkeypatch.setattr(type(client.store), "standings", counted)
    found = client.states([*ids, *ids, "nobody", *(f"no-{number}" for number in range(40_000))])
    assert found == {ids[0]: RunState.SUCCEEDED, **dict.fromkeys(ids[1:], RunState.PENDING)}
    assert asked == [40_006]


def test_a_run_that_goes_on_in_another_one_is_followed(client: Client) -> None:
    """Its state and result are those of the last one."""
    run_id = client.submit(flows.onward, (3,))
    work_on(client, run_id)
    assert client.states([run_id]) == {run_id: RunState.SUCCEEDED}
    assert client.states([run_id]) == {run_id: RunState.SUCCEEDED}
    assert client.result(run_id) == 42


def test_a_failed_run_says_what_failed(client: Client) -> None:
    """The step, and its own exception as the cause."""
    flows.fails.append(True)
    run_id = client.submit(flows.broken, (4,))
    work_on(client, run_id)
    with pytest.raises(RunFailed, match=r"failed in step broken/breaks\[0\]: .*Broken: no 8") as failed:
        client.result(run_id)
    assert isinstance(failed.value.__cause__, flows.Broken)
    assert failed.value.failed == ("broken/breaks[0]",)
    assert isinstance(client.failure(run_id), RunFailed)


def test_a_failed_run_is_resumed_by_whoever_serves(client: Client) -> None:
    """It is opened and queued at once, also while its row of before is still there; what it had done is not repeated."""
    flows.fails.append(True)
    run_id = client.submit(flows.broken, (4,))
    assert client.resume(run_id) is False
    assert taken(client) == (run_id,)
    work_on(client, run_id)
    assert client.resume(run_id) is True
    assert client.state(run_id) is RunState.INTERRUPTED
    assert client.resume(run_id) is False
    queues.remove(client.store, [run_id], queues.STARTED)  # a server that saw the failure, and comes late
    assert taken(client) == (run_id,)
    work_on(client, run_id)
    assert (client.result(run_id), flows.attempts) == (9, [4, -8, -8])
    assert client.failure(run_id) is None
    with pytest.raises(RunExists, match="has succeeded"):
        client.resume(run_id)
    with pytest.raises(RunNotFound):
        client.resume("nobody")


def test_a_resumed_run_needs_a_queue_that_is_there(client: Client) -> None:
    """It stays as it is, if there is none."""
    flows.fails.append(True)
    run_id = client.submit(flows.broken, (4,))
    taken(client)
    work_on(client, run_id)
    with pytest.raises(BadOption, match="there is no queue 'nightly'"):
        client.resume(run_id, "nightly")
    assert client.state(run_id) is RunState.FAILED


def test_a_fork_shares_what_a_failed_run_has_done(client: Client) -> None:
    """Under an id of the caller's, queued, with the caller's facts; the failed run stays as it is."""
    flows.fails.append(True)
    run_id = client.submit(flows.broken, (4,))
    taken(client)
    work_on(client, run_id)
    fork = client.fork(run_id, code="current", how=Submission(run_id="again"), facts={"airflow": 2})
    assert (fork, taken(client)) == ("again", ("again",))
    work_on(client, fork)
    assert (client.result(fork), flows.attempts) == (9, [4, -8, -8])
    assert client.find(fork).facts["airflow"] == 2
    assert client.state(run_id) is RunState.FAILED
    with pytest.raises(RunExists):
        client.fork(run_id, how=Submission(run_id="again"))


def test_a_run_that_waits_in_a_queue_is_cancelled(client: Client) -> None:
    """At once, and its place in the queue is free. A cancelled one can be resumed."""
    run_id = client.submit(flows.doubled, (4,))
    assert client.cancel(run_id) is RunState.CANCELLED
    assert taken(client) == ()
    with pytest.raises(RunCancelled):
        client.result(run_id)
    assert client.resume(run_id)
    assert taken(client) == (run_id,)
    work_on(client, run_id)
    assert client.cancel(run_id) is RunState.SUCCEEDED


def test_a_client_that_was_closed_opens_its_store_again(client: Client) -> None:
    """Closing lets go of connections; closing twice is harmless."""
    run_id = client.submit(flows.doubled, (4,))
    client.close()
    client.close()
    assert client.known(run_id) is not None
    assert client.known(run_id[:8]) is None
    assert client.find(run_id[:8]).id == run_id
