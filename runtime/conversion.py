"""What a submitter says, in the scheduler core's words. Pure.

May import nothing of ours but runtime.protocol, runtime.core and runtime.objects.
"""

from __future__ import annotations

from typing import Final

from dagengine.runtime.core.events import UNIT, Capacity, Need, Request, TaskKind
from dagengine.runtime.objects import objects_of
from dagengine.runtime.protocol import Placement, Resources, TaskSpec

_PLAIN: Final = Need()
_KINDS: Final = {"stream": TaskKind.STREAM, "create": TaskKind.CREATE, "method": TaskKind.METHOD}


def need_of(resources: Resources, placement: Placement | None = None) -> Need:
    custom = tuple(sorted((name, round(amount * UNIT)) for name, amount in resources.custom))
    need = Need(
        round(resources.cpus * UNIT), resources.memory, round(resources.gpus * UNIT), resources.gpu_memory, custom
    )
    if placement is None:
        return need
    return need._replace(node=placement.node, soft=placement.soft, group=placement.group, bundle=placement.bundle)


def request_of(spec: TaskSpec) -> Request:
    asked, placement = spec.resources, spec.placement
    if (
        asked.cpus == 1.0
        and not (asked.memory or asked.gpus or asked.gpu_memory or asked.custom)
        and placement.node is None
        and placement.group is None
    ):
        need = _PLAIN
    else:
        need = need_of(asked, placement)
    kind = _KINDS.get(spec.mode, TaskKind.CALL)
    actor = spec.actor
    inputs = spec.inputs
    if actor is not None:
        inputs = (*inputs, *((actor.state,) if actor.state is not None else ()))
        inputs = (*inputs, *(given for call in actor.replay for given in call.inputs))
    return Request(
        spec.id,
        spec.function,
        need,
        objects_of(inputs) if inputs else (),
        spec.output,
        spec.expected,
        kind,
        actor.id if actor is not None else None,
        actor is not None and actor.concurrent,
        placement.priority,
        spec.rank,
        spec.losses,
        need is _PLAIN and spec.timeout is None and kind == TaskKind.CALL,
        spec,
    )


def resources_of(capacity: Capacity) -> Resources:
    return Resources(
        capacity.cpus / UNIT,
        capacity.memory,
        float(len(capacity.devices)),
        max((device.memory for device in capacity.devices), default=0),
        tuple((name, amount / UNIT) for name, amount in capacity.custom),
    )
