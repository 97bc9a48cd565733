"""What tasks ask of the runtime that runs them, answered in the controller. `client.py` is the other side.

A worker process *holds* what it has handles of: each handle that reaches it counts once, each that is dropped there
counts back, and when the process is gone all of its holds are. Holding here is to have the very `Ref` (or actor's
token), so objects live as long as anybody has a handle, wherever that is.

A task that waits is only left to wait if what it waits for can come. Before, the way is followed from there: from a
task that has not ended to what it reads or waits for, and to the calls before it on its actor. If that leads back, the
task that asked gets a Deadlock, which names the circle.

`ask` and `gone` are called on the runtime's thread.

May import nothing of ours but errors, model, values and runtime modules.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from dagengine.errors import DagengineError
from dagengine.model import Failure
from dagengine.runtime.actor_calls import Call
from dagengine.runtime.call_options import CallOptions
from dagengine.runtime.calling import EncodedCall, Target
from dagengine.runtime.failures import describe_failure
from dagengine.runtime.handles import DONE, FAILED, PENDING, ActorHandle, ActorToken, Group, Ref, RefStream
from dagengine.runtime.messages import Answer, Ask, Written
from dagengine.runtime.patience import Patience, Reading, Reply
from dagengine.runtime.protocol import ObjectId
from dagengine.runtime.shapes import Shape, options_from_json
from dagengine.values import Encoded

if TYPE_CHECKING:
    from dagengine.runtime.session import Session

_END = object()


class Serving:
    def __init__(self, session: Session) -> None:
        self._session = session
        self._shapes: list[Shape] = []
        self._declared: dict[str, int] = {}
        self._held: dict[int, dict[Any, list[Any]]] = {}
        # Of each attempt that waits inside itself: the refs that it waits for.
        self._blocked: dict[int, dict[int, list[Ref[Any]]]] = {}
        self._verbs: dict[str, Callable[[int, Ask, Reply], None]] = {
            name.removeprefix("_on_"): getattr(self, name) for name in dir(self) if name.startswith("_on_")
        }

    # ---- the runtime's thread -----------------------------------------------------------------

    def ask(self, worker: int, message: Ask) -> None:
        """Answered by `runtime.answer`, now or later; a message with the number -1 never is."""

        def reply(body: Any = None, failure: Failure | None = None, holds: list[ObjectId] | None = None) -> None:
            if message.number >= 0:
                self._session.runtime.answer(worker, Answer(message.number, body, failure, holds or []))

        try:
            self._verbs[message.verb](worker, message, reply)
        except Exception as error:
            # Whatever a task asks, it must not end the runtime.
            reply(failure=describe_failure(error))

    def awaited(self, message: Ask) -> tuple[ObjectId, ...]:
        """The objects that the task waits for, where it does."""
        if message.verb in ("get", "wait"):
            return tuple(tuple(number) for number in message.body[0])
        return ()

    def gone(self, worker: int) -> None:
        """The worker's process has ended, and with it its handles."""
        self._held.pop(worker, None)

    # ---- handles ------------------------------------------------------------------------------

    def _hold(self, worker: int, key: Any, handle: Any) -> None:
        held = self._held.setdefault(worker, {})
        entry = held.get(key)
        if entry is None:
            held[key] = [handle, 1]
        else:
            entry[1] += 1

    def _on_drop(self, worker: int, message: Ask, reply: Reply) -> None:
        held = self._held.get(worker, {})
        for key in message.body:
            name = tuple(key)
            entry = held.get(name)
            if entry is not None:
                entry[1] -= 1
                if entry[1] == 0:
                    del held[name]

    def _on_borrow(self, worker: int, message: Ask, reply: Reply) -> None:
        """A handle was unpickled in the worker: what it came in still holds it."""
        key = tuple(message.body)
        self._hold(worker, key, self._known(worker, key))

    def _on_contain(self, worker: int, message: Ask, reply: Reply) -> None:
        """A handle is being pickled into what the task makes: that holds it."""
        key = tuple(message.body)
        handle = self._known(worker, key)
        owner = self._session.tasks.get(message.id[0]) if message.id else None
        if isinstance(owner, Ref):
            owner._contains = [*(owner._contains or ()), handle]
        elif owner is not None:
            owner.inside.append(handle)
        self._session.known[key] = handle

    def _known(self, worker: int, key: Any) -> Any:
        entry = self._held.get(worker, {}).get(key)
        found = entry[0] if entry is not None else self._session.known.get(key)
        if found is None:
            raise DagengineError(f"the handle {key} can't be used any more: what it stands for was freed")
        return found

    def _ref(self, worker: int, number: Any) -> Ref[Any]:
        found: Ref[Any] = self._known(worker, tuple(number))
        return found

    def _lend(self, worker: int, ref: Ref[Any]) -> list[Any]:
        """A new ref for the worker."""
        self._session.known[ref.id] = ref
        self._hold(worker, ref.id, ref)
        return [list(ref.id), ref.name]

    # ---- tasks --------------------------------------------------------------------------------

    def _on_declare(self, worker: int, message: Ask, reply: Reply) -> None:
        reference, name, streams, options = message.body
        # Every process that calls the function declares it, also those that come after others have gone.
        key = repr((reference, name, options))
        number = self._declared.get(key)
        if number is None:
            shape = self._session.declare(Target(reference, (), name, streams), options_from_json(options))
            number = self._declared[key] = len(self._shapes)
            self._shapes.append(shape)
        reply([number, self._shapes[number].name])

    def _call(self, worker: int, body: list[Any]) -> EncodedCall:
        data, reads, holds = body
        return EncodedCall(
            data,
            [self._ref(worker, number) for number in reads],
            [self._known(worker, tuple(key)) for key in holds],
        )

    def _on_submit(self, worker: int, message: Ask, reply: Reply) -> None:
        number, call = message.body
        made = self._session.submit(self._shapes[number], self._call(worker, call))
        if isinstance(made, RefStream):
            self._hold(worker, ("stream", made.id[0]), made)
            reply([made.id[0], made.name])
        else:
            reply([self._lend(worker, ref) for ref in (made if isinstance(made, list) else [made])])

    def _on_next(self, worker: int, message: Ask, reply: Reply) -> None:
        """The next item of a stream: a ref, None at the end."""
        number, timeout = message.body
        stream: RefStream[Any] = self._known(worker, ("stream", number))
        owner = stream._state
        session = self._session

        def item() -> Any:
            found = owner.take()
            if found is not None:
                return self._lend(worker, found)
            if owner.failure is not None:
                return owner.failure
            return None if owner.ended else NotImplemented

        def lent() -> Any:
            found = item()
            return _END if found is None else found

        def tell(found: Any) -> None:
            if isinstance(found, Failure):
                reply(failure=found)
            else:
                reply(None if found is _END else False if found is None else found)

        Patience(session, timeout, lent, tell, on=owner.waiters).begin()

    def _on_cancel(self, worker: int, message: Ask, reply: Reply) -> None:
        number, force = message.body
        self._session.cancel(number, force)
        reply()

    # ---- values -------------------------------------------------------------------------------

    def _on_put(self, worker: int, message: Ask, reply: Reply) -> None:
        written, kept = message.body
        made = Written(*written)
        session = self._session
        handles = [self._known(worker, tuple(key)) for key in kept]
        if made.data is not None:
            ref = session.put_encoded(Encoded([made.data], []), handles)
        else:
            ref = Ref(session, (next(session.numbers),), "put")
            session.runtime.adopt(worker, ref.id, made)
            ref._contains = handles or None
            ref._state = DONE
        reply(self._lend(worker, ref))

    def _on_get(self, worker: int, message: Ask, reply: Reply) -> None:
        """For each ref what it is: the bytes, a place in the arena or a Failure's fields, once all have ended."""
        numbers, timeout = message.body
        refs = [self._ref(worker, number) for number in numbers]

        def ended() -> Any:
            if any(ref._state == FAILED for ref in refs):
                return True
            return NotImplemented if any(ref._state == PENDING for ref in refs) else True

        def tell(found: Any) -> None:
            self._unblock(message)
            if found is True:
                Reading(self._session.runtime, worker, refs, reply).begin()
            else:
                reply()

        self._begin_wait(message, refs, count=len(refs), timeout=timeout, ended=ended, tell=tell, reply=reply)

    def _on_wait(self, worker: int, message: Ask, reply: Reply) -> None:
        numbers, count, timeout = message.body
        refs = [self._ref(worker, number) for number in numbers]

        def states() -> list[bool]:
            return [ref._state != PENDING for ref in refs]

        def ended() -> Any:
            return True if sum(states()) >= count else NotImplemented

        def tell(found: Any) -> None:
            self._unblock(message)
            reply(states())

        self._begin_wait(message, refs, count=count, timeout=timeout, ended=ended, tell=tell, reply=reply)

    def _begin_wait(
        self,
        message: Ask,
        refs: list[Ref[Any]],
        *,
        count: int,
        timeout: float | None,
        ended: Callable[[], Any],
        tell: Callable[[Any], None],
        reply: Reply,
    ) -> None:
        if message.id is not None and message.blocks and timeout is None:
            asker = message.id[0]
            if count == len(refs):
                circle = self._circle(asker, refs)
                if circle:
                    reply(failure=_deadlock(circle))
                    return
                self._blocked.setdefault(asker, {})[message.number] = refs
        Patience(self._session, timeout, ended, tell, on=refs, count=count, hasty=message.verb == "get").begin()

    def _unblock(self, message: Ask) -> None:
        if message.id is not None:
            waits = self._blocked.get(message.id[0])
            if waits is not None:
                waits.pop(message.number, None)
                if not waits:
                    self._blocked.pop(message.id[0], None)

    def _circle(self, asker: int, refs: list[Ref[Any]]) -> list[str]:
        """The names of the tasks from what is waited for back to `asker`; empty if none leads there."""
        session = self._session
        came_from: dict[int, int] = {}
        stack = [(ref.id[0], asker) for ref in refs if ref._state == PENDING]
        while stack:
            number, before = stack.pop()
            if number in came_from:
                continue
            came_from[number] = before
            if number == asker:
                names = []
                at = before
                while at != asker:
                    names.append(session.name_of(at))
                    at = came_from[at]
                return [session.name_of(asker), *reversed(names)]
            owner = session.tasks.get(number)
            if owner is None:
                continue
            if isinstance(owner, Call):
                stack += [(earlier, number) for earlier in owner.actor.before(number)]
            ref = owner if isinstance(owner, Ref) else getattr(owner, "ref", None)
            reads = ref._reads[0] if ref is not None and ref._reads else ()
            for waits in (reads, *self._blocked.get(number, {}).values()):
                stack += [(read.id[0], number) for read in waits if read._state == PENDING]
        return []

    # ---- actors, groups, facts ----------------------------------------------------------------

    def _on_create(self, worker: int, message: Ask, reply: Reply) -> None:
        number, call, methods = message.body
        handle = self._session.create_actor(self._shapes[number], self._call(worker, call), tuple(methods))
        reply(self._lend_actor(worker, handle))

    def _lend_actor(self, worker: int, handle: ActorHandle[Any]) -> list[Any]:
        self._hold(worker, ("actor", handle._token.number), handle._token)
        return [handle._token.number, handle._name, list(handle._methods)]

    def _on_call(self, worker: int, message: Ask, reply: Reply) -> None:
        number, method, call, changes = message.body
        actor = self._session.actors[self._token(worker, number).number]
        reply(self._lend(worker, actor.call(method, self._call(worker, call), changes)))

    def _token(self, worker: int, number: int) -> ActorToken:
        found: ActorToken = self._known(worker, ("actor", number))
        return found

    def _on_kill(self, worker: int, message: Ask, reply: Reply) -> None:
        self._session.kill_number(self._token(worker, message.body).number)
        reply()

    def _on_named(self, worker: int, message: Ask, reply: Reply) -> None:
        handle = self._session.named_actor(message.body)
        reply(None if handle is None else self._lend_actor(worker, handle))

    def _on_group(self, worker: int, message: Ask, reply: Reply) -> None:
        bundles, shown, strategy = message.body
        group = self._session.group([CallOptions(**bundle) for bundle in bundles], shown, strategy)
        self._hold(worker, ("group", group.id[0]), group)
        reply(group.id[0])

    def _on_ready(self, worker: int, message: Ask, reply: Reply) -> None:
        number, timeout = message.body
        group: Group = self._known(worker, ("group", number))
        reservation = self._session.groups[group.id[0]]

        def ended() -> Any:
            return True if reservation.answer else NotImplemented

        def tell(found: Any) -> None:
            if found is True and reservation.answer[0] is not None:
                reply(failure=reservation.answer[0])
            else:
                reply(found is True)

        Patience(self._session, timeout, ended, tell, on=reservation.waiters).begin()

    def _on_ungroup(self, worker: int, message: Ask, reply: Reply) -> None:
        group: Group = self._known(worker, ("group", message.body))
        group.close()
        reply()

    def _on_nodes(self, worker: int, message: Ask, reply: Reply) -> None:
        reply([asdict(node) for node in self._session.nodes()])

    def _on_stats(self, worker: int, message: Ask, reply: Reply) -> None:
        reply(self._session.stats())

    def _on_waits(self, worker: int, message: Ask, reply: Reply) -> None:
        reply(list(self._session.waits().items()))

    def _on_explain(self, worker: int, message: Ask, reply: Reply) -> None:
        reply(self._session.explain(message.body))


def _deadlock(circle: list[str]) -> Failure:
    way = " waits for ".join([*circle, circle[0]])
    return Failure("deadlock", "Deadlock", f"this wait would never end: {way}", retriable=False)
