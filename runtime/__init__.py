"""What runs tasks: in this process, or on worker processes of this machine. Knows nothing of workflows and stores.

Used by itself (`import dagengine.runtime as rt`) it has the names of `api`. `protocol` is the interface for those who
build on it; `InlineRuntime` and `ProcessRuntime` implement it. Everything is loaded on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dagengine.runtime.api import (
        ActorClass,
        ActorHandle,
        ActorMethod,
        Group,
        Ref,
        RefStream,
        RemoteFunction,
        actor,
        borrow,
        cancel,
        explain,
        get,
        group,
        kill,
        nodes,
        put,
        remote,
        start,
        stats,
        stop,
        wait,
        waits,
    )
    from dagengine.runtime.inline import InlineRuntime
    from dagengine.runtime.processes import ProcessRuntime

__all__ = [
    "ActorClass",
    "ActorHandle",
    "ActorMethod",
    "Group",
    "InlineRuntime",
    "ProcessRuntime",
    "Ref",
    "RefStream",
    "RemoteFunction",
    "actor",
    "borrow",
    "cancel",
    "explain",
    "get",
    "group",
    "kill",
    "nodes",
    "put",
    "remote",
    "start",
    "stats",
    "stop",
    "wait",
    "waits",
]

_ELSEWHERE = {"InlineRuntime": "inline", "ProcessRuntime": "processes"}


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module 'dagengine.runtime' has no attribute {name!r}")
    found = getattr(import_module(f"dagengine.runtime.{_ELSEWHERE.get(name, 'api')}"), name)
    # A module's own attribute is found without a call from now on.
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
