"""Between the protocol's words and the messages that workers understand: task specs in, runtime events out.

May import nothing of ours but model and runtime modules.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from dagengine.runtime.messages import Done, Expanded, Result, Run, pack_input
from dagengine.runtime.protocol import ActorWork, Content, Failed, RuntimeEvent, Succeeded, TaskInput, TaskSpec

Sink = Callable[[list[RuntimeEvent]], None]
Pack = Callable[[TaskInput], Any]


def run_message(spec: TaskSpec, pack: Pack = pack_input, devices: Sequence[int] | None = None) -> Run:
    """`pack`: makes of an input what the wire has for it."""
    run = Run(
        spec.id,
        spec.function,
        spec.call,
        [pack(given) for given in spec.inputs] if spec.inputs else [],
        spec.context or None,
        spec.log,
        spec.mode,
        spec.output,
        spec.hashed,
        list(devices) if devices is not None else None,
        spec.ahead,
    )
    if spec.resources.cpus > 1:
        run.cpus = int(spec.resources.cpus)
    if spec.actor is not None:
        _add_actor(run, spec.actor, pack)
    return run


def _add_actor(run: Run, actor: ActorWork, pack: Pack) -> None:
    run.method = actor.method
    run.concurrent = actor.concurrent
    run.threads = actor.threads
    run.save_state = actor.save_state
    run.state = pack(actor.state) if actor.state is not None else None
    run.replay = [[call.method, call.call, [pack(given) for given in call.inputs]] for call in actor.replay]


def result_event(
    worker: int, result: Result, content: Content | None = None, state: Content | None = None
) -> RuntimeEvent:
    """`content`: where the value is, if it did not come with the message; None: the runtime keeps it. `state`: the
    actor's."""
    if isinstance(result, Done):
        written = result.result
        return Succeeded(
            result.id,
            worker,
            result.started_at,
            result.finished_at,
            written.digest,
            written.size,
            written.data,
            content.shared if content is not None else None,
            None,
            state,
            result.peak,
        )
    if isinstance(result, Expanded):
        calls = result.calls if result.grown is None else None
        times = (result.started_at, result.finished_at)
        return Succeeded(result.id, worker, *times, "", 0, calls=calls, grown=result.grown)
    return Failed(result.id, worker, result.started_at, result.finished_at, result.failure)
