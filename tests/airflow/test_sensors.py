"""`DagengineSensor` in real Airflow: a run, or steps of it, that somebody else sees to."""

from __future__ import annotations

import json
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from dagengine import Engine, task, wait_event, workflow
from dagengine.awaited import Awaited
from dagengine.runtime.inline import InlineRuntime
from tests.airflow.world import Dags

CONNECTION = "AIRFLOW_CONN_DAGENGINE_DEFAULT"


@task
def extract(n: int) -> int:
    if n < 0:
        raise ValueError(f"no row {n}")
    return n


@task
def load(rows: int) -> int:
    return rows


@workflow
def nightly(*numbers: int) -> list[int]:
    return [load(extract(n)) for n in numbers]


@workflow
def held() -> int:
    first = load(1)
    wait_event("go")
    return load(first)


@dataclass
class Runs:
    store: Path
    engine: Engine
    good: str
    bad: str


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runs]:
    """A store with a run that has succeeded, and one that has failed."""
    folder = tmp_path_factory.mktemp("runs")
    with Engine(folder / "store.db", home=folder, runtime=InlineRuntime()) as engine:
        good, bad = nightly.start(1, 2, 3), nightly.start(1, -2)
        good.wait()
        bad.wait()
        yield Runs(folder / "store.db", engine, good.id, bad.id)


@pytest.fixture(autouse=True)
def _connection(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CONNECTION, json.dumps({"conn_type": "dagengine", "host": str(runs.store)}))


def dag_of(*sensors: str, imports: str = "") -> str:
    """A DAG of these tasks, which are tried once."""
    lines = "\n".join(f"    DagengineSensor(retries=0, {sensor})" for sensor in sensors)
    head = textwrap.dedent(
        """
        from airflow.sdk import DAG, task
        from dagengine.airflow_plugin import DagengineSensor, DagengineHook

        with DAG(DAG_ID, schedule=None):
        """
    )
    return f"{head}{textwrap.indent(textwrap.dedent(imports), '    ')}\n{lines}\n"


WAYS = {"poke": "mode='poke'", "reschedule": "mode='reschedule'", "deferred": "deferrable=True"}
BOTH = {"poke": WAYS["poke"], "deferred": WAYS["deferred"]}
"""Where the two that poke can't differ."""


def test_a_sensor_ends_as_its_run_or_step_has(dags: Dags, runs: Runs) -> None:
    """Succeeded, failed with the step and its exception, skipped for a step that was skipped or never made."""
    good, bad = f"run_id='{runs.good}'", f"run_id='{runs.bad}'"
    cases = {
        "run_good": (good, "success", None),
        "run_by_prefix": (f"run_id='{runs.good[:12]}'", "success", None),
        "run_bad": (bad, "failed", "failed in step nightly/extract[1]: ValueError: no row -2"),
        "step_good": (f"{good}, step='nightly/extract[2]'", "success", None),
        "step_bad": (f"{bad}, step='nightly/extract[1]'", "failed", "failed: ValueError: no row -2"),
        "step_skipped": (f"{bad}, step='nightly/load[1]'", "skipped", "nightly/load[1] of run"),
        "step_none": (f"{good}, step='nightly/extract[3]'", "skipped", "was never made"),
        "group_good": (f"{good}, step='nightly/extract[*]'", "success", None),
        "group_bad": (f"{bad}, step='nightly/extract[*]'", "failed", "nightly/extract[*] of run"),
        "group_enough": (f"{bad}, step='nightly/extract[*]', count=1", "success", None),
    }
    said = [f"task_id='{name}_{way}', {case[0]}, {how}" for name, case in cases.items() for way, how in BOTH.items()]
    ran = dags.run(dag_of(*said))
    assert ran.states() == {f"{name}_{way}": case[1] for name, case in cases.items() for way in BOTH}
    for _, _, text in cases.values():
        assert text is None or text in ran.output
    for verb in ("show", "steps"):
        assert f"To see it: dagengine {verb} {runs.bad[:12]} --store {runs.store}" in ran.output


def test_a_sensor_may_look_from_another_environment(dags: Dags, runs: Runs) -> None:
    """Where Airflow's has no engine: each look, and the trigger's, is taken there; its ends are the same."""
    said = f"python={sys.executable!r}, run_id='{runs.good[:12]}'"
    bad = said.replace(runs.good[:12], runs.bad)
    ran = dags.run(
        dag_of(
            f"task_id='good', {said}",
            f"task_id='deferred', {said}, deferrable=True",
            f"task_id='step', {said}, step='nightly/extract[2]'",
            f"task_id='bad', {bad}, deferrable=True",
            f"task_id='skipped', {bad}, step='nightly/load[1]'",
            f"task_id='unknown', python={sys.executable!r}, run_id='feedfeed'",
        )
    )
    assert ran.states() == {
        "good": "success", "deferred": "success", "step": "success", "bad": "failed", "skipped": "skipped",
        "unknown": "failed",
    }  # fmt: skip
    assert ran.xcom("good") == {"__dagengine__": 1, "run": runs.good, "conn_id": "dagengine_default"}
    assert "failed in step nightly/extract[1]: ValueError: no row -2" in ran.output
    assert "there is no run feedfeed" in ran.output


def test_a_sensor_is_tried_again_but_not_for_the_failure_that_it_has_seen(dags: Dags, runs: Runs) -> None:
    """It has retries if nobody says otherwise, for a worker that died; a run's or step's end is the same in each of them."""
    cases = {"run": "", "step": ", step='nightly/extract[1]'", "group": ", step='nightly/extract[*]'"}
    sensors = "\n".join(f"DagengineSensor(task_id={name!r}, run_id={runs.bad!r}{said})" for name, said in cases.items())
    ran = dags.run(dag_of(imports=sensors))
    assert ran.states() == dict.fromkeys(cases, "failed")
    assert {ran.task(name).try_number for name in cases} == {1}
    assert {ran.task(name).max_tries for name in cases} == {2}


def test_a_sensor_that_the_scheduler_begins_again_waits_longer() -> None:
    """Else it comes due before a busy scheduler knows of its last look's end, and is failed as lost; what is said counts."""
    from datetime import timedelta

    from dagengine.airflow_plugin import DagengineSensor

    def intervals(**said: Any) -> tuple[float, float]:
        made = DagengineSensor(task_id="s", run_id="0", **said)
        return made.poke_interval, made.reschedule_interval

    assert intervals() == (5, 20)
    assert intervals(mode="reschedule") == (20, 20)
    assert intervals(mode="reschedule", deferrable=True) == (5, 20)
    assert intervals(mode="reschedule", poke_interval=1) == (1, 1)
    assert intervals(deferrable=True, poke_interval=timedelta(seconds=2)) == (2, 2)


def test_what_a_sensor_returns_leads_to_the_result(dags: Dags, runs: Runs) -> None:
    """A task downstream is given a reference, which the hook reads; of steps, which they were."""
    ran = dags.run(
        dag_of(
            imports=f"""
            @task
            def read(found):
                print("the result is", DagengineHook().read(found))

            read(DagengineSensor(task_id="run", run_id={runs.good!r}).output)
            DagengineSensor(task_id="step", run_id={runs.good!r}, step="nightly/load[0]")
            """
        )
    )
    assert ran.state == "success", ran.output
    assert ran.xcom("run") == {"__dagengine__": 1, "run": runs.good, "conn_id": "dagengine_default"}
    assert ran.xcom("step") == {"run": runs.good, "step": "nightly/load[0]", "state": "succeeded"}
    assert "the result is [1, 2, 3]" in ran.output


def test_without_a_connection_it_is_the_store_that_dagengine_is_set_to(
    dags: Dags, runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As for an operator; what is returned then leads to that store from anywhere."""
    monkeypatch.delenv(CONNECTION)
    monkeypatch.setenv("DAGENGINE_STORE", str(runs.store))
    ran = dags.run(dag_of(*(f"task_id={name!r}, run_id={runs.good!r}, {way}" for name, way in WAYS.items())))
    assert ran.state == "success", ran.output
    for name in WAYS:
        assert ran.xcom(name) == {"__dagengine__": 1, "run": runs.good, "store": runs.engine.store.url}


def test_a_deferred_sensor_waits_until_the_run_ends(dags: Dags, runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    """And only then; the store is asked by the triggerer's poller, about all of them at once."""
    from dagengine.airflow_plugin.triggers import StoreSource

    run = held.start()
    looks: list[tuple[Awaited, ...]] = []
    ask = StoreSource.ask

    def looking(self: StoreSource, questions: Sequence[Awaited]) -> Mapping[Awaited, str]:
        found = ask(self, questions)
        looks.append(tuple(questions))
        if len(looks) == 2:
            runs.engine.signal(run.id, "go")
        return found

    monkeypatch.setattr(StoreSource, "ask", looking)
    ran = dags.run(
        dag_of(
            f"task_id='step', run_id={run.id!r}, step='held/load[0]', deferrable=True",
            f"task_id='run', run_id={run.id!r}, deferrable=True, poke_interval=0.01",
        )
    )
    assert ran.states() == {"step": "success", "run": "success"}
    assert run.state == "succeeded"
    assert len(looks) > 2
    assert {one.run_id for asked in looks for one in asked} == {run.id}


@pytest.mark.parametrize("way", WAYS.values(), ids=list(WAYS))
def test_a_sensor_that_waits_too_long_fails_or_is_skipped(dags: Dags, runs: Runs, way: str) -> None:
    """As Airflow's own sensors do: `timeout`, and `soft_fail`. The run goes on."""
    run = held.start()
    waits = f"run_id={run.id!r}, {way}, timeout=0.05, poke_interval=0.01"
    ran = dags.run(dag_of(f"task_id='hard', {waits}", f"task_id='soft', {waits}, soft_fail=True"))
    assert ran.states() == {"hard": "failed", "soft": "skipped"}
    assert "AirflowSensorTimeout" in ran.output
    assert not run.state.ended
    run.cancel()
    run.wait()


def test_a_sensor_that_can_never_succeed_says_so_at_once(dags: Dags, runs: Runs, tmp_path: Path) -> None:
    """One clear failure each, in every way to wait: no run of that id, none named, a store that is none, a bad pattern."""
    foreign = tmp_path / "notes.db"
    foreign.write_text("not a database, and longer than the header of one" * 10)
    cases = {
        "unknown": ("run_id='feedfeed'", "there is no run feedfeed"),
        "empty": ("run_id=\"{{ dag_run.conf.get(0) or '' }}\"", "run_id is empty"),
        "neither": ("step='nightly/load[0]'", "say which run: run_id, or run_of"),
        "both": (f"run_id={runs.good!r}, conn_id='a', store='b'", "conn_id, or store"),
        "no_store": (f"run_id={runs.good!r}, store={str(tmp_path / 'none' / 'runs.db')!r}", "there is no store at"),
        "foreign": (f"run_id={runs.good!r}, store={str(foreign)!r}", "notes.db"),
        "pattern": (f"run_id={runs.good!r}, step='nightly/*/load'", "names no steps"),
        "no_index": (f"run_id={runs.good!r}, step='nightly/load'", "'nightly/load' names no step"),
        "no_connection": (f"run_id={runs.good!r}, conn_id='nowhere'", "there is no connection 'nowhere' in Airflow"),
        "no_task": ("run_of='nobody'", "there is no task nobody"),
    }
    said = [f"task_id='{name}_{way}', {case[0]}, {how}" for name, case in cases.items() for way, how in BOTH.items()]
    ran = dags.run(dag_of(*said))
    assert set(ran.states().values()) == {"failed"}
    assert not (tmp_path / "none").exists()
    for _, text in cases.values():
        assert text in ran.output


RUN_OF = """
    from airflow.sdk import get_current_context
    from airflow.sdk.exceptions import AirflowSkipException

    @task(retries=0)
    def begins():
        get_current_context()["ti"].xcom_push("dagengine_run_id", RUN)
        if FAILS:
            raise ValueError("it failed, too")

    @task
    def skipped():
        raise AirflowSkipException("not today")

    @task(retries=0)
    def breaks():
        raise ValueError("before it had a run")

    first = begins(), breaks(), skipped()
"""

IN_ORDER = """
    for each in first:
        each >> [a, b, c, d]
"""
"""One after the other is how tasks run here: a sensor that holds its worker would wait for ever for what comes later."""


@pytest.mark.parametrize("way", WAYS.values(), ids=list(WAYS))
def test_a_sensor_follows_the_run_of_another_task(dags: Dags, runs: Runs, way: str) -> None:
    """It waits for that task's run; where there won't be one, it fails or is skipped as that task was."""
    for run, fails, states in ((runs.good, False, ("success", "success")), (runs.bad, True, ("failed", "skipped"))):
        begun = RUN_OF.replace("RUN", repr(run)).replace("FAILS", str(fails))
        waits = f"{way}, poke_interval=0.01, timeout=600, trigger_rule='all_done'"
        source = dag_of(
            f"task_id='a', run_of='begins', {waits}",
            f"task_id='b', run_of='begins', step='nightly/load[1]', {waits}",
            f"task_id='c', run_of='breaks', {waits}",
            f"task_id='d', run_of='skipped', {waits}",
            imports=begun,
        )
        for name in "abcd":
            source = source.replace(
                f"DagengineSensor(retries=0, task_id='{name}'", f"{name} = DagengineSensor(retries=0, task_id='{name}'"
            )
        ran = dags.run(source + (IN_ORDER if "poke'" in way else ""))
        found: dict[str, Any] = ran.states()
        assert (found["a"], found["b"]) == states
        assert (found["c"], found["d"]) == ("failed", "skipped")
        assert "task breaks ended as failed before it had a run" in ran.output
