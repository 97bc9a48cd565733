"""The client of code that runs within a task: what it asks goes to the controller, where `serving.py` answers.

A call costs a round trip over the worker's socket. While a task waits for results it needs no cpu; others get it.

May import nothing of ours but errors, model, values and runtime modules.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from dagengine.errors import BadArguments, RuntimeStopped, WaitTimeout
from dagengine.model import Failure
from dagengine.runtime import current
from dagengine.runtime.call_options import CallOptions
from dagengine.runtime.calling import EncodedCall, Target, encode_call, encode_value
from dagengine.runtime.handles import DONE, FAILED, PENDING, ActorHandle, ActorToken, Group, Ref, RefStream
from dagengine.runtime.protocol import NodeFacts, Resources
from dagengine.runtime.raising import exception_of
from dagengine.runtime.shapes import options_to_json
from dagengine.values import Encoded


class TaskShape:
    """A remote function, as it was declared by this process. `number`: the controller's name for it."""

    __slots__ = ("name", "number", "several", "streams")

    def __init__(self, number: int, name: str, streams: bool, several: bool) -> None:
        self.number = number
        self.name = name
        self.streams = streams
        self.several = several


class TaskClient:
    """One in each worker. Thread-safe. Refs here are those that this process was told of; each counts at the controller."""

    def __init__(self) -> None:
        self.pid = os.getpid()

    def _ask(self, verb: str, body: Any, blocks: bool = False) -> Any:
        if current.link is None:
            raise RuntimeStopped("the runtime is over for this process")
        answer = current.link.ask(verb, body, blocks)
        if answer.failure is not None:
            raise exception_of(answer.failure)
        return answer.body

    def dropped(self, key: tuple[Any, ...], light: bool = False) -> None:
        link = current.link
        if link is not None and os.getpid() == self.pid:
            link.note("drop", key)

    def _tell(self, verb: str, body: Any) -> None:
        if current.link is not None:
            current.link.tell(verb, body)

    # ---- functions and tasks ------------------------------------------------------------------

    def declare(self, target: Target, options: CallOptions) -> TaskShape:
        body = [target.reference, target.name, target.streams, options_to_json(options)]
        number, name = self._ask("declare", body)
        return TaskShape(number, name, target.streams, options.returns > 1)

    def submit(self, shape: TaskShape, call: EncodedCall) -> Any:
        found = self._ask("submit", [shape.number, _packed(call)])
        if shape.streams and not shape.several:
            return RefStream(self, (found[0],), found[1], None)
        refs = [self._received(item) for item in found]
        return refs if shape.several else refs[0]

    def _received(self, item: Sequence[Any]) -> Ref[Any]:
        return Ref(self, tuple(item[0]), item[1])

    def cancel(self, number: int, force: bool) -> None:
        self._ask("cancel", [number, force])

    def cancel_many(self, numbers: Sequence[int]) -> None:
        for number in numbers:
            self.cancel(number, force=False)

    def next_item(self, stream: RefStream[Any], timeout: float | None) -> Ref[Any]:
        found = self._ask("next", [stream.id[0], timeout], blocks=True)
        if found is None:
            raise StopIteration
        if found is False:
            raise WaitTimeout(f"{stream.name} has not yielded anything within {timeout:g} s", task=stream.name)
        return self._received(found)

    # ---- values -------------------------------------------------------------------------------

    def put(self, value: Any) -> Ref[Any]:
        if isinstance(value, Ref):
            raise BadArguments(f"{value!r} is an object already: put takes a value.")
        return self.put_encoded(*encode_value(value))

    def put_encoded(self, encoded: Encoded, kept: list[Any] | None = None) -> Ref[Any]:
        if current.link is None:
            raise RuntimeStopped("the runtime is over for this process")
        written = current.link.keep(encoded)
        made = [written.digest, written.size, written.data, written.request, written.checksum]
        ref = self._received(self._ask("put", [made, [_key(handle) for handle in kept or ()]]))
        ref._state = DONE
        return ref

    def get(self, refs: Sequence[Ref[Any]], timeout: float | None) -> list[Any]:
        missing = [ref for ref in refs if ref._content is None]
        found = self._ask("get", [[ref.id for ref in missing], timeout], blocks=True) if missing else []
        if found is None:
            name = missing[0].name
            raise WaitTimeout(f"no result of {name} within {timeout:g} s", task=name)
        places: dict[Any, Any] = {}
        for ref, item in zip(missing, found, strict=True):
            if isinstance(item, dict):
                ref._state = FAILED
                ref._content = Failure(**item["failure"])
            elif isinstance(item, bytes):
                ref._state = DONE
                ref._content = item
            elif item is not None:
                places.setdefault(ref.id, []).append(item)
        for ref in refs:
            if isinstance(ref._content, Failure):
                raise exception_of(ref._content, ref.name)
        assert current.link is not None
        return [current.link.open(ref._content or places[ref.id].pop()) for ref in refs]

    def wait(self, refs: Sequence[Ref[Any]], count: int, timeout: float | None) -> list[bool]:
        ended: list[bool] = self._ask("wait", [[ref.id for ref in refs], count, timeout], blocks=True)
        for ref, is_over in zip(refs, ended, strict=True):
            if is_over and ref._state == PENDING:
                ref._state = DONE  # or failed: that is known when it is read
        return ended

    # ---- actors, groups -----------------------------------------------------------------------

    def create_actor(self, shape: TaskShape, call: EncodedCall, methods: tuple[str, ...]) -> ActorHandle[Any]:
        return self._received_actor(self._ask("create", [shape.number, _packed(call), methods]))

    def _received_actor(self, item: Sequence[Any]) -> ActorHandle[Any]:
        number, name, methods = item
        return ActorHandle(ActorToken(self, number), name, tuple(methods))

    def call_actor(
        self, handle: ActorHandle[Any], method: str, args: tuple[Any, ...], kwargs: dict[str, Any], changes: Any
    ) -> Ref[Any]:
        call = encode_call(args, kwargs, f"{handle._name}.{method}", self.put_encoded)
        return self._received(self._ask("call", [handle._token.number, method, _packed(call), changes]))

    def kill(self, handle: ActorHandle[Any]) -> None:
        self._ask("kill", handle._token.number)

    def named_actor(self, name: str) -> ActorHandle[Any] | None:
        found = self._ask("named", name)
        return None if found is None else self._received_actor(found)

    def group(self, bundles: list[CallOptions], shown: list[dict[str, Any]], strategy: str) -> Group:
        number = self._ask("group", [[options_to_json(bundle) for bundle in bundles], shown, strategy])
        return Group(self, number, shown, strategy)

    def group_ready(self, group: Group, timeout: float | None) -> None:
        if not self._ask("ready", [group.id[0], timeout], blocks=True):
            raise WaitTimeout(f"{group!r} was not set aside within {timeout:g} s", task="")

    def ungroup(self, number: int) -> None:
        self._ask("ungroup", number)

    # ---- what crosses as itself ---------------------------------------------------------------

    def exported(self, handle: Any) -> None:
        """It is pickled into what the task makes."""
        self._tell("contain", _key(handle))

    def adopted_ref(self, number: tuple[int, ...], name: str) -> Ref[Any]:
        self._tell("borrow", number)
        return Ref(self, number, name)

    def adopted_actor(self, number: int, name: str, methods: tuple[str, ...]) -> ActorHandle[Any]:
        self._tell("borrow", ("actor", number))
        return ActorHandle(ActorToken(self, number), name, methods)

    # ---- facts --------------------------------------------------------------------------------

    def nodes(self) -> list[NodeFacts]:
        return [
            NodeFacts(
                **{**node, "capacity": _resources(node["capacity"]), "free": _resources(node["free"])},
            )
            for node in self._ask("nodes", None)
        ]

    def stats(self) -> dict[str, int | float]:
        found: dict[str, int | float] = self._ask("stats", None)
        return found

    def waits(self) -> dict[int, str]:
        return dict(self._ask("waits", None))

    def explain(self, number: int) -> dict[str, Any]:
        found: dict[str, Any] = self._ask("explain", number)
        return found


def _resources(fields: dict[str, Any]) -> Resources:
    return Resources(**{**fields, "custom": tuple((name, amount) for name, amount in fields["custom"])})


def _packed(call: EncodedCall) -> list[Any]:
    return [call.data, [ref.id for ref in call.reads], [_key(handle) for handle in call.holds]]


def _key(handle: Any) -> tuple[Any, ...]:
    if isinstance(handle, Ref):
        return handle.id
    return ("actor", handle._token.number)
