"""`expand`: each step of a workflow is an Airflow task, a run of its own of the one task that it calls.

Airflow says when it runs, where, and how often it is tried; values travel between the runs as XComs do, small ones
themselves, others as references to the run that has them. For that, the whole graph has to be known before anything runs:
what is not is refused, with the step that it is about.

Imports no Airflow; may import the workflow layer.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from dagengine.airflow_plugin.export_file import (
    Exported,
    Parameters,
    Statements,
    Wanted,
    code_of,
    module,
    parameters_of,
    refuse,
    steps_of,
)
from dagengine.airflow_plugin.export_names import Named, Names
from dagengine.airflow_plugin.export_text import Code, NoLiteral, literal, text
from dagengine.errors import DefinitionError
from dagengine.functions import Reference, resolve
from dagengine.model import PayloadInput, StepKind
from dagengine.outline import CONTINUED, Outline, OutlinedStep
from dagengine.tasks import Task
from dagengine.values import decode

if TYPE_CHECKING:
    from dagengine.workflows import Workflow

STEPS_MAX = 500
"""Tasks of one DAG. Each costs Airflow some seconds of a worker."""

_OTHER = {
    StepKind.MAP: "is a map over a list that only a run knows.",
    StepKind.CREATE: "makes a stateful object, which lives in one run.",
    StepKind.METHOD: "is a call on a stateful object, which lives in one run.",
    StepKind.READONLY: "is a call on a stateful object, which lives in one run.",
    StepKind.TIMER: "waits for time.",
    StepKind.EVENT: "waits for a signal.",
    StepKind.CHILD: "is a run of its own.",
    StepKind.RECORDED: "is a value that each run has for itself.",
}


def expanded(workflow: Workflow[..., Any], given: Mapping[str, Any], wanted: Wanted) -> Exported:
    """The DAG. Raises DefinitionError for what is not known before a run, BadArguments as `export`."""
    found, fixed = steps_of(workflow, given)
    _refuse_what_is_dynamic(workflow, found)
    parameters = parameters_of(workflow, given, fixed)
    used = {found.parameters[seq] for step in found.steps for seq in step.reads if seq < len(found.parameters)}
    parameters = Parameters({name: value for name, value in parameters.of_dag.items() if name in used}, fixed)
    names = Names(step.key for step in found.steps)
    named = {step.number: names.step(step.key) for step in found.steps}
    body = Statements()
    for step in found.steps:
        body.assign(named[step.number], "DagengineOperator", (), _operator(workflow, found, step, named, wanted))
    about = [f"{workflow.name}: each of its steps is a task, which Airflow runs."]
    if fixed:
        about += [f"The same for all runs: {', '.join(f'{name}={value!r:.60}' for name, value in fixed.items())}.", ""]
    dag_id, whole = module(wanted, workflow, mode="expand", about=about, parameters=parameters, body=body.lines)
    notes = [
        f"{name} is the same in all runs of the DAG: the steps depend on it, or no parameter can be it."
        for name in fixed
    ]
    return Exported(dag_id, "expand", whole, len(found.steps), tuple(notes))


def _refuse_what_is_dynamic(workflow: Workflow[..., Any], found: Outline) -> None:
    if workflow.compensate:
        raise DefinitionError(
            f"{workflow.name} can't be expanded: it undoes what it did when it fails, and runs of single steps know of no"
            " others. --mode mirror takes it as it is."
        )
    if not found.steps:
        raise DefinitionError(f"{workflow.name} can't be expanded: it has no steps.")
    for step in found.steps:
        if step.kind is not StepKind.TASK:
            raise refuse(workflow, step.key, _OTHER[step.kind])
    if found.end == CONTINUED:
        raise refuse(workflow, workflow.name, "goes on in another run.")
    if found.end == "…" or len(found.steps) > STEPS_MAX:
        raise refuse(workflow, workflow.name, f"has more than {STEPS_MAX} steps.")
    if found.end:
        raise refuse(workflow, found.end, "has a value that the body waits for: only a run knows what comes then.")


def _operator(
    workflow: Workflow[..., Any],
    found: Outline,
    step: OutlinedStep,
    named: Mapping[int, Named],
    wanted: Wanted,
) -> dict[str, Any]:
    task = _task(workflow, step)
    values: list[Any] = []
    for place in step.inputs:
        if isinstance(place, PayloadInput):
            raise refuse(
                workflow, step.key, f"has an argument of {place.size:,} bytes: let a task read it from where it is."
            )
        if place.seq < len(found.parameters):
            values.append(Code(f"dag.param({text(found.parameters[place.seq])})"))
        else:
            values.append(Code(f"{named[place.seq].variable}.output"))
    args, kwargs = decode(step.call, values)
    try:
        given_to_it = literal(_by_name(workflow, step, task, args, kwargs), templated=True)
    except NoLiteral as error:
        raise refuse(workflow, step.key, f"is called with {error}, which no file can hold as text.") from None
    reference = Reference.from_json(step.definition.reference)
    keywords: dict[str, Any] = {
        "task_id": named[step.number].task_id,
        "workflow": code_of(reference.module, reference.qualname, workflow, reference.file),
    }
    if given_to_it:
        keywords["arguments"] = given_to_it
    if wanted.conn_id is not None:
        keywords["conn_id"] = wanted.conn_id
    return keywords


def _task(workflow: Workflow[..., Any], step: OutlinedStep) -> Task[..., Any]:
    """The task that the step is a call of, which has to be found by its name, with the options of this call."""
    reference = Reference.from_json(step.definition.reference)
    task = None if reference.pickled is not None else resolve(reference)
    if not isinstance(task, Task):
        raise refuse(workflow, step.key, "is no call of a task that has a name of its own in a module.")
    if task.settings.to_json() != step.definition.options:
        raise refuse(workflow, step.key, "is called with options(...) of its own: give them to the task.")
    if task.settings.checkpoint is False:
        raise refuse(workflow, step.key, "is not recorded (checkpoint=False), so no other run can read its value.")
    return task


def _by_name(
    workflow: Workflow[..., Any],
    step: OutlinedStep,
    task: Task[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> dict[str, Any]:
    bound = task.signature.bind(*args, **kwargs)
    found: dict[str, Any] = {}
    for name, value in bound.arguments.items():
        kind = task.signature.parameters[name].kind
        if kind in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.POSITIONAL_ONLY):
            raise refuse(workflow, step.key, f"has the argument {name}, which can't be given by name.")
        found |= value if kind is inspect.Parameter.VAR_KEYWORD else {name: value}
    return found
