"""One actor as the controller knows it: calls in their order, restarts, checkpoints, and its end.

The runtime knows incarnations: `(number, 0)`, `(number, 1)`, … each made by one "create" task. Its calls go out in the
order in which they were made. When its process dies, calls that had begun are lost (**at most once**: nobody knows what
they did), and those that had not go to the next incarnation, before all later ones. That one begins with the state of
the last checkpoint, or if there is none as the first did; what calls after the checkpoint did to the state is gone.

          its process died, restarts left          all calls of the incarnation told
    up ───────────────────────────────────▶ down ────────────────────────────────────▶ up, as the next incarnation
     │ constructor raised, no restarts left, killed, released
     └───────────────────────────────────▶ over: `failure` says why

All methods but `create` and `call` are called with the session's lock held.

May import nothing of ours but errors, model, values and runtime modules.
"""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from dagengine.errors import Infeasible, RuntimeStopped
from dagengine.model import Failure
from dagengine.runtime.calling import EncodedCall
from dagengine.runtime.handles import DONE, FAILED, Ref
from dagengine.runtime.owners import Owner, outcome
from dagengine.runtime.protocol import (
    ActorId,
    ActorWork,
    Content,
    Dropped,
    Lost,
    RuntimeEvent,
    Succeeded,
    TaskInput,
    TimedOut,
)
from dagengine.runtime.raising import actor_lost, cancelled, stopped
from dagengine.runtime.shapes import Shape
from dagengine.values import Encoded

if TYPE_CHECKING:
    from dagengine.runtime.session import Session


class Call(Owner):
    """One call of a method."""

    def __init__(self, actor: Actor, number: int, *, method: str, call: EncodedCall, shape: Shape, save: bool) -> None:
        super().__init__(actor.session)
        self.actor = actor
        self.number = number
        self.method = method
        self.call = call
        self.shape = shape
        self.save = save
        self.name = shape.name
        self.ref: Ref[Any] = Ref(actor.session, (number,), self.name)

    def succeeded(self, event: Succeeded) -> None:
        self.actor.finished(self)
        if event.state is not None:
            self.actor.saved(event.state)
        self.ref._contains = self.inside or None
        self.session.settle(self.ref, DONE, event.data)

    def failed(self, failure: Failure) -> None:
        self.session.settle(self.ref, FAILED, failure)

    def ended_badly(self, event: RuntimeEvent) -> None:
        self.actor.call_ended(self, event)


class Creation(Owner):
    """The "create" task of one incarnation."""

    def __init__(self, actor: Actor, incarnation: int) -> None:
        super().__init__(actor.session)
        self.actor = actor
        self.name = actor.name
        self._incarnation = incarnation

    def succeeded(self, event: Succeeded) -> None:
        self.actor.created()

    def failed(self, failure: Failure) -> None:
        self.actor.end(failure)

    def ended_badly(self, event: RuntimeEvent) -> None:
        if isinstance(event, Lost) or (isinstance(event, Dropped) and self.actor.down):
            self.actor.lost((self.actor.number, self._incarnation), outcome(event, self.name, None))
        else:
            self.actor.end(outcome(event, self.name, self.session.over))


class Actor:
    def __init__(
        self, session: Session, number: int, shape: Shape, call: EncodedCall, methods: tuple[str, ...]
    ) -> None:
        self.session = session
        self.number = number
        self.name = shape.name
        self.public = shape.options.name
        self.methods = methods
        self.failure: Failure | None = None
        self.down = False
        self._shape = shape
        self._call: EncodedCall = call
        self._restarts = shape.options.max_restarts
        self._every = shape.options.checkpoint_every
        self._calls = 0
        self._incarnation = 0
        self._sent: dict[int, Call] = {}
        self._shapes: dict[str, Shape] = {}
        self._queue: deque[Call] = deque()
        self._pumping = False
        self._rebuilding = False
        self._creating = False
        self._doubtful = False  # calls came back unbegun before it was told what became of the creation
        self._released = False
        self._state: Ref[Any] | None = None

    @property
    def over(self) -> bool:
        return self.failure is not None

    def _id(self) -> ActorId:
        return (self.number, self._incarnation)

    # ---- making it ----------------------------------------------------------------------------

    def create(self) -> None:
        """Without the lock. Raises Infeasible."""
        session = self.session
        number = next(session.numbers)
        work = ActorWork(self._id(), threads=self._shape.options.concurrency)
        if self._state is not None:
            work.state = session.inputs([self._state])[0]  # type: ignore[index]
        session.tasks[number] = Creation(self, self._incarnation)
        self._creating = True

        def spec(number: int, data: bytes, inputs: tuple[TaskInput, ...]) -> Any:
            return self._shape.actor_spec(number, data, inputs, work)

        session.send(number, spec, self._call, [])

    def created(self) -> None:
        self._creating = self._doubtful = False
        self._pump_later()

    def _begin_again(self) -> None:
        """On the housekeeper's thread, so that checkpoints that have come are kept by now."""
        try:
            self.create()
        except (Infeasible, RuntimeStopped) as error:
            with self.session.lock:
                self.end(actor_lost(self.name, str(error)))
        else:
            with self.session.lock:
                self.down = self._rebuilding = False
                self._pump_later()
        self.session.do_later()

    # ---- calls --------------------------------------------------------------------------------

    def call(self, method: str, call: EncodedCall, changes: dict[str, Any] | None) -> Ref[Any]:
        """Without the lock."""
        call_shape = self._shapes.get(method) if not changes else None
        if call_shape is None:
            call_shape = self._shape_of(method, changes)
        with self.session.lock:
            number = next(self.session.numbers)
            self._calls += 1
            save = self._every > 0 and self._calls % self._every == 0
            made = Call(self, number, method=method, call=call, shape=call_shape, save=save)
            made.ref._reads = (call.reads, call.holds)
            made.ref._unsure = self._restarts > 0
            made.ref._actor = self
            self.session.tasks[number] = made
            if self.failure is not None:
                self.session.tasks.pop(number)
                self.session.settle(made.ref, FAILED, self._gone())
                return made.ref
            self._queue.append(made)
            self._pump_later()
        self.session.do_later()
        return made.ref

    def _shape_of(self, method: str, changes: dict[str, Any] | None) -> Shape:
        options = replace(self._shape.options, timeout=None, name=None)
        if changes:
            options = options.changed(**changes)
        made = replace(self._shape, options=options, name=options.name or f"{self.name}.{method}")
        if not changes:
            self._shapes[method] = made
        return made

    def _pump_later(self) -> None:
        if self._queue and not self._pumping and not self.down and not self._doubtful:
            self._pumping = True
            self.session.later.append(self._pump)

    def _pump(self) -> None:
        """Without the lock: send what is next, as far as what it reads is known. One thread at a time does."""
        while True:
            with self.session.lock:
                if not self._queue or self.down or self._doubtful or self.failure is not None:
                    self._pumping = False
                    return
                call = self._queue[0]
                waits = [ref for ref in call.call.reads if ref._unsure]
                if not waits:
                    self._queue.popleft()
                    self._sent[call.number] = call
                    work = ActorWork(
                        self._id(),
                        call.method,
                        concurrent=self._shape.options.concurrency > 1,
                        save_state=call.save,
                    )
            if waits:
                self.session.when_settled(waits, self._pump_on)
                return
            call_shape = call.shape

            def spec(
                number: int,
                data: bytes,
                inputs: tuple[TaskInput, ...],
                call_shape: Shape = call_shape,
                work: ActorWork = work,
            ) -> Any:
                return call_shape.actor_spec(number, data, inputs, work)

            try:
                self.session.send(call.number, spec, call.call, [])
            except RuntimeStopped as error:
                with self.session.lock:
                    self.finished(call)
                    call.failed(stopped(str(error)))
            if call.ref._state == FAILED:
                with self.session.lock:
                    self.finished(call)

    def _pump_on(self) -> None:
        # The flag stays set while refs were waited for: nobody else may overtake the first in the queue.
        self._pump()

    def cancel(self, number: int) -> bool:
        """Whether the call was still here, and is dropped."""
        for call in self._queue:
            if call.number == number:
                self._queue.remove(call)
                self.session.tasks.pop(number, None)
                call.failed(cancelled(call.name))
                return True
        return False

    def finished(self, call: Call) -> None:
        self._sent.pop(call.number, None)
        self._after_an_end()

    def call_ended(self, call: Call, event: RuntimeEvent) -> None:
        if isinstance(event, Lost) and event.worker < 0 and self.failure is None:
            # It never began. The next incarnation, if there will be one, does it first.
            self._sent.pop(call.number, None)
            self.session.tasks[call.number] = call
            self._requeue(call)
            if self._creating:
                self._doubtful = True
            else:
                self._mark_down(event.failure)
        else:
            self._sent.pop(call.number, None)
            died = isinstance(event, (Lost, TimedOut)) or (isinstance(event, Dropped) and event.started)
            if isinstance(event, Lost):
                call.failed(self._gone() if self.failure is not None else actor_lost(self.name, event.failure.message))
            else:
                call.failed(outcome(event, call.name, self.session.over))
            if died:
                self._mark_down(event.failure if isinstance(event, Lost) else outcome(event, call.name, None))
        self._after_an_end()

    def _requeue(self, call: Call) -> None:
        # Calls of one caller have rising numbers; what was sent comes before what was not.
        before = sum(1 for other in self._queue if other.number < call.number)
        self._queue.insert(before, call)

    def before(self, number: int) -> list[int]:
        """The unfinished calls that have to end before that one begins."""
        if self._shape.options.concurrency > 1:
            return []
        return [other for other in (*self._sent, *(call.number for call in self._queue)) if other < number]

    # ---- its ends -----------------------------------------------------------------------------

    def lost(self, incarnation: ActorId, failure: Failure) -> None:
        if tuple(incarnation) == self._id() and self.failure is None:
            self._mark_down(failure)
            self._after_an_end()

    def _mark_down(self, failure: Failure) -> None:
        self._creating = self._doubtful = False
        if self.failure is not None or self.down:
            return
        if self._restarts == 0:
            self.end(actor_lost(self.name, failure.message))
            return
        self._restarts -= 1
        self.down = True

    def _after_an_end(self) -> None:
        if self.failure is not None or self._sent:
            return
        if self.down and not self._rebuilding:
            self._rebuilding = True
            self._incarnation += 1
            self.session.housekeeper.run(self._begin_again)
        elif self._released and not self._queue and not self.down:
            self._give_back(force=False)

    def saved(self, state: Content) -> None:
        """A checkpoint came with a result. It is kept as an object, where the limit of memory holds it."""

        def keep() -> None:
            if state.data is not None:
                encoded = Encoded([state.data], [])
            else:
                assert state.shared is not None
                encoded = Encoded([state.shared.view()], [])
                state.shared.close()
            try:
                ref = self.session.put_encoded(encoded)
            except Exception:
                # No room, or the end of the session: the older checkpoint stays.
                return
            with self.session.lock:
                self._state = ref

        self.session.housekeeper.run(keep)

    def release(self) -> None:
        """The last handle is gone: it ends when what was called is done."""
        self._released = True
        if self.failure is not None:
            self.session.actors.pop(self.number, None)
        elif not self._sent and not self._queue and not self.down:
            self._give_back(force=False)

    def kill(self) -> None:
        if self.failure is None:
            self.end(actor_lost(self.name, "it was killed"))

    def end(self, failure: Failure) -> None:
        """For good: whatever was not sent fails."""
        if self.failure is not None:
            return
        self.failure = failure
        queue, self._queue = self._queue, deque()
        for call in queue:
            self.session.tasks.pop(call.number, None)
            call.failed(self._gone())
        self._give_back(force=True)

    def _give_back(self, *, force: bool) -> None:
        if self.failure is None:
            self.failure = actor_lost(self.name, "its last handle is gone")
        self._state = None
        self._call = EncodedCall(self._call.data, [], [])
        if self._released:
            self.session.actors.pop(self.number, None)
        name = self._id()
        runtime, session = self.session.runtime, self.session

        def release() -> None:
            if session.over is None:
                runtime.release([name], force)

        self.session.later.append(release)

    def _gone(self) -> Failure:
        assert self.failure is not None
        return self.failure
