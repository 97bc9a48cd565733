"""dagengine: durable workflows in plain Python.

The public names, and nothing else. Each is loaded on first use, so that importing the package costs next to nothing:
worker processes and `dagengine --help` pay for what they use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from dagengine import aio, errors
    from dagengine.approvals import Approval, approve, reject, wait_approval
    from dagengine.cache_options import Cache
    from dagengine.client import Client
    from dagengine.contexts import Context, context
    from dagengine.continuing import continue_with
    from dagengine.databases import sql
    from dagengine.effects import Pending
    from dagengine.engine import Engine
    from dagengine.errors import (
        DagengineError,
        EventTimeout,
        Rejected,
        RunFailed,
        StepFailed,
        StepSkipped,
        StepTimeout,
        StepUnknown,
    )
    from dagengine.model import RunState, StepState
    from dagengine.moments import event, now, random, sleep, timer, uuid, wait_event
    from dagengine.run import Run
    from dagengine.signals import signal
    from dagengine.stateful_classes import readonly, stateful
    from dagengine.tasks import Task, task
    from dagengine.units import GiB, KiB, MiB
    from dagengine.waiting import as_completed, first, gather, get
    from dagengine.workflows import Workflow, workflow

_HOME = {
    "aio": "",
    "errors": "",
    "Cache": "cache_options",
    "Client": "client",
    "Context": "contexts",
    "context": "contexts",
    "Pending": "effects",
    "continue_with": "continuing",
    "Engine": "engine",
    "DagengineError": "errors",
    "RunFailed": "errors",
    "StepFailed": "errors",
    "StepSkipped": "errors",
    "StepTimeout": "errors",
    "StepUnknown": "errors",
    "RunState": "model",
    "StepState": "model",
    "Run": "run",
    "readonly": "stateful_classes",
    "stateful": "stateful_classes",
    "sql": "databases",
    "Task": "tasks",
    "task": "tasks",
    "Approval": "approvals",
    "approve": "approvals",
    "reject": "approvals",
    "wait_approval": "approvals",
    "event": "moments",
    "now": "moments",
    "random": "moments",
    "sleep": "moments",
    "timer": "moments",
    "uuid": "moments",
    "wait_event": "moments",
    "signal": "signals",
    "EventTimeout": "errors",
    "Rejected": "errors",
    "GiB": "units",
    "KiB": "units",
    "MiB": "units",
    "as_completed": "waiting",
    "first": "waiting",
    "gather": "waiting",
    "get": "waiting",
    "Workflow": "workflows",
    "workflow": "workflows",
}
"""Public name -> the module that defines it ("": the name is a module)."""

__all__ = [
    "Approval",
    "Cache",
    "Client",
    "Context",
    "DagengineError",
    "Engine",
    "EventTimeout",
    "GiB",
    "KiB",
    "MiB",
    "Pending",
    "Rejected",
    "Run",
    "RunFailed",
    "RunState",
    "StepFailed",
    "StepSkipped",
    "StepState",
    "StepTimeout",
    "StepUnknown",
    "Task",
    "Workflow",
    "aio",
    "approve",
    "as_completed",
    "context",
    "continue_with",
    "errors",
    "event",
    "first",
    "gather",
    "get",
    "now",
    "random",
    "readonly",
    "reject",
    "signal",
    "sleep",
    "sql",
    "stateful",
    "task",
    "timer",
    "uuid",
    "wait_approval",
    "wait_event",
    "workflow",
]


def __getattr__(name: str) -> object:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module 'dagengine' has no attribute {name!r}")
    from importlib import import_module

    value: object
    if home:
        value = getattr(import_module(f"dagengine.{home}"), name)
    else:
        value = import_module(f"dagengine.{name}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
