"""What can be said of a task or an actor when the runtime is used without workflows, validated when it is said.

May import nothing of ours but errors, validation and runtime.protocol.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import Any

from dagengine.errors import BadOption
from dagengine.runtime.protocol import GroupId, Placement, Resources
from dagengine.validation import check_integer, check_known, check_number


@dataclass(frozen=True, slots=True)
class CallOptions:
    """Of a remote function, an actor's class or method, or of one call.

    cpus, gpus: shares below 1 are allowed; a share of a GPU shares one device
    gpu_memory: bytes on each of these devices
    memory: bytes of the process's own that the task may need (0: not said)
    resources: named resources that a node was declared to have, {"licence": 1}
    priority: higher goes first
    node: the name of a node; with soft only preferred
    group: a placement group; bundle: which of its bundles (-1: any)
    retries: further attempts after its worker was lost (exceptions of the task are never retried here)
    timeout: seconds for one attempt, or None; grace: seconds between SIGTERM and SIGKILL
    name: in errors and listings instead of the function's name; of an actor: by which `actor(name)` finds it
    returns: how many results the function returns, each an object of its own
    ahead: how many items a generator may be ahead of its readers
    expected: bytes that the result is thought to have, or None
    max_restarts: how often an actor is made again after its process died
    concurrency: how many calls of an actor may run at a time
    checkpoint_every: an actor's state is saved with each so-manieth call (0: never)
    """

    cpus: float = 1.0
    gpus: float = 0.0
    gpu_memory: int = 0
    memory: int = 0
    resources: dict[str, float] = field(default_factory=dict)
    priority: int = 0
    node: str | None = None
    soft: bool = False
    group: Any = None
    bundle: int = -1
    retries: int = 3
    timeout: float | None = None
    grace: float = 2.0
    name: str | None = None
    returns: int = 1
    ahead: int = 16
    expected: int | None = None
    max_restarts: int = 0
    concurrency: int = 1
    checkpoint_every: int = 0

    def __post_init__(self) -> None:
        for name in ("cpus", "gpus"):
            check_number(name, getattr(self, name), 0)
        for name in ("gpu_memory", "memory", "retries", "max_restarts", "checkpoint_every"):
            check_integer(name, getattr(self, name), 0)
        for name in ("returns", "ahead", "concurrency"):
            check_integer(name, getattr(self, name), 1)
        check_integer("bundle", self.bundle, -1)
        check_integer("priority", self.priority, -(2**31))
        check_number("grace", self.grace, 0)
        if self.timeout is not None:
            check_number("timeout", self.timeout, 0, above=True)
        if self.expected is not None:
            check_integer("expected", self.expected, 0)
        for name in ("node", "name"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, str) or not value):
                raise BadOption(f"{name}={value!r} has to be a text that is not empty.")
        if not isinstance(self.resources, dict):
            raise BadOption(f"resources={self.resources!r} has to be a dict of names and amounts.")
        for name, amount in self.resources.items():
            check_number(f"resources[{name!r}]", amount, 0)
        if self.bundle >= 0 and self.group is None:
            raise BadOption(f"bundle={self.bundle} needs a group= that has it.")

    def changed(self, **changes: Any) -> CallOptions:
        """A copy with changes. Raises BadOption for an unknown name, with the nearest known one."""
        check_known(changes, (found.name for found in fields(self)))
        return replace(self, **changes)

    def demand(self) -> Resources:
        custom = tuple(sorted((name, float(amount)) for name, amount in self.resources.items()))
        return Resources(float(self.cpus), self.memory, float(self.gpus), self.gpu_memory, custom)

    def place(self) -> Placement:
        group: GroupId | None = None if self.group is None else tuple(self.group.id)
        return Placement(self.priority, self.node, self.soft, group, self.bundle)
