"""What all calls of one remote function with the same options have in common, worked out once.

May import nothing of ours but errors and runtime modules.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dagengine.runtime.call_options import CallOptions
from dagengine.runtime.protocol import ActorWork, Placement, Resources, TaskInput, TaskSpec

ATTEMPT_KEPT = 0
"""Losses of an actor's tasks: its state went with its process, so the runtime must not try again by itself."""


@dataclass(slots=True)
class Shape:
    """`function`: as it was announced to the runtime. `streams`: the results come one by one. `number`: for a task's
    calls, which name the shape by it."""

    function: int
    name: str
    streams: bool
    options: CallOptions
    resources: Resources
    placement: Placement
    number: int = -1

    def spec(self, number: int, call: bytes, inputs: tuple[TaskInput, ...]) -> TaskSpec:
        options = self.options
        return TaskSpec(
            (number,),
            self.function,
            call,
            inputs,
            self.resources,
            options.timeout,
            mode="stream" if self.streams else "call",
            placement=self.placement,
            output=(number,),
            hashed=False,
            expected=options.expected,
            # Of several results all may lie unread, and one more is asked for before the end is known.
            ahead=options.ahead if options.returns == 1 else options.returns + 1,
            grace=options.grace,
            losses=options.retries,
        )

    def handed_over(self, number: int, call: bytes, inputs: tuple[TaskInput, ...]) -> TaskSpec:
        """A task whose result comes with the event."""
        spec = self.spec(number, call, inputs)
        spec.output = None
        return spec

    def actor_spec(self, number: int, call: bytes, inputs: tuple[TaskInput, ...], work: ActorWork) -> TaskSpec:
        """Of a "create" or "method" task; what an actor is made with belongs to the former."""
        options = self.options
        creates = not work.method
        return TaskSpec(
            (number,),
            self.function,
            call,
            inputs,
            self.resources if creates else NOTHING,
            options.timeout,
            mode="create" if creates else "method",
            placement=self.placement,
            output=None if creates else (number,),
            hashed=False,
            grace=options.grace,
            losses=ATTEMPT_KEPT,
            actor=work,
        )


NOTHING = Resources(cpus=0.0)


def shape(function: int, name: str, streams: bool, options: CallOptions) -> Shape:
    return Shape(function, options.name or name, streams, options, options.demand(), options.place())


def options_to_json(options: CallOptions) -> dict[str, Any]:
    """For the way from a task to its runtime; without what is as by default."""
    default = CallOptions()
    found = {
        name: getattr(options, name)
        for name in CallOptions.__dataclass_fields__
        if name != "group" and getattr(options, name) != getattr(default, name)
    }
    if options.group is not None:
        found["group"] = list(options.group.id)
    return found


class _NamedGroup:
    def __init__(self, number: list[int]) -> None:
        self.id = tuple(number)


def options_from_json(values: dict[str, Any]) -> CallOptions:
    group = values.pop("group", None)
    return CallOptions(**values, group=None if group is None else _NamedGroup(group))
