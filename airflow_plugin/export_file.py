"""What the DAG files of both modes of export have in common: the parameters of the workflow that become the DAG's, the
head of the file, its statements.

Imports no Airflow; may import the workflow layer.
"""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dagengine.airflow_plugin.export_names import Named, dag_id_of
from dagengine.airflow_plugin.export_text import Code, NoLiteral, called, literal, text
from dagengine.errors import BadArguments, DefinitionError
from dagengine.functions import refer
from dagengine.outline import Outline, outline

if TYPE_CHECKING:
    from dagengine.workflows import Workflow

MARK = "dagengine airflow export"
"""Stands in each file that was written here: only such a one is written over without being asked."""

TASKS_MAX = 50
"""What a page of Airflow still shows well."""

_TYPES: dict[Any, str] = {
    bool: "boolean",
    int: "integer",
    float: "number",
    str: "string",
    list: "array",
    dict: "object",
}


@dataclass(frozen=True, slots=True)
class Wanted:
    """code: the file or module that the workflow is in, an expression; shown: the workflow as people type it.

    conn_id: of the store's connection; None: the default one. schedule: as Airflow takes it
    limit: so many tasks follow steps one by one; where there are more, steps are put together
    """

    code: Code
    shown: str
    dag_id: str | None = None
    conn_id: str | None = None
    schedule: str | None = None
    limit: int = TASKS_MAX


@dataclass(frozen=True, slots=True)
class Exported:
    """text: of the file. tasks: how many there are in the DAG. notes: what the file does not show, a line each."""

    dag_id: str
    mode: str
    text: str
    tasks: int
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Parameters:
    """Of the DAG: by name a value, or a Param without one. fixed: values that stand in the graph, and can't be changed."""

    of_dag: dict[str, Any]
    fixed: dict[str, Any]


# ---- parameters -------------------------------------------------------------------------------


def values_of(workflow: Workflow[..., Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """What is given, and the defaults of other parameters."""
    defaults = {
        name: parameter.default
        for name, parameter in workflow.signature.parameters.items()
        if parameter.default is not inspect.Parameter.empty
    }
    return {**defaults, **given}


def steps_of(workflow: Workflow[..., Any], given: Mapping[str, Any]) -> tuple[Outline, dict[str, Any]]:
    """The steps, with stand-ins for as many parameters as they don't depend on; and the values of the others."""
    values = values_of(workflow, given)
    named = named_parameters(workflow)
    fixed = {name: value for name, value in values.items() if name not in named or not is_json(value)}
    while True:
        try:
            found = outline(workflow, fixed)
            break
        except BadArguments as error:
            name = getattr(error, "parameter", None)
            if name is None or name not in values:
                raise
            fixed[name] = values[name]
    if set(found.parameters) <= set(values):
        # A body may ask what a stand-in is without using it (`isinstance`): with values it has to call the same.
        plain = outline(workflow, values)
        if not plain.same_graph(found):
            return plain, values
    return found, fixed


def parameters_of(workflow: Workflow[..., Any], given: Mapping[str, Any], fixed: Mapping[str, Any]) -> Parameters:
    """Those of the DAG. What is given and can't be one is fixed; such a default is left to the workflow."""
    of_dag: dict[str, Any] = {}
    constant = dict(fixed)
    values = values_of(workflow, given)
    for name in named_parameters(workflow):
        if name in fixed:
            continue
        if name not in values:
            of_dag[name] = Code(_param(workflow, name))
        elif is_json(values[name]):
            of_dag[name] = literal(values[name])
        elif name in given:
            constant[name] = values[name]
    return Parameters(of_dag, constant)


def named_parameters(workflow: Workflow[..., Any]) -> list[str]:
    """Those that take one value each."""
    return [
        name
        for name, parameter in workflow.signature.parameters.items()
        if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    ]


def is_json(value: Any) -> bool:
    """Whether a parameter of a DAG can be it."""
    if type(value) in (list, dict):
        keys = value if isinstance(value, dict) else ()
        parts = value.values() if isinstance(value, dict) else value
        return all(type(key) is str for key in keys) and all(map(is_json, parts))
    return type(value) in (bool, int, str, type(None)) or (type(value) is float and math.isfinite(value))


def _param(workflow: Workflow[..., Any], name: str) -> str:
    annotation = workflow.signature.parameters[name].annotation
    named: dict[Any, type] = {kind.__name__: kind for kind in _TYPES}
    kind = _TYPES.get(named.get(annotation) if isinstance(annotation, str) else annotation)
    return f"Param(type={text(kind)})" if kind else "Param()"


# ---- what both modes write --------------------------------------------------------------------


def module(
    wanted: Wanted,
    workflow: Workflow[..., Any],
    *,
    mode: str,
    about: list[str],
    parameters: Parameters,
    body: list[str],
) -> tuple[str, str]:
    """The id of the DAG, and the whole text of its file. about: lines of its docstring; body: lines within the DAG."""
    dag_id = wanted.dag_id or dag_id_of(workflow.name)
    if wanted.schedule is not None:
        missing = [name for name, value in parameters.of_dag.items() if isinstance(value, Code)]
        if missing:
            raise BadArguments(f"by a schedule nobody says what {missing[0]} is. Give it a value: {missing[0]}=…")
    inside = "\n".join(body)
    names = [name for name in ("DAG", "Param", "TaskGroup", "literal") if re.search(rf"\b{name}\(", inside)]
    names = sorted({"DAG", *names, *(["Param"] if any(_is_param(v) for v in parameters.of_dag.values()) else [])})
    classes = [name for name in ("DagengineOperator", "DagengineSensor") if f"{name}" in inside]
    keywords: dict[str, Any] = {"schedule": wanted.schedule}
    if wanted.schedule is not None:
        keywords |= {"start_date": Code("datetime(2024, 1, 1, tzinfo=UTC)"), "catchup": False}
    if mode == "expand" and workflow.timeout is not None:  # a run of the workflow itself has its timeout
        keywords["dagrun_timeout"] = Code(f"timedelta(seconds={workflow.timeout:g})")
    if parameters.of_dag:
        keywords["params"] = parameters.of_dag
    keywords |= {"doc_md": Code("__doc__"), "tags": ["dagengine"]}
    opening = called("DAG", [dag_id], keywords, used=len("with  as dag:"))
    times = [
        *(["UTC", "datetime"] if wanted.schedule is not None else []),
        *(["timedelta"] if "dagrun_timeout" in keywords else []),
    ]
    standard = [
        *([f"from datetime import {', '.join(times)}"] if times else []),
        *(["from functools import partial"] if "partial(" in inside else []),
        *(["from pathlib import Path"] if "Path(" in inside else []),
    ]
    lines = [
        '"""' + _docstring(about[0]),
        "",
        *map(_docstring, about[1:]),
        f"Written by `{MARK} {_docstring(wanted.shown)} --mode {mode}`. Write it again when the workflow has other steps.",
        '"""',
        "",
        *([*standard, ""] if standard else []),
        f"from airflow.sdk import {', '.join(names)}",
        "",
        f"from dagengine.airflow_plugin import {', '.join(classes)}",
        "",
        f"CODE = {wanted.code}",
        "",
        f"with {opening} as dag:",
        *(f"    {line}".rstrip() for line in inside.split("\n")),
    ]
    whole = "\n".join(lines) + "\n"
    compile(whole, f"<{dag_id}>", "exec")
    return dag_id, whole


def _is_param(value: Any) -> bool:
    return isinstance(value, Code) and value.startswith("Param(")


def _docstring(line: str) -> str:
    """One line, whatever it is given, that neither ends the docstring nor has escapes in it."""
    return " ".join(line.split()).replace("\\", "/").replace('"""', "'''")


def arguments(parameters: Parameters) -> dict[str, Any]:
    """What the operator is to call the workflow with. Raises BadArguments for a value that no file can hold."""
    found: dict[str, Any] = {}
    for name in parameters.of_dag:
        found[name] = Code(f"dag.param({text(name)})")
    for name, value in parameters.fixed.items():
        try:
            found[name] = literal(value, templated=True)
        except NoLiteral as error:
            raise BadArguments(f"{name} is {error}, which no file can hold. Leave it out.") from None
    return found


def code_of(module: str, qualname: str, here: Workflow[..., Any], file: str | None) -> Any:
    """How the file names a function: of the module that the workflow is in by CODE, others by themselves."""
    if module == here.__module__:
        return Code(f'f"{{CODE}}:{qualname}"')
    return f"{file or module}:{qualname}"


def entry_of(workflow: Workflow[..., Any]) -> Any:
    reference = refer(workflow)
    if reference.pickled is not None:
        raise BadArguments(f"{workflow.name} has no name that Airflow's workers could find it by. Put it in a module.")
    return code_of(reference.module, reference.qualname, workflow, reference.file)


class Statements:
    """The lines within the DAG: assignments, each in the task group that it belongs to."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self._open: tuple[tuple[str, str], ...] = ()
        self._known: set[str] = set()

    def assign(self, name: Named, function: str, args: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        if name.group != self._open:
            self._enter(name.group)
        margin = "    " if name.group else ""
        made = called(function, args, keywords, used=len(margin) + 4 + len(f"{name.variable} = "))
        self.lines += [margin + line for line in f"{name.variable} = {made}".split("\n")]

    def _enter(self, group: tuple[tuple[str, str], ...]) -> None:
        self._open = group
        new = [part for part in group if part[1] not in self._known]
        self._known.update(variable for _, variable in new)
        # A group that is there stands for those that it is in as well.
        there = [variable for _, variable in group if (_, variable) not in new][-1:]
        opened = [*there, *(f"TaskGroup({text(name)}) as {variable}" for name, variable in new)]
        if opened:
            self.lines += ["", f"with {', '.join(opened)}:"]
        else:
            self.lines.append("")


def refuse(workflow: Workflow[..., Any], key: str, why: str) -> DefinitionError:
    """What `expand` says of a step that can't be an Airflow task by itself."""
    return DefinitionError(f"{workflow.name} can't be expanded: {key} {why} --mode mirror takes it as it is.")
