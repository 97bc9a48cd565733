"""A worker's death by its name: which signal, which exit code, or that the kernel ran out of memory.

May import nothing of ours but model.
"""

from __future__ import annotations

import os
import signal
from typing import Any, Final

from dagengine.model import Failure

FAILED: Final = 70
"""The exit status of a worker that fails by itself (EX_SOFTWARE)."""

_HINTS = {
    "SIGSEGV": "a fault in native code",
    "SIGBUS": "a fault in native code, or a file that shrank while it was mapped",
    "SIGABRT": "native code gave up",
    "SIGILL": "native code for another processor",
    "SIGFPE": "a fault in native code",
    "SIGKILL": "by someone, or by the kernel for lack of memory",
    "SIGTERM": "by someone",
}


def lost_failure(status: int, out_of_memory: bool) -> Failure:
    """Why the attempt was lost. `status`: as os.waitpid returns it; `out_of_memory`: the kernel says so."""
    code = os.waitstatus_to_exitcode(status)
    facts: dict[str, Any]
    if code >= 0:
        facts, text = {"exit": code}, f"the worker exited with status {code} while it ran this"
        if code == FAILED:
            text += (
                ": it could not go on, and its log says why (did the task close descriptors that it had not opened?)"
            )
        else:
            text += ": something called os._exit, or exit in native code"
    else:
        name = signal_name(-code)
        facts = {"signal": name}
        if out_of_memory:
            facts["oom"] = True
            text = (
                "the kernel killed the worker for lack of memory while it ran this: "
                "let it hold less, or say memory= so that fewer run at once"
            )
        else:
            hint = f" ({_HINTS[name]})" if name in _HINTS else ""
            text = f"the worker was killed by {name}{hint} while it ran this"
    return Failure("lost", "dagengine.errors.WorkerLost", text, facts=facts)


def signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"  # a real-time one
