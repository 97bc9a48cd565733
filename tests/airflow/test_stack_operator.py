"""`DagengineOperator` under a real scheduler: retries, deaths, cancelling, clearing, mapping; who did what is in a ledger.

Each execution of a step appends its word to a file that survives SIGKILL; a step that is to be met in the middle waits at a
named pipe until the test lets it go.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from dagengine.client import Client
from dagengine.model import RunState
from tests.airflow.stack import DagRun, Stack, wait_until

FLOWS = """
import os
from pathlib import Path

from dagengine import task, workflow

FOLDER = Path("@FOLDER@")


def mark(word):
    descriptor = os.open(FOLDER / "ledger", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(descriptor, f"{word}\\n".encode())
    os.close(descriptor)


class Refused(Exception):
    pass


@task
def double(x):
    mark(f"double-{x}")
    return 2 * x


@task
def total(xs):
    return sum(xs)


@task(retries=0)
def flaky(x):
    mark(f"flaky-{x}")
    if not (FOLDER / "mended").exists():
        (FOLDER / "mended").touch()  # the next try finds it so
        raise Refused(f"{x} is refused")
    return x + 1


@task
def hold(x):
    mark(f"hold-{x}")
    (FOLDER / "go").read_text()
    return x + 1


@workflow
def doubled(x):
    return double(x)


@workflow
def summed(xs):
    return total(xs)


@workflow
def large(count):
    return double(bytes(count))


@workflow
def broken(x):
    return flaky(double(x))


@workflow
def held(x):
    return hold(double(x))
"""


class Flows:
    """The module `flows` of one test, and what its steps have done."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.file = folder / "stack_flows.py"
        self.file.write_text(FLOWS.replace("@FOLDER@", str(folder)))
        os.mkfifo(folder / "go")

    def ledger(self) -> Counter[str]:
        try:
            return Counter((self.folder / "ledger").read_text().split())
        except FileNotFoundError:
            return Counter()

    def await_step(self, word: str, times: int = 1) -> None:
        wait_until(lambda: self.ledger()[word] >= times, f"{word} has begun {times} times")

    def let_go(self) -> None:
        """The step that waits goes on. Waits for one that does."""
        (self.folder / "go").write_text("go")

    def dag(self, task: str) -> str:
        """The text of a DAG file with this one task, `FLOWS` standing for the workflows' file."""
        head = "from airflow.sdk import DAG\nfrom dagengine.airflow_plugin import DagengineOperator\n\n"
        return f"{head}with DAG(DAG_ID, schedule=None):\n    {task}\n".replace("FLOWS", str(self.file))


@pytest.fixture
def flows(tmp_path: Path) -> Flows:
    return Flows(tmp_path)


@pytest.fixture
def runs(stack: Stack) -> Iterator[Client]:
    """The store that dagengine_default names."""
    with Client(stack.store) as client:
        yield client


def of_task(runs: Client, run: DagRun) -> list[str]:
    """The ids of the runs that this DAG run's tasks have had, the oldest first."""
    from dagengine.storage.interface import RunFilter

    found = runs.store.runs(RunFilter(limit=1_000))
    return [one.id for one in reversed(found) if one.facts.get("airflow", {}).get("dag_id") == run.dag_id]


MAPPED = """
from airflow.sdk import DAG, task
from dagengine.airflow_plugin import DagengineHook, DagengineOperator

with DAG(DAG_ID, schedule=None):
    @task
    def numbers():
        return [{"x": x} for x in range(5)]

    @task
    def read(value):
        return len(DagengineHook().read(value))

    doubled = DagengineOperator.partial(
        task_id="doubled", workflow="FLOWS:doubled", workers=1, max_active_tis_per_dagrun=2
    ).expand(arguments=numbers())
    DagengineOperator(task_id="summed", workflow="FLOWS:summed", arguments={"xs": doubled.output}, workers=1)
    large = DagengineOperator(task_id="large", workflow="FLOWS:large", arguments={"count": 200_000}, workers=1)
    read(large.output)
"""


def test_mapped_over_five_inputs_with_values_passed_both_ways(stack: Stack, flows: Flows, runs: Client) -> None:
    """Each index has a run of its own; small results are XComs, large ones references that a hook reads."""
    run = stack.trigger(stack.deploy(MAPPED.replace("FLOWS", str(flows.file))))
    assert stack.await_end(run) == "success", stack.states(run)
    assert [stack.xcom(run, "doubled", map_index=index) for index in range(5)] == [0, 2, 4, 6, 8]
    assert stack.xcom(run, "summed") == 20
    assert stack.xcom(run, "large")["run"] == stack.xcom(run, "large", "dagengine_run_id")
    assert stack.xcom(run, "read") == 400_000
    ids = {stack.xcom(run, "doubled", "dagengine_run_id", index) for index in range(5)}
    assert len(ids) == 5
    assert ids < set(of_task(runs, run))
    assert {word: count for word, count in flows.ledger().items() if word[-1].isdigit()} == {
        f"double-{x}": 1 for x in range(5)
    }


def test_a_retry_goes_on_with_the_failed_run(stack: Stack, flows: Flows, runs: Client) -> None:
    """What had finished is not repeated; the first try's log names the step and its exception."""
    task = 'DagengineOperator(task_id="one", workflow="FLOWS:broken", arguments={"x": 4}, workers=1, retries=1, retry_delay=0)'
    run = stack.trigger(stack.deploy(flows.dag(task)))
    assert stack.await_end(run) == "success"
    assert (stack.task(run, "one")["try_number"], stack.xcom(run, "one")) == (2, 9)
    assert flows.ledger() == {"double-4": 1, "flaky-8": 2}
    [run_id] = of_task(runs, run)
    assert stack.xcom(run, "one", "dagengine_run_id") == run_id
    first = stack.log(run, "one", 1)
    assert "broken/flaky[0]" in first
    assert "Refused: 8 is refused" in first
    assert f"dagengine show {run_id[:8]}" in first


def test_a_killed_task_process_is_replaced_and_its_run_goes_on(stack: Stack, flows: Flows, runs: Client) -> None:
    """SIGKILL in the middle of a step: the retry takes up the same run, and only that step runs again."""
    task = 'DagengineOperator(task_id="one", workflow="FLOWS:held", arguments={"x": 4}, workers=1, retries=1, retry_delay=0)'
    run = stack.trigger(stack.deploy(flows.dag(task)))
    flows.await_step("hold-8")
    before = stack.await_xcom(run, "one", "dagengine_run_id")
    stack.kill_task(run, "one")
    flows.await_step("hold-8", 2)
    flows.let_go()
    assert stack.await_end(run) == "success"
    assert (stack.task(run, "one")["try_number"], stack.xcom(run, "one")) == (2, 9)
    assert flows.ledger() == {"double-4": 1, "hold-8": 2}
    assert of_task(runs, run) == [before]


def test_marking_the_task_failed_cancels_its_run_and_clearing_it_goes_on(
    stack: Stack, flows: Flows, runs: Client
) -> None:
    """As a person does both in the UI. The finished step is in the cleared task's run, and was not repeated."""
    task = 'DagengineOperator(task_id="one", workflow="FLOWS:held", arguments={"x": 4}, workers=1)'
    run = stack.trigger(stack.deploy(flows.dag(task)))
    flows.await_step("hold-8")
    run_id = stack.await_xcom(run, "one", "dagengine_run_id")
    stack.mark(run, "one", "failed")
    wait_until(lambda: runs.state(run_id) is RunState.CANCELLED, "the run is cancelled")
    assert stack.await_end(run) == "failed"
    stack.clear(run, "one")
    flows.await_step("hold-8", 2)
    flows.let_go()
    assert stack.await_end(run) == "success"
    assert stack.xcom(run, "one") == 9
    assert flows.ledger() == {"double-4": 1, "hold-8": 2}


def test_a_server_of_the_store_works_on_runs_that_are_left_to_it(stack: Stack, flows: Flows, runs: Client) -> None:
    """The task's process holds no engine, and dies without harm: the run goes on meanwhile, and is found again."""
    task = 'DagengineOperator(task_id="one", workflow="FLOWS:held", arguments={"x": 4}, where="serve", retries=1, retry_delay=0)'
    with stack.serving():
        run = stack.trigger(stack.deploy(flows.dag(task)))
        flows.await_step("hold-8")
        run_id = stack.await_xcom(run, "one", "dagengine_run_id")
        stack.kill_task(run, "one")
        flows.let_go()
        assert stack.await_end(run) == "success"
    assert (stack.task(run, "one")["try_number"], stack.xcom(run, "one")) == (2, 9)
    assert flows.ledger() == {"double-4": 1, "hold-8": 1}
    assert of_task(runs, run) == [run_id]
