"""`mirror`: one Airflow task runs the workflow, and others follow its steps, so that its graph is seen where others are.

The engine decides, as everywhere: what Airflow shows, and colours, is what the record says. Steps are followed one by one,
or where there are many by function, or by called workflow. Edges are the graph's; between groups, those that lead on.

Imports no Airflow; may import the workflow layer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dagengine.airflow_plugin.export_file import (
    Exported,
    Statements,
    Wanted,
    arguments,
    entry_of,
    module,
    named_parameters,
    parameters_of,
    steps_of,
    values_of,
)
from dagengine.airflow_plugin.export_names import Names
from dagengine.airflow_plugin.export_text import Code, called, written
from dagengine.errors import BadArguments
from dagengine.graph import split_key
from dagengine.outline import CONTINUED, Outline, outline

if TYPE_CHECKING:
    from dagengine.workflows import Workflow

MOST = 500
"""Tasks of one DAG."""


def mirrored(
    workflow: Workflow[..., Any], given: Mapping[str, Any], wanted: Wanted, recorded: Outline | None
) -> Exported:
    """The DAG. recorded: the steps of a run, instead of what the body calls now. Raises as `export`."""
    found = recorded or _outline(workflow, given)
    parameters = parameters_of(workflow, given, {})
    followed = _followed(found, wanted.limit)
    if len(followed) > MOST:
        raise BadArguments(f"{workflow.name} has {len(followed):,} groups of steps, and a DAG {MOST} tasks at most.")
    names = Names((key for key, _ in followed), reserved=("follow", "partial"))
    run = names.task("run")
    body = Statements()
    store = {} if wanted.conn_id is None else {"conn_id": wanted.conn_id}
    given_to_it = arguments(parameters)
    keywords = {
        "task_id": run.task_id,
        "workflow": entry_of(workflow),
        **({"arguments": given_to_it} if given_to_it else {}),
    }
    body.assign(run, "DagengineOperator", (), {**keywords, **store})
    if followed:
        body.lines += ["", "# These run nothing: each follows steps of the run that is made above."]
        follow = {"run_of": run.task_id, "mode": "reschedule", **store}
        body.lines.append(f"follow = {called('partial', (Code('DagengineSensor'),), follow, used=4 + 9)}")
    named = {key: names.step(key) for key, _ in followed}
    for key, _ in followed:
        body.assign(named[key], "follow", (), {"task_id": named[key].task_id, "step": key})
    edges = _edges(followed, {key: named[key].variable for key in named})
    body.lines += ["", *edges] if edges else []
    about = [f"{workflow.name}: dagengine runs it in the task {run.task_id}, and the other tasks follow its steps."]
    dag_id, whole = module(wanted, workflow, mode="mirror", about=about, parameters=parameters, body=body.lines)
    return Exported(dag_id, "mirror", whole, len(followed) + 1, _notes(workflow, found, recorded is not None))


def _outline(workflow: Workflow[..., Any], given: Mapping[str, Any]) -> Outline:
    """With all values, where there are: a run with others may have other steps, which nobody follows then."""
    values = values_of(workflow, given)
    if set(named_parameters(workflow)) <= set(values):
        return outline(workflow, values)
    return steps_of(workflow, given)[0]


def _followed(found: Outline, limit: int) -> list[tuple[str, tuple[str, ...]]]:
    """What is followed, a step or a pattern that names several, in order; each with those that it comes after."""
    part_of = [_each, _by_function, _by_workflow]
    for part in part_of:
        groups = {step.number: part(step.key, found.workflow) for step in found.steps}
        if len(set(groups.values())) <= limit or part is part_of[-1]:
            break
    order = {key: place for place, key in enumerate(dict.fromkeys(groups.values()))}
    before: dict[str, dict[str, None]] = {key: {} for key in order}
    for step in found.steps:
        key = groups[step.number]
        for read in step.reads:
            other = groups.get(read)
            if other is not None and order[other] < order[key]:
                before[key][other] = None
    return [(key, tuple(before[key])) for key in order]


def _each(key: str, workflow: str) -> str:
    return key


def _by_function(key: str, workflow: str) -> str:
    scope, function, _ = split_key(key)
    return f"{scope}/{function}[*]"


def _by_workflow(key: str, workflow: str) -> str:
    """All of a scope below the run's own is one; steps of the run's own are put together by function."""
    scope = split_key(key)[0]
    if scope == workflow:
        return _by_function(key, workflow)
    return f"{workflow}/{scope[len(workflow) + 1 :].split('/')[0]}/*"


def _edges(followed: Sequence[tuple[str, tuple[str, ...]]], variables: Mapping[str, str]) -> list[str]:
    lines: list[str] = []
    for key, before in followed:
        sources = [Code(variables[other]) for other in before]
        if sources:
            shown = sources[0] if len(sources) == 1 else written(sources, used=4 + len(variables[key]) + 4)
            lines += f"{shown} >> {variables[key]}".split("\n")
    return lines


def _notes(workflow: Workflow[..., Any], found: Outline, recorded: bool) -> tuple[str, ...]:
    if recorded:
        return ("the tasks are those of one run; another one may have others, which are not followed.",)
    if found.end == CONTINUED:
        return (f"{workflow.name} goes on in another run, whose steps are not followed.",)
    if found.end == "…":
        return (f"{workflow.name} calls without end: what comes after {found.steps[-1].key} is not followed.",)
    if found.end:
        return (f"the body waits for {found.end}: what it calls then is known from a run only (--run RUN).",)
    return ()
