"""DagengineOperator in `dag.test()`: arguments, results, and one clear failure for whatever is wrong."""

from __future__ import annotations

import itertools
import json
import os
import signal
import sys
import threading
from pathlib import Path

import pytest

from dagengine.airflow_plugin.outcomes import is_reference
from dagengine.airflow_plugin.places import place_of
from dagengine.client import Client
from dagengine.errors import StoreUnavailable
from dagengine.model import RunState
from dagengine.storage.interface import RunFilter
from tests.airflow.stack import wait_until
from tests.airflow.world import PROCESS_SECONDS, Dags, Ran

FLOWS = """
from pathlib import Path
from dagengine import task, workflow

FOLDER = Path(FOLDER)

@task
def double(x):
    with (FOLDER / "ledger").open("a") as ledger:
        ledger.write(f"{x}\\n")
    return 2 * x

@task
def once(x):
    if not (FOLDER / "ok").exists():
        (FOLDER / "ok").touch()
        raise ValueError(f"boom {x}")
    return x + 1

@task
def skip():
    from airflow.sdk.exceptions import AirflowSkipException
    raise AirflowSkipException("nothing new today")

@workflow
def doubled(x: int):
    print("the body speaks")
    return double(double(x))

@workflow
def fails_once(x: int):
    return once(double(x))

@task
def hold(x):
    (FOLDER / "go").read_text()

@workflow
def holds(x: int):
    return hold(double(x))

@workflow
def skips():
    return skip()

@workflow
def echo(**given):
    return given

@workflow
def large():
    return b"x" * 100

@workflow
def length(value):
    return len(value)
"""

DAG = """
from airflow.sdk import dag, task, Param
from dagengine import task as step, workflow
from dagengine.airflow_plugin import DagengineOperator

@step
def quadruple(x):
    return 4 * x

@workflow
def here(x):
    return quadruple(x)

@dag(DAG_ID, schedule=None, params={{"unrelated": 5}}, default_args={{"retry_delay": 0}})
def made():
    {body}

made()
"""

_names = itertools.count()


class Site:
    """Flows that only this test has, and the store of the default connection. `module`: their name."""

    def __init__(self, dags: Dags, folder: Path) -> None:
        self.dags = dags
        self.folder = folder
        self.store = str(folder / "store" / "runs.db")
        self.module = f"flows_{os.getpid()}_{next(_names)}"
        self.file = dags.home / "plugins" / f"{self.module}.py"
        self.file.write_text(FLOWS.replace("Path(FOLDER)", f"Path({str(folder)!r})"))

    def run(self, body: str, conf: dict[str, object] | None = None) -> Ran:
        """A DAG whose body this is; MODULE stands for the flows."""
        body = body.strip().replace("MODULE", self.module).replace("\n", "\n    ")
        return self.dags.run(DAG.format(body=body), conf)

    def ledger(self) -> list[str]:
        return (self.folder / "ledger").read_text().split()

    def states(self, ran: Ran, *task_ids: str) -> list[RunState]:
        """Of the runs of these tasks."""
        with Client(self.store) as client:
            return [client.state(ran.xcom(task_id, "dagengine_run_id")) for task_id in task_ids]


@pytest.fixture
def site(dags: Dags, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    made = Site(dags, tmp_path)
    monkeypatch.setenv("AIRFLOW_CONN_DAGENGINE_DEFAULT", json.dumps({"conn_type": "dagengine", "host": made.store}))
    monkeypatch.setenv("DAGENGINE_WORKERS", "1")
    monkeypatch.syspath_prepend(str(dags.home / "plugins"))
    return made


def test_a_workflow_runs_in_the_tasks_own_process(site: Site) -> None:
    """Its result is the task's XCom, its id another one; what is going on is in the task's log."""
    ran = site.run('DagengineOperator(task_id="run", workflow="MODULE:doubled", arguments={"x": 3})')
    assert ran.states() == {"run": "success"}
    assert ran.xcom("run") == 12
    assert site.states(ran, "run") == [RunState.SUCCEEDED]
    for said in ("the body speaks", "double: 2 of 2 steps done", "begins in this process", "To see it: dagengine show"):
        assert said in ran.output


def test_a_retry_resumes_the_run(site: Site) -> None:
    """Without a word of the DAG's there are two retries; what has finished is not repeated; the failure names the step."""
    ran = site.run('DagengineOperator(task_id="run", workflow="MODULE:fails_once", arguments={"x": 3})')
    if ran.state != "success":  # dag.test() leaves a task that is up for retry to its next call
        ran = site.dags.test(ran.dag_run.dag)
    assert ran.task("run").max_tries == 2


def test_a_failure_names_the_step_and_its_exception(site: Site) -> None:
    """In Airflow's error, with the step's own exception as its cause."""
    ran = site.run('DagengineOperator(task_id="run", workflow="MODULE:fails_once", arguments={"x": 3}, retries=0)')
    assert ran.states() == {"run": "failed"}
    assert "failed in step fails_once/once[0]: ValueError: boom 6. To see it: dagengine show" in ran.output
    assert site.states(ran, "run") == [RunState.FAILED]


def test_values_come_from_xcoms_and_templates_and_go_to_xcoms(site: Site) -> None:
    """Both ways; a value that JSON would change is passed on by reference, and read where it is used."""
    ran = site.run("""
@task
def upstream():
    return {"n": [1, 2]}
@task
def downstream(found):
    return found["given"]["n"][1]
echo = DagengineOperator(task_id="echo", workflow="MODULE:echo",
    arguments={"given": upstream(), "day": "{{ dag.dag_id }}", "deep": [{"t": "{{ 1 + 1 }}"}]})
downstream(echo.output)
large = DagengineOperator(task_id="large", workflow="MODULE:large")
DagengineOperator(task_id="length", workflow="MODULE:length", arguments={"value": large.output})
""")  # fmt: skip
    assert set(ran.states().values()) == {"success"}
    assert ran.xcom("echo") == {"given": {"n": [1, 2]}, "day": ran.dag_run.dag_id, "deep": [{"t": "2"}]}
    assert ran.xcom("downstream") == 2
    assert is_reference(ran.xcom("large"))
    assert ran.xcom("large")["conn_id"] == "dagengine_default"
    assert ran.xcom("length") == 100


def test_mapped_tasks_have_a_run_each_and_their_results_can_be_passed_on(site: Site) -> None:
    """Over five inputs; the results of all, references among them, are one argument of a task behind them."""
    ran = site.run("""
each = DagengineOperator.partial(task_id="each", workflow="MODULE:doubled").expand(
    arguments=[{"x": x} for x in range(5)])
DagengineOperator(task_id="all", workflow="MODULE:length", arguments={"value": each.output})
""")  # fmt: skip
    assert set(ran.states().values()) == {"success"}
    assert [ran.xcom("each", map_index=index) for index in range(5)] == [0, 4, 8, 12, 16]
    assert len({ran.xcom("each", "dagengine_run_id", index) for index in range(5)}) == 5
    assert ran.xcom("all") == 5
    assert ran.task("each", 0).max_tries == 2


def test_nothing_is_mapped_over_a_reference(site: Site) -> None:
    """Airflow would take its keys for the values: the task fails for good, and clearing it need not repeat the run."""
    ran = site.run("""
@task
def each(value):
    print(value)
each.expand(value=DagengineOperator(task_id="large", workflow="MODULE:large").output)
mapped = DagengineOperator.partial(task_id="mapped", workflow="MODULE:large").expand(arguments=[{}, {}])
DagengineOperator.partial(task_id="length", workflow="MODULE:length").expand(
    arguments=mapped.output.map(lambda one: {"value": one}))
""")  # fmt: skip
    assert ran.states() == {
        "large": "failed", "each": "upstream_failed",
        "mapped[0]": "success", "mapped[1]": "success", "length[0]": "success", "length[1]": "success",
    }  # fmt: skip
    assert "each is mapped over what large returns, and that is a reference" in ran.output
    assert site.states(ran, "large") == [RunState.SUCCEEDED]


def test_a_tasks_own_params_are_the_arguments_unless_arguments_are_given(site: Site) -> None:
    """Rendered, and changed by the run's configuration, as everywhere in Airflow; the DAG's params are none of them."""
    ran = site.run(
        """
DagengineOperator(task_id="own", workflow="MODULE:echo", params={"x": "{{ 1 + 1 }}", "y": Param(5, type="integer")})
DagengineOperator(task_id="none", workflow="MODULE:echo", params={"x": 1}, arguments={})
""",
        {"y": 7},
    )
    assert ran.xcom("own") == {"x": "2", "y": 7}
    assert ran.xcom("none") == {}


def test_a_skip_in_the_workflow_skips_the_task(site: Site) -> None:
    """With its reason."""
    ran = site.run('DagengineOperator(task_id="run", workflow="MODULE:skips")')
    assert ran.states() == {"run": "skipped"}
    assert "nothing new today" in ran.output


def test_files_lie_beside_the_dags_file(site: Site) -> None:
    """A relative FILE.py is not looked for in whatever folder Airflow's worker was started in."""
    beside = site.dags.folder / f"{site.module}_beside.py"
    beside.write_text(site.file.read_text())
    try:
        ran = site.run(f'DagengineOperator(task_id="run", workflow="{beside.name}:doubled", arguments={{"x": 1}})')
    finally:
        beside.unlink()
    assert ran.xcom("run") == 4


def test_a_workflow_that_can_be_imported_may_be_given_itself(site: Site) -> None:
    """`workflow=nightly` is as good as its name."""
    ran = site.run("""
import MODULE as flows
DagengineOperator(task_id="run", workflow=flows.doubled, arguments={"x": 1})""")  # fmt: skip
    assert ran.xcom("run") == 4


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ('workflow="MODULE:nothing"', "has no workflow nothing"),
        ('workflow="no_such_module:flow"', "module no_such_module can't be imported"),
        ('workflow="nowhere.py:flow"', "there is no file"),
        ('workflow="MODULE:doubled"', "missing a required argument: 'x'"),
        ('workflow="MODULE:doubled", arguments={"x": 1, "y": 2}', "unexpected keyword argument 'y'"),
        ('workflow="MODULE:doubled", arguments="{{ 1 }}"', "Give a dict of its parameters by name"),
        ('workflow="MODULE:doubled", arguments={"x": 1}, machine={"wrokers": 1}', "Did you mean workers?"),
        ('workflow="MODULE:doubled", arguments={"x": 1}, store="relative.db"', "is relative"),
        ('workflow="MODULE:doubled", arguments={"x": 1}, store="postgresql://u:secret@h/d"', "has a password in it"),
        ('workflow="MODULE:doubled", arguments={"x": {"__dagengine__": 1, "run": "ab", "conn_id": "dagengine_default"}}',
         "there is no run ab in"),
        ('workflow="MODULE:doubled", arguments={"x": 1}, conn_id="nowhere"', "there is no connection 'nowhere' in Airflow"),
        ('workflow="MODULE:length", arguments={"value": {"__dagengine__": 1, "run": "ab", "conn_id": "nowhere"}}',
         "there is no connection 'nowhere' in Airflow"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_one_failure_for_good(site: Site, words: str, text: str) -> None:
    """No retry would help: the task has failed, its retries unused, and says why in one line."""
    ran = site.run(f'DagengineOperator(task_id="run", {words})')
    assert ran.states() == {"run": "failed"}
    failures = [line for line in ran.output.splitlines() if "AirflowFailException" in line]
    assert text in ran.output
    assert len(failures) <= 2
    assert "secret" not in ran.output


def test_a_driver_that_is_not_installed_is_a_failure_for_good(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor would it be at the next try."""
    monkeypatch.setitem(sys.modules, "psycopg", None)
    monkeypatch.setenv("AIRFLOW_CONN_GONE", json.dumps({"conn_type": "dagengine", "host": "db", "schema": "runs"}))
    ran = site.run('DagengineOperator(task_id="run", workflow="MODULE:doubled", arguments={"x": 1}, conn_id="gone")')
    assert ran.states() == {"run": "failed"}
    assert "pip install 'dagengine[postgres]'" in ran.output


def test_a_secrets_backend_that_may_be_away_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Airflow tells a connection that is nowhere, and one that it could not ask for, by the same exception."""
    monkeypatch.setenv("AIRFLOW__SECRETS__BACKEND", "airflow.secrets.local_filesystem.LocalFilesystemBackend")
    with pytest.raises(StoreUnavailable, match="or its secrets backend does not answer"):
        place_of("nowhere", None)


def test_a_store_that_cannot_be_reached_may_be_retried(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """The task is up for retry; the password is not said."""
    conn = {"conn_type": "dagengine", "host": "127.0.0.1", "port": 9, "schema": "none", "password": "secret"}
    monkeypatch.setenv("AIRFLOW_CONN_GONE", json.dumps({**conn, "extra": {"connect_timeout": 1}}))
    ran = site.run("""
DagengineOperator(task_id="run", workflow="MODULE:doubled", arguments={"x": 1}, conn_id="gone", retries=0)""")  # fmt: skip
    assert ran.states() == {"run": "failed"}
    assert "AirflowException" in ran.output
    assert "secret" not in ran.output


@pytest.mark.parametrize(("on_kill", "state"), [("cancel", "cancelled"), ("leave", "interrupted")])
def test_a_task_that_runs_out_of_time_ends_its_run(site: Site, on_kill: str, state: str) -> None:
    """Airflow's execution_timeout raises in the middle of the wait: the run is cancelled, or left as it is.

    It is a timer's signal to the process. That comes here once a step of the run has begun, however long that takes.
    """
    os.mkfifo(site.folder / "go")

    def run_out() -> None:
        wait_until((site.folder / "ledger").exists, "a step has begun")
        os.kill(os.getpid(), signal.SIGALRM)

    running_out = threading.Thread(target=run_out)
    running_out.start()
    ran = site.run(f"""
from datetime import timedelta
DagengineOperator(task_id="run", workflow="MODULE:holds", arguments={{"x": 1}}, retries=0, on_kill="{on_kill}",
    execution_timeout=timedelta(hours=1))""")
    running_out.join()
    assert ran.states() == {"run": "failed"}
    assert "AirflowTaskTimeout" in ran.output
    with Client(site.store) as client:
        assert [str(client.state(run.id)) for run in client.store.runs(RunFilter())] == [state]


def test_the_run_may_go_on_in_another_environment(site: Site) -> None:
    """As the connection says; results of others are read there, what can't be JSON comes back as a reference."""
    words = f"python={sys.executable!r}"
    ran = site.run(f"""
large = DagengineOperator(task_id="large", workflow="{site.file}:large", {words})
DagengineOperator(task_id="length", workflow="{site.file}:length", arguments={{"value": large.output}}, {words})
DagengineOperator(task_id="fails", workflow="{site.file}:fails_once", arguments={{"x": 3}}, retries=0, {words})""")
    assert ran.states() == {"large": "success", "length": "success", "fails": "failed"}
    assert is_reference(ran.xcom("large"))
    assert ran.xcom("length") == 100
    assert "failed in step fails_once/once[0]: ValueError: boom 6" in ran.output
    assert "begins in this process" in ran.output


def test_an_environment_without_what_dagengine_needs_is_one_failure_for_good(site: Site, tmp_path: Path) -> None:
    """The package is found there, its dependencies are not, or nothing at all: no traceback of ours, and no retry."""
    bare = tmp_path / "python"
    bare.write_text(f'#!/bin/sh\nexec {sys.executable} -S "$@"\n')
    bare.chmod(0o755)
    ran = site.run(f"""
DagengineOperator(task_id="run", workflow="{site.file}:large", python={str(bare)!r})
DagengineOperator(task_id="none", workflow="{site.file}:large", python="/bin/false")""")
    assert ran.states() == {"run": "failed", "none": "failed"}
    assert "ended (exit status 1). Its last words are in the log; is dagengine installed there?" in ran.output
    assert "has not all that dagengine needs: No module named" in ran.output
    assert "elsewhere.py" not in ran.output


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ("where='there'", "where='there' is not known"),
        ("on_kill='ignore'", "There is: cancel, leave, compensate"),
        ("deferrable=True", "deferrable=True is of runs that a server works on"),
        ("wait=False", "wait=False is of runs that a server works on"),
        ("conn_id='a', store='/b'", "both conn_id and store are given"),
    ],
)
def test_options_that_contradict_each_other_are_import_errors(site: Site, words: str, text: str) -> None:
    """The DAG's author sees them before anything runs."""
    with pytest.raises(AssertionError, match=text):
        site.run(f'DagengineOperator(task_id="run", workflow="MODULE:doubled", {words})')


def test_importing_the_operator_imports_no_engine(dags: Dags) -> None:
    """A DAG file pays for Airflow and for our thin modules."""
    import subprocess

    code = (
        "import sys, airflow.sdk; before = set(sys.modules); from dagengine.airflow_plugin import DagengineOperator;"
        "print(sorted(name for name in set(sys.modules) - before if name.startswith(('dagengine', 'sqlalchemy', 'pyarrow',"
        " 'networkx', 'msgspec', 'cloudpickle'))))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=PROCESS_SECONDS
    )
    found = json.loads(done.stdout.splitlines()[-1].replace("'", '"'))
    thin = {"addresses", "decisions", "hints", "identity", "lineage", "links", "operators", "outcomes", "places"}
    allowed = {"dagengine", "dagengine.airflow_plugin", "dagengine.errors", "dagengine.model"}
    assert set(found) <= allowed | {f"dagengine.airflow_plugin.{name}" for name in thin}


def test_a_workflow_may_stand_in_the_dags_own_file(site: Site) -> None:
    """Airflow gives that file's module a name that nobody else could import: it is found by its path."""
    ran = site.run("""
DagengineOperator(task_id="run", workflow=here, arguments={"x": 1})""")
    assert ran.states() == {"run": "success"}
    assert ran.xcom("run") == 4
