"""The logical time of a scheduled run: when it was due, whenever it begins. Imports model and workflows.

A schedule's run has it among its facts. A workflow that takes `logical_time` is given it, as a datetime in UTC.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from dagengine.model import RunRecord
from dagengine.workflows import Workflow

PARAMETER = "logical_time"
Arguments = tuple[tuple[Any, ...], dict[str, Any]]


def takes_logical_time(workflow: Workflow[..., Any]) -> bool:
    return PARAMETER in workflow.signature.parameters


def with_logical_time(run: RunRecord, workflow: Workflow[..., Any], given: Arguments) -> Arguments:
    """The arguments that the body is called with."""
    args, kwargs = given
    said = run.facts.get(PARAMETER)
    if said is None or not takes_logical_time(workflow):
        return given
    bound = workflow.signature.bind_partial(*args, **kwargs)
    if PARAMETER in bound.arguments:
        return given
    return args, {**kwargs, PARAMETER: datetime.fromisoformat(said)}
