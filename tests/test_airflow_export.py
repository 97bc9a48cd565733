"""The DAG files of `dagengine airflow export`, without Airflow: what stands in them, and what is refused.

That they are parsed and run by Airflow is shown in tests/airflow/test_export.py.
"""

from __future__ import annotations

import ast
import math
import re
from pathlib import Path
from typing import Any

import pytest

from dagengine import continue_with, get, now, sleep, stateful, task, timer, wait_event, workflow
from dagengine.airflow_plugin.export import export
from dagengine.airflow_plugin.export_file import Exported, Wanted
from dagengine.airflow_plugin.export_names import Names
from dagengine.airflow_plugin.export_text import Code, NoLiteral, literal, text, written
from dagengine.errors import BadArguments, DefinitionError
from dagengine.outline import outline_of_run
from dagengine.testing import memory_engine
from tests.airflow.export_flows import double


@task
def extract(month: object, unit: str = "km") -> list[int]:
    return [1]


@task(retries=2)
def merge(parts: object, **more: object) -> int:
    return 0


@task(checkpoint=False)
def unrecorded() -> int:
    return 0


@task
def positional(month: int, /) -> int:
    return month


@stateful
class Counter:
    def add(self, by: object) -> int:
        return 0


@workflow
def clean(parts: Any) -> int:
    return merge(parts, how="{{ well }}")


@workflow
def nightly(year: int, months: int = 2, unit: str = "km") -> int:
    """Its steps depend on `months`, and on nothing else."""
    parts = [extract({"year": year, "month": month}, unit) for month in range(months)]
    return merge([clean(parts), clean(parts[0])])


@workflow
def wide(count: int = 30) -> int:
    parts = extract.map(range(count))
    return merge([merge(extract(part)) for part in parts])


@workflow
def nested(count: int = 20) -> list[int]:
    return [clean(number) for number in range(count)]


@workflow
def by_kind(kind: str, value: Any = None) -> object:
    counter: Any = None
    if kind == "stateful":
        counter = Counter()
    calls: dict[str, Any] = {
        "stateful": lambda: counter.add(1),
        "map": lambda: extract.map(extract(1)),
        "timer": lambda: timer("1h"),
        "event": lambda: wait_event("go"),
        "child": lambda: clean.start(1),
        "now": lambda: extract(now()),
        "get": lambda: extract(get(extract(1))),
        "options": lambda: merge.options(retries=5)([]),
        "unrecorded": unrecorded,
        "positional": lambda: positional(1),
        "nothing": lambda: 0,
        "value": lambda: extract(value),
        "on": lambda: continue_with(kind, value),
        "many": lambda: extract.map(range(501)),
    }
    return calls[kind]()


@workflow
def elsewhere() -> int:
    return double(extract(1))  # type: ignore[arg-type]


@workflow(timeout=90)
def hurried() -> int:
    return merge([])


@workflow(compensate=True)
def undone() -> int:
    return merge([])


@workflow
def told_apart(year: Any) -> int:
    """Asks of what type its argument is, which a stand-in can't tell."""
    return merge(extract(year) if isinstance(year, int) else [])


def _export(flow: Any, mode: str, recorded: Any = None, given: dict[str, Any] | None = None, **how: Any) -> Exported:
    wanted = Wanted(Code('"flows/nightly.py"'), f"flows/nightly.py:{flow.name}", **how)
    return export(flow, given or {}, wanted, mode, recorded)


MIRROR = '''"""nightly: dagengine runs it in the task run, and the other tasks follow its steps.

Written by `dagengine airflow export flows/nightly.py:nightly --mode mirror`. Write it again when the workflow has other steps.
"""

from functools import partial

from airflow.sdk import DAG, TaskGroup

from dagengine.airflow_plugin import DagengineOperator, DagengineSensor

CODE = "flows/nightly.py"

with DAG(
    "nightly",
    schedule=None,
    params={"year": 2013, "months": 2, "unit": "km"},
    doc_md=__doc__,
    tags=["dagengine"],
) as dag:
    run = DagengineOperator(
        task_id="run",
        workflow=f"{CODE}:nightly",
        arguments={"year": dag.param("year"), "months": dag.param("months"), "unit": dag.param("unit")},
    )

    # These run nothing: each follows steps of the run that is made above.
    follow = partial(DagengineSensor, run_of="run", mode="reschedule")
    extract_0 = follow(task_id="extract_0", step="nightly/extract[0]")
    extract_1 = follow(task_id="extract_1", step="nightly/extract[1]")

    with TaskGroup("clean_0") as clean_0:
        clean_0_merge = follow(task_id="merge", step="nightly/clean[0]/merge[0]")

    with TaskGroup("clean_1") as clean_1:
        clean_1_merge = follow(task_id="merge", step="nightly/clean[1]/merge[0]")

    merge = follow(task_id="merge", step="nightly/merge[0]")

    [extract_0, extract_1] >> clean_0_merge
    extract_0 >> clean_1_merge
    [clean_0_merge, clean_1_merge] >> merge
'''

EXPAND = '''"""nightly: each of its steps is a task, which Airflow runs.

The same for all runs: months=2.

Written by `dagengine airflow export flows/nightly.py:nightly --mode expand`. Write it again when the workflow has other steps.
"""

from datetime import UTC, datetime

from airflow.sdk import DAG, TaskGroup, literal

from dagengine.airflow_plugin import DagengineOperator

CODE = "flows/nightly.py"

with DAG(
    "trips",
    schedule="0 2 * * *",
    start_date=datetime(2024, 1, 1, tzinfo=UTC),
    catchup=False,
    params={"year": 2013, "unit": "km"},
    doc_md=__doc__,
    tags=["dagengine"],
) as dag:
    extract_0 = DagengineOperator(
        task_id="extract_0",
        workflow=f"{CODE}:extract",
        arguments={"month": {"year": dag.param("year"), "month": 0}, "unit": dag.param("unit")},
        conn_id="runs",
    )
    extract_1 = DagengineOperator(
        task_id="extract_1",
        workflow=f"{CODE}:extract",
        arguments={"month": {"year": dag.param("year"), "month": 1}, "unit": dag.param("unit")},
        conn_id="runs",
    )

    with TaskGroup("clean_0") as clean_0:
        clean_0_merge = DagengineOperator(
            task_id="merge",
            workflow=f"{CODE}:merge",
            arguments={"parts": [extract_0.output, extract_1.output], "how": literal("{{ well }}")},
            conn_id="runs",
        )

    with TaskGroup("clean_1") as clean_1:
        clean_1_merge = DagengineOperator(
            task_id="merge",
            workflow=f"{CODE}:merge",
            arguments={"parts": extract_0.output, "how": literal("{{ well }}")},
            conn_id="runs",
        )

    merge = DagengineOperator(
        task_id="merge",
        workflow=f"{CODE}:merge",
        arguments={"parts": [clean_0_merge.output, clean_1_merge.output]},
        conn_id="runs",
    )
'''


def test_a_mirror_has_a_task_that_runs_and_tasks_that_follow() -> None:
    """The whole file, as people read it; parameters of the workflow are the DAG's."""
    made = _export(nightly, "mirror", given={"year": 2013})
    assert made.text == MIRROR
    assert (made.dag_id, made.tasks, made.notes) == ("nightly", 6, ())


def test_expanded_each_step_is_a_task_that_reads_the_values_of_others() -> None:
    """What the steps depend on is fixed, and said to be; texts that Airflow would take for templates are marked."""
    made = _export(nightly, "expand", given={"year": 2013}, dag_id="trips", schedule="0 2 * * *", conn_id="runs")
    assert made.text == EXPAND
    assert made.notes == (
        "months is the same in all runs of the DAG: the steps depend on it, or no parameter can be it.",
    )


def test_the_time_that_a_workflow_may_take_is_the_dag_runs() -> None:
    """Where there is no run of the workflow that would have its timeout itself."""
    text = _export(hurried, "expand").text
    assert "dagrun_timeout=timedelta(seconds=90)" in text
    assert "\nfrom datetime import timedelta\n" in text
    assert "timedelta" not in _export(hurried, "mirror").text


def test_the_same_workflow_gives_the_same_file() -> None:
    """So that it can be kept under version control, and written again by a script."""
    for mode in ("mirror", "expand"):
        assert _export(nightly, mode, given={"year": 2013}).text == _export(nightly, mode, given={"year": 2013}).text


def _ids(made: Exported) -> list[str]:
    """The steps that the file follows."""
    calls = [node for node in ast.walk(ast.parse(made.text)) if isinstance(node, ast.Call)]
    keywords = [keyword for call in calls for keyword in call.keywords if keyword.arg == "step"]
    return [ast.literal_eval(keyword.value) for keyword in keywords]


def test_many_steps_are_put_together_by_function_and_then_by_workflow() -> None:
    """Edges between groups lead on, so that there is no cycle."""
    made = _export(wide, "mirror")
    assert _ids(made) == ["wide/extract[*]", "wide/merge[*]"]
    assert "    extract >> merge\n" in made.text
    assert len(_ids(_export(wide, "mirror", limit=100))) == 91
    assert _ids(_export(nested, "mirror", limit=10))[:2] == ["nested/clean[0]/*", "nested/clean[1]/*"]
    assert "clean_19 = follow(" in _export(nested, "mirror", limit=10).text


def test_what_a_body_waits_for_ends_the_picture_and_a_run_has_the_rest() -> None:
    """The note says so, and names the step."""
    made = _export(by_kind, "mirror", given={"kind": "get"})
    assert _ids(made) == ["by_kind/extract[0]"]
    assert made.notes == (
        "the body waits for by_kind/extract[0]: what it calls then is known from a run only (--run RUN).",
    )
    with memory_engine() as engine:
        run = engine.start(by_kind, "get")
        run.result()
        recorded = outline_of_run(engine.store, engine.store.find_run(run.id))
    made = _export(by_kind, "mirror", recorded, {"kind": "get"})
    assert _ids(made) == ["by_kind/extract[0]", "by_kind/extract[1]"]
    assert made.notes == ("the tasks are those of one run; another one may have others, which are not followed.",)
    with pytest.raises(BadArguments, match="expand takes no run"):
        _export(by_kind, "expand", recorded)


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        ("stateful", r"by_kind/Counter\[0\] makes a stateful object"),
        ("map", r"by_kind/extract.map\[0\] is a map over a list that only a run knows"),
        ("timer", r"by_kind/timer\[0\] waits for time"),
        ("event", r"by_kind/go.event\[0\] waits for a signal"),
        ("child", r"by_kind/clean\[0\] is a run of its own"),
        ("now", r"by_kind/now\[0\] is a value that each run has for itself"),
        ("get", r"by_kind/extract\[0\] has a value that the body waits for"),
        ("options", r"by_kind/merge\[0\] is called with options\(...\) of its own"),
        ("unrecorded", r"by_kind/unrecorded\[0\] is not recorded"),
        ("positional", r"by_kind/positional\[0\] has the argument month, which can't be given by name"),
        ("nothing", "it has no steps"),
        ("on", "it has no steps"),
        ("many", "by_kind has more than 500 steps"),
    ],
)
def test_what_is_not_known_before_a_run_can_not_be_expanded(kind: str, why: str) -> None:
    """One line names the step and the reason; a mirror has no such limits."""
    with pytest.raises(DefinitionError, match=why) as refused:
        _export(by_kind, "expand", given={"kind": kind})
    assert "\n" not in str(refused.value)
    _export(by_kind, "mirror", given={"kind": kind})


@pytest.mark.parametrize("value", [{1, 2}, {1: "x"}, 1j, object, b"x" * 20_000])
def test_a_value_that_no_file_can_hold_is_refused(value: Any) -> None:
    """Never written as what only looks like it."""
    with pytest.raises((BadArguments, DefinitionError), match=r"which no file can hold|let a task read it"):
        _export(by_kind, "expand", given={"kind": "value", "value": value})


def test_a_workflow_that_undoes_what_it_did_is_not_taken_apart() -> None:
    """Runs of single steps know of no others."""
    with pytest.raises(DefinitionError, match="undoes what it did"):
        _export(undone, "expand")


def test_a_body_that_asks_what_a_stand_in_is_gets_the_value() -> None:
    """With the value it calls other steps than with a stand-in, so the value is fixed."""
    made = _export(told_apart, "expand", given={"year": 2013})
    assert "told_apart:" in made.text
    assert 'arguments={"month": 2013}' in made.text
    assert made.notes == (
        "year is the same in all runs of the DAG: the steps depend on it, or no parameter can be it.",
    )


def test_parameters_without_a_value_are_asked_for_by_airflow() -> None:
    """With the type of their annotation; not where nobody is there to be asked."""
    assert 'params={"year": Param(type="integer"), "months": 2, "unit": "km"}' in _export(nightly, "mirror").text
    with pytest.raises(BadArguments, match="by a schedule nobody says what year is"):
        _export(nightly, "mirror", schedule="@daily")


@pytest.mark.parametrize("shown", ['x"""\nimport os\n"""', "back\\slash\\N.py", '"', "x\r\ny", "'''"])
def test_what_people_typed_stays_in_the_docstring(shown: str) -> None:
    """Whatever a file may be called: the text is one statement, and nothing of it is run."""
    for mode in ("mirror", "expand"):
        wanted = Wanted(Code(text(shown)), shown)
        tree = ast.parse(export(by_kind, {"kind": "value", "value": (1, shown)}, wanted, mode).text)
        statements = {type(node) for node in tree.body}
        assert statements == {ast.Expr, ast.ImportFrom, ast.Assign, ast.With}
        assert {node.module for node in tree.body if isinstance(node, ast.ImportFrom)} <= {
            "airflow.sdk",
            "dagengine.airflow_plugin",
            "functools",
        }
        code = tree.body[-2]
        assert isinstance(code, ast.Assign)
        assert ast.literal_eval(code.value) == shown


def test_the_functions_of_other_modules_are_named_by_themselves() -> None:
    """Those of the workflow's own module by CODE, a file or a name that can be imported."""
    made = _export(elsewhere, "expand")
    assert 'workflow=f"{CODE}:extract"' in made.text
    assert re.search(r'workflow="(.*/export_flows\.py|tests\.airflow\.export_flows):double"', made.text)


@pytest.mark.parametrize("dag_id", ["", "a b", "../x", "x" * 300, 'x"""'])
def test_an_id_that_airflow_would_not_take_is_refused(dag_id: str) -> None:
    """Before anything is written."""
    with pytest.raises(BadArguments, match="is no id for a DAG"):
        _export(nightly, "mirror", dag_id=dag_id)


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        -1,
        1.5,
        "text",
        'quo"ted',
        "both ' and \"",
        "new\nline",
        "\\",
        "{{ params.x }}",
        "ends\n",
        b"\0",
        [1, ["x" * 80, "y" * 80]],
        {"a b": {"c": (1,)}},
        [],
        "\u2028",
    ],
)
def test_a_literal_is_read_as_the_value_that_it_was(value: Any) -> None:
    """Whatever stands in it, in one line or several; `literal` is what keeps Airflow from taking it for a template."""
    code = written(literal(value, templated=True))
    assert eval(code, {"literal": lambda value: value}) == value  # noqa: S307 — of what was just written


def test_a_number_that_is_none_has_no_literal_of_its_own() -> None:
    """What `repr` gives for it is no Python."""
    code = written(literal([math.inf, math.nan]))
    assert code == '[float("inf"), float("nan")]'
    with pytest.raises(NoLiteral, match=r"an object of builtins.complex"):
        literal(1j)


def test_names_are_ids_and_variables_and_no_two_are_the_same() -> None:
    """Whatever keys people choose; Airflow takes ids of 250 characters with their groups."""
    deep = "/".join(f"{'scope' * 10}{number}[0]" for number in range(8))
    keys = [
        "nightly/class[0]",
        "nightly/run[0]",
        "nightly/train[lr=0.1]",
        "nightly/train[lr=0.2]",
        "nightly/train[lr:0.2]",
        "nightly/données[0]",
        "nightly/1st[0]",
        "nightly/dag[0]",
        f"nightly/{deep}/merge[0]",
    ]
    names = Names(keys)
    named = [names.task("run"), *map(names.step, keys)]
    assert [name.task_id for name in named[:8]] == [
        "run",
        "class",
        "run_2",
        "train_lr_0_1",
        "train_lr_0_2",
        "train_lr_0_2_2",
        "donn_es",
        "1st",
    ]
    assert [name.variable for name in named[:3]] == ["run", "_class", "run_2"]
    assert named[8].variable == "dag_2"
    assert len({name.whole_id for name in named}) == len({name.variable for name in named}) == len(named)
    assert all(len(name.whole_id) <= 250 and name.variable.isidentifier() for name in named)


def test_what_no_parameter_of_a_dag_can_be_stands_in_the_file() -> None:
    """A path, a tuple: as Python has them, in both modes."""
    given = {"kind": "value", "value": (Path("data"), 1)}
    assert (
        'arguments={"kind": dag.param("kind"), "value": (Path("data"), 1)}'
        in _export(by_kind, "mirror", given=given).text
    )
    made = _export(by_kind, "expand", given=given)
    assert 'arguments={"month": (Path("data"), 1)}' in made.text
    assert "\nfrom pathlib import Path\n" in made.text


def test_time_that_passes_in_a_body_is_followed_as_any_step() -> None:
    """`sleep` has an end for sure, so what comes after it is known."""
    assert _ids(_export(slept, "mirror")) == ["slept/sleep[0]", "slept/merge[0]"]


@workflow
def slept() -> int:
    sleep("1h")
    return merge([])
