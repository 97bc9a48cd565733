"""Calling a workflow's body, on a thread of its own, and answering what it asks.

A call becomes a new step, or on replay is found by its key among the recorded ones and held against it. Waiting hands
out recorded ends. When the run stops under the body, what it does next raises `BodyStopped`, which no `except
Exception` of the user's catches, and the thread ends.

Everything here runs on the body's thread, except `stop` and what a `Waiter` is told, which the engine's thread calls.
"""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextvars import copy_context
from dataclasses import replace
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, Protocol

from dagengine.adopting import note_orphans
from dagengine.blocking import Blocking, watched_loop
from dagengine.calls import encode_call, same_call, set_aside, show_call
from dagengine.continuing import Continuation, record_successor
from dagengine.core.events import BodyMismatched, BodyRaised, BodyReturned, FailuresHandled, RefsDropped, StepKnown
from dagengine.errors import BadArguments, Rejected
from dagengine.failures import exception_of
from dagengine.model import Failure, Input, NewStep, RecordedCall, StepInput, StepKind, StepState
from dagengine.outside import value_of
from dagengine.refs import EphemeralRef, Ref, body_of
from dagengine.runtime.failures import describe_failure
from dagengine.scopes import Scope, branch_factory, outside
from dagengine.stateful_classes import Method, Proxy, Stateful
from dagengine.values import encode, encode_plain

if TYPE_CHECKING:
    from dagengine.definitions import Defined
    from dagengine.driver import Driver
    from dagengine.tasks import Task
    from dagengine.workflows import Workflow


NO_CALL = encode_plain(((), {})).to_bytes()
"""The call of a function that takes nothing."""


class BodyStopped(BaseException):
    """The run stops; the body is let go of, and called again on resume."""


class _Mismatched(BodyStopped):
    """The body called something else than what is recorded. Carries the failure."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


class Outcome:
    """How a step ended, for the body that waited for it."""

    __slots__ = ("_body", "_key", "_seq", "_state", "_value")

    def __init__(self, body: Body, ref: Ref, state: StepState, value: Any) -> None:
        self._body = body
        self._seq = ref._seq
        self._key = ref._key
        self._state = state
        self._value = value

    def value(self) -> Any:
        if self._state is not StepState.SUCCEEDED:
            raise self._body.delivered(self._seq, self._key)
        return self._value

    def value_or_exception(self) -> Any:
        return self._value if self._state is StepState.SUCCEEDED else self._body.delivered(self._seq, self._key)


class Waiting(Protocol):
    """Somebody on the body's side who is told of ends by the engine's thread."""

    def tell(self, seq: int, state: StepState) -> None: ...

    def stop(self) -> None:
        """The run stops: nothing more will be told."""


class End:
    """The end of one step."""

    def __init__(self) -> None:
        self.told: SimpleQueue[StepState | None] = SimpleQueue()

    def tell(self, seq: int, state: StepState) -> None:
        self.told.put(state)

    def stop(self) -> None:
        self.told.put(None)

    def wait(self, seconds: float) -> StepState | None:
        """None if the run stops, or if it takes too long."""
        try:
            return self.told.get(timeout=seconds)
        except Empty:
            return None


class Waiter:
    """The ends of some steps, in the order of completion. Steps that ended in an earlier process come first."""

    def __init__(self, body: Body, refs: Sequence[Ref]) -> None:
        self._body = body
        self._refs: dict[int, list[Ref]] = {}
        for ref in refs:
            body_of(ref)  # raises, if it is not this body's
            self._refs.setdefault(ref._seq, []).append(ref)
        self.left = len(refs)
        self._ready: deque[Outcome] = deque()
        self._told: SimpleQueue[tuple[int, StepState] | None] = SimpleQueue()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._wake = asyncio.Event()
        body.watch(self, list(self._refs))

    def tell(self, seq: int, state: StepState) -> None:
        """Called by the engine's thread, in the order of completion."""
        self._say((seq, state))

    def stop(self) -> None:
        self._say(None)

    def _say(self, told: tuple[int, StepState] | None) -> None:
        with self._body.blocking.told():
            self._told.put(told)
            self._wake_loop()

    def _wake_loop(self) -> None:
        if self._loop is not None:
            try:
                self._loop.call_soon_threadsafe(self._wake.set)
            except RuntimeError:  # the loop was closed: nobody waits any more
                self._loop = None

    def _take(self, told: tuple[int, StepState] | None) -> None:
        """Turn news into outcomes: together with all other news that is there, so that values are read at once."""
        news = [told]
        while not self._told.empty():
            news.append(self._told.get())
        if None in news:
            self._told.put(None)
            raise BodyStopped
        ends = [new for new in news if new is not None]
        with outside():
            values = self._body.driver.read_steps([seq for seq, state in ends if state is StepState.SUCCEEDED])
        for seq, state in ends:
            for ref in self._refs[seq]:
                self._ready.append(Outcome(self._body, ref, state, values.get(seq)))

    def next(self) -> Outcome:
        """The next end; blocks."""
        if not self._ready:
            self._body.blocking.until(self._told.empty)
            self._take(self._told.get())
        self.left -= 1
        return self._ready.popleft()

    async def next_async(self) -> Outcome:
        self._loop = asyncio.get_running_loop()
        while not self._ready:
            if self._told.empty():
                self._wake.clear()
                if self._told.empty():
                    await self._wake.wait()
                continue
            self._take(self._told.get())
        self.left -= 1
        return self._ready.popleft()

    async def all_async(self) -> None:
        while self.left:
            await self.next_async()


class Body:
    """One call of a workflow's body, in the service of a driver."""

    def __init__(self, driver: Driver, workflow: Workflow[..., Any], recorded: Iterator[RecordedCall] | None) -> None:
        self.driver = driver
        self.workflow = workflow
        self.workflow_name = driver.workflow_name
        self.run_id = driver.run_id
        self._replay = _Replay(recorded) if recorded is not None else None
        self._scope = Scope(self, driver.workflow_name)
        self._stopped = False
        self.blocking = Blocking()
        self._waiters: set[Waiting] = set()
        self._delivered: set[int] = set()  # failures given to the body, which has not gone on since
        self._raised: list[tuple[BaseException, int, int]] = []  # exceptions given, the step, the root of its failure
        self._thread = threading.Thread(
            target=copy_context().run, args=(self._main,), name=f"body-{self.run_id[:8]}", daemon=True
        )

    # ---- life -------------------------------------------------------------------------------

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Let go: whatever the body asks next raises BodyStopped. Called on the engine's thread."""
        self._stopped = True
        for waiter in list(self._waiters):
            waiter.stop()

    def join(self, timeout: float) -> bool:
        """Wait for the thread's end; False if it does not come (the body calculates, or blocks on something else)."""
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _main(self) -> None:
        try:
            args, kwargs = self.driver.read_arguments()
            self._scope.enter()
            returned = self._returned(args, kwargs)
            self._went_on()
            if self._replay is not None:
                left = self._replay.left()
                if self.driver.shared is not None:
                    self.driver.shared.leave(left)
                note_orphans(self.driver, left)
            self.driver.post(returned)
        except _Mismatched as mismatch:
            self.driver.post(BodyMismatched(mismatch.failure))
        except BodyStopped:
            pass
        except BaseException as error:
            self.driver.post(self._raised_event(error))

    def _returned(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> BodyReturned:
        try:
            result = self._call(args, kwargs)
        except Continuation as asked:
            return record_successor(self, asked)
        return BodyReturned(*encode_call((result,), {}, f"the result of {self.workflow_name}", self.driver.keep, self))

    def _call(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        function = self.workflow.function
        if not inspect.iscoroutinefunction(function):
            return function(*args, **kwargs)
        with asyncio.Runner(loop_factory=lambda: watched_loop(self.blocking)) as runner:
            runner.get_loop().set_task_factory(_factory)
            return runner.run(function(*args, **kwargs))

    def _raised_event(self, error: BaseException) -> BodyRaised:
        """The body's failure; names the step that it came from, if it came from one."""
        trace = error.__traceback__
        while trace is not None and trace.tb_frame.f_code.co_filename == __file__:
            trace = trace.tb_next  # the way from this module to the user's function
        failure = describe_failure(error.with_traceback(trace or error.__traceback__))
        for part in _chain(error):
            for raised, seq, root in self._raised:
                if raised is part:
                    key = self.driver.key_of(root)
                    facts = {"step": key, "failed": [key], "count": 1}
                    return BodyRaised(replace(failure, facts=facts), (seq, root))
            if isinstance(part, Rejected):  # the step that asked has succeeded: it has its answer
                return BodyRaised(replace(failure, facts={"step": part.key}))
        return BodyRaised(failure)

    # ---- calls ------------------------------------------------------------------------------

    def call(self, scope: Scope, task: Task[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Ref:
        """A call of a task in `scope`: the ref of its step. Raises BadArguments, Unpicklable."""
        task.check_arguments(args, kwargs)
        return self._record(scope.key(task.name, task.settings.key), StepKind.TASK, task, args, kwargs)

    def create(self, scope: Scope, stateful: Stateful, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Proxy:
        """The making of a stateful object in `scope`. Raises BadArguments, Unpicklable."""
        stateful.check_arguments(args, kwargs)
        ref = self._record(scope.key(stateful.name), StepKind.CREATE, stateful, args, kwargs)
        return Proxy(self, stateful, ref._seq, ref._key, scope)

    def call_method(
        self, method: Method, instance: int, key: str, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Ref:
        """A call on the stateful object that step `instance` makes: the ref of its step."""
        method.check_arguments(args, kwargs)
        return self._record(key, method.kind, method, args, kwargs, further=(StepInput(instance),))

    def map_now(
        self, scope: Scope, task: Task[..., Any], items: Iterable[Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> list[Ref]:
        if isinstance(items, (str, bytes)):
            raise BadArguments(f"{task.name}.map over a string would call it for each character. Put it in a list.")
        what = f"a call of {task.name}"
        args = tuple(set_aside(value, what, self.driver.keep) for value in args)
        kwargs = {name: set_aside(value, what, self.driver.keep) for name, value in kwargs.items()}
        return [self.call(scope, task, (item, *args), kwargs) for item in items]

    def map_later(
        self, scope: Scope, task: Task[..., Any], items: Ref, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Ref:
        task.check_arguments((items, *args), kwargs)
        key = scope.key(f"{task.name}.map", task.settings.key)
        return self._record(key, StepKind.MAP, task, (items, *args), kwargs)

    def call_outside(self, key: str, kind: StepKind, called: Defined, args: tuple[Any, ...], **kwargs: Any) -> Ref:
        """A step that the world ends: the ref of it."""
        return self._record(key, kind, called, args, kwargs)

    def known(self, key: str, called: Defined, compute: Callable[[], Any]) -> Any:
        """A value that the body computes itself, once: on replay it is the recorded one.

        It is not waited for: what the body does with it is recorded after it, so nothing is ever built on another one.
        """
        if self._stopped:
            raise BodyStopped
        definition, new_definition = self.driver.definitions.of(called)
        self._went_on()
        recorded = self._replay.find(key) if self._replay is not None else None
        if recorded is not None and self._stands(
            recorded, NewStep(recorded.seq, key, StepKind.RECORDED, definition, NO_CALL, ())
        ):
            return self.driver.read_steps([recorded.seq])[recorded.seq]
        value = compute()
        step = NewStep(self.driver.take_seqs(), key, StepKind.RECORDED, definition, NO_CALL, ())
        self.driver.post_known(StepKnown(new_definition, step, value_of(encode(value).to_bytes())))
        return value

    def _record(
        self,
        key: str,
        kind: StepKind,
        called: Defined,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        *,
        further: tuple[StepInput, ...] = (),
    ) -> Ref:
        if self._stopped:
            raise BodyStopped
        call, inputs = encode_call(args, kwargs, f"the call {key}", self.driver.keep, self)
        if further:
            inputs += further
        if kind in (StepKind.CREATE, StepKind.METHOD):
            self._refuse_ephemeral(key, inputs)
        definition, new_definition = self.driver.definitions.of(called)
        self._went_on()
        if self._replay is not None:
            recorded = self._replay.find(key)
            if recorded is not None and self._stands(
                recorded, NewStep(recorded.seq, key, kind, definition, call, inputs)
            ):
                if recorded.state.ended:
                    self.driver.ended_before(recorded)
                return self._ref(recorded.seq, key, definition)
        step = NewStep(self.driver.take_seqs(), key, kind, definition, call, inputs)
        self.driver.post_step(new_definition, step)
        return self._ref(step.seq, key, definition)

    def _ref(self, seq: int, key: str, definition: int) -> Ref:
        if self.driver.definitions[definition].options.get("checkpoint") is not False:
            return Ref(self, seq, key)
        self.driver.ephemeral.add(seq)
        return EphemeralRef(self, seq, key)

    def _refuse_ephemeral(self, key: str, inputs: tuple[Input, ...]) -> None:
        for item in inputs:
            if isinstance(item, StepInput) and item.seq in self.driver.ephemeral:
                raise BadArguments(
                    f"{key} would change its object's state with {self.driver.key_of(item.seq)}, whose value is not"
                    " recorded (checkpoint=False): after a crash the call could not be made again. Record that value."
                )

    def dropped(self, seq: int) -> None:
        """The body's ref to an ephemeral value is gone. Called wherever it was collected, so it only takes a note."""
        if not self._stopped:
            self.driver.post(RefsDropped((seq,)))

    def _stands(self, recorded: RecordedCall, called: NewStep) -> bool:
        """Whether the recorded step is what the body calls; False: it was shared, and is not any more.

        Raises _Mismatched if the body calls something else than what is recorded in this run under the same key.
        """
        was, now = self.driver.definitions[recorded.definition], self.driver.definitions[called.definition]
        before, after = (recorded.call, recorded.inputs), (called.call, called.inputs)
        same = was.name == now.name and recorded.kind is called.kind
        with outside():
            same = same and same_call(before, after, self.driver.reader.payload)
        shared = self.driver.shared
        if shared is not None and shared.has(recorded.seq):
            code = {was.fingerprint, now.fingerprint} - {""}
            return shared.stands(recorded, same and len(code) < 2)
        if not same:
            raise self._mismatch(called, show_call(was.name, before), show_call(now.name, after))
        return True

    def _mismatch(self, called: NewStep, before: str, after: str) -> _Mismatched:
        difference = f"- {before}\n+ {after}"
        message = (
            f"{called.key} was recorded as another call than the code makes now; the record stands. Put the code back as it"
            f" was, or fork the run, or let today's calls replace the recorded ones: dagengine resume {self.run_id[:8]}"
            " --adopt. If the body calls other things after a failure, name its calls: options(key=...)."
        )
        return _Mismatched(
            Failure(
                "mismatch",
                "dagengine.errors.RunMismatch",
                message,
                facts={
                    "key": called.key,
                    "difference": difference,
                    "step": called.key,
                    "seq": called.seq,
                    "below": self.driver.replayed_below,
                },
            )
        )

    # ---- waiting ----------------------------------------------------------------------------

    def waiter(self, refs: Sequence[Ref]) -> Waiter:
        return Waiter(self, refs)

    def watch(self, waiter: Waiter, seqs: list[int]) -> None:
        if self._stopped:
            raise BodyStopped
        self._waiters.add(waiter)
        self.driver.watch(seqs, waiter)
        if self._stopped:  # stopped in between: nobody else will tell this waiter
            waiter.stop()

    def end_of(self, watch: Callable[[Waiting], None]) -> StepState:
        """Wait for one step's end, of which `watch` lets the waiter know."""
        end = End()
        self._waiters.add(end)
        watch(end)
        if self._stopped:
            end.stop()
        state = end.told.get()
        self._waiters.discard(end)
        if state is None:
            raise BodyStopped
        return state

    def wait(self, refs: Sequence[Ref]) -> list[Outcome]:
        """The outcomes in the order of `refs`, once all have ended."""
        waiter = Waiter(self, refs)
        found: dict[int, Outcome] = {}
        while waiter.left:
            outcome = waiter.next()
            found[outcome._seq] = outcome
        self._waiters.discard(waiter)
        return [found[ref._seq] for ref in refs]

    async def wait_async(self, ref: Ref) -> Any:
        waiter = Waiter(self, [ref])
        outcome = await waiter.next_async()
        self._waiters.discard(waiter)
        return outcome.value()

    def delivered(self, seq: int, key: str) -> BaseException:
        """The exception of a step that did not succeed, on its way to the body."""
        state, failure = self.driver.failure_of(seq)
        root = int(failure.facts.get("root_seq", seq))
        self._delivered.update({seq, root})
        with outside():
            error = exception_of(failure, key)
            if state is StepState.SKIPPED and root != seq:
                error.__cause__ = exception_of(self.driver.failure_of(root)[1], self.driver.key_of(root))
        self._raised.append((error, seq, root))
        return error

    def _went_on(self) -> None:
        """The body did something after it was given failures: it has handled them."""
        if self._delivered:
            self.driver.post(FailuresHandled(sorted(self._delivered)))
            self._delivered.clear()


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The exception and what it came from, each once; also the parts of groups."""
    queue, seen = [error], set[int]()
    while queue:
        part = queue.pop(0)
        if id(part) not in seen:
            seen.add(id(part))
            yield part
            queue += part.exceptions if isinstance(part, BaseExceptionGroup) else ()
            queue += [other for other in (part.__cause__, part.__context__) if other is not None]


def _factory(loop: asyncio.AbstractEventLoop, coroutine: Any, **options: Any) -> Any:
    """The body's own main task is not a branch; every task made from then on is."""
    loop.set_task_factory(branch_factory)
    return asyncio.Task(coroutine, loop=loop, **options)


class _Replay:
    """Recorded calls by key, read in the order of recording, which is close to the order in which they are asked for."""

    def __init__(self, recorded: Iterator[RecordedCall]) -> None:
        self._recorded = recorded
        self._passed: dict[str, RecordedCall] = {}

    def find(self, key: str) -> RecordedCall | None:
        if key in self._passed:
            return self._passed.pop(key)
        for call in self._recorded:
            if call.key == key:
                return call
            if not _is_item(call):
                self._passed[call.key] = call
        return None

    def left(self) -> list[RecordedCall]:
        """The calls that were not asked for."""
        return [*self._passed.values(), *(call for call in self._recorded if not _is_item(call))]


def _is_item(call: RecordedCall) -> bool:
    """Items of a map are not called by the body."""
    return ".map[" in call.key.rpartition("/")[0]
