"""What runs tasks: in this process, or on worker processes of this machine. Knows nothing of workflows and stores.

`protocol` is the interface; `InlineRuntime` and `ProcessRuntime` implement it, and are loaded on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dagengine.runtime.inline import InlineRuntime
    from dagengine.runtime.processes import ProcessRuntime

__all__ = ["InlineRuntime", "ProcessRuntime"]


def __getattr__(name: str) -> object:
    if name == "InlineRuntime":
        from dagengine.runtime.inline import InlineRuntime

        return InlineRuntime
    if name == "ProcessRuntime":
        from dagengine.runtime.processes import ProcessRuntime

        return ProcessRuntime
    raise AttributeError(f"module 'dagengine.runtime' has no attribute {name!r}")
