"""Between the protocol's words and the messages that workers understand: task specs in, runtime events out.

May import nothing of ours but runtime modules.
"""

from __future__ import annotations

from collections.abc import Callable

from dagengine.runtime.messages import Done, Expanded, Result, Run, pack_input
from dagengine.runtime.protocol import Failed, RuntimeEvent, Succeeded, TaskSpec
from dagengine.runtime.shared import SharedFile

Sink = Callable[[list[RuntimeEvent]], None]


def run_message(spec: TaskSpec) -> Run:
    return Run(
        spec.id,
        spec.function,
        spec.call,
        [pack_input(given) for given in spec.inputs],
        spec.context or None,
        spec.log,
        spec.mode == "expand",
    )


def result_event(worker: int, result: Result, shared: SharedFile | None) -> RuntimeEvent:
    if isinstance(result, Done):
        return Succeeded(
            result.id,
            worker,
            result.started_at,
            result.finished_at,
            result.digest,
            result.size,
            result.data,
            shared,
        )
    if isinstance(result, Expanded):
        return Succeeded(result.id, worker, result.started_at, result.finished_at, "", 0, calls=result.calls)
    return Failed(result.id, worker, result.started_at, result.finished_at, result.failure)
