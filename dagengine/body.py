"""Calling a workflow's body, on a thread of its own, and answering what it asks.

A call becomes a new step, or on replay is answered by a recorded one (`replaying`). Waiting hands out recorded ends
(`ends`). When the run stops under the body, what it does next raises `BodyStopped`, which no `except Exception` of the
user's catches, and the thread ends.

Everything here runs on the body's thread, except `stop` and what a `Waiter` is told, which the engine's thread calls.
"""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextvars import copy_context
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from dagengine.blocking import Blocking, watched_loop
from dagengine.calls import encode_call, set_aside
from dagengine.continuing import Continuation, record_successor
from dagengine.core.events import BodyMismatched, BodyRaised, BodyReturned, FailuresHandled, RefsDropped, StepKnown
from dagengine.ends import BodyStopped, End, Outcome, Waiter, Waiting
from dagengine.errors import BadArguments, Rejected
from dagengine.failures import exception_of
from dagengine.model import Input, NewStep, StepInput, StepKind, StepState
from dagengine.outside import value_of
from dagengine.refs import EphemeralRef, Ref
from dagengine.replaying import Mismatched, Replay
from dagengine.runtime.failures import describe_failure
from dagengine.scopes import Scope, branch_factory, outside
from dagengine.stateful_classes import Method, Proxy, Stateful
from dagengine.values import encode, encode_plain

if TYPE_CHECKING:
    from dagengine.definitions import Defined
    from dagengine.stages import Stage
    from dagengine.tasks import Task
    from dagengine.workflows import Workflow


NO_CALL = encode_plain(((), {})).to_bytes()
"""The call of a function that takes nothing."""


class Body:
    """One call of a workflow's body, on a stage. `replay`: of what is recorded of its calls, if something is."""

    def __init__(self, stage: Stage, workflow: Workflow[..., Any], replay: Replay | None) -> None:
        self.stage = stage
        self.workflow = workflow
        self.workflow_name = stage.workflow_name
        self.run_id = stage.run_id
        self._replay = replay
        self._scope = Scope(self, stage.workflow_name)
        self.stopped = False
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
        self.stopped = True
        for waiter in list(self._waiters):
            waiter.stop()

    def join(self, timeout: float) -> bool:
        """Wait for the thread's end; False if it does not come (the body calculates, or blocks on something else)."""
        if self._thread.ident is None:  # the run ended before its body was called
            return True
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _main(self) -> None:
        try:
            args, kwargs = self.stage.read_arguments()
            self._scope.enter()
            returned = self._returned(args, kwargs)
            self._went_on()
            if self._replay is not None:
                self._replay.end()
            self.stage.post(returned)
        except Mismatched as mismatch:
            self.stage.post(BodyMismatched(mismatch.failure))
        except BodyStopped:
            pass
        except BaseException as error:
            self.stage.post(self._raised_event(error))

    def _returned(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> BodyReturned:
        try:
            result = self._call(args, kwargs)
        except Continuation as asked:
            return record_successor(self, asked)
        return BodyReturned(*encode_call((result,), {}, f"the result of {self.workflow_name}", self.stage.keep, self))

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
                    key = self.stage.key_of(root)
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
        args = tuple(set_aside(value, what, self.stage.keep) for value in args)
        kwargs = {name: set_aside(value, what, self.stage.keep) for name, value in kwargs.items()}
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
        if self.stopped:
            raise BodyStopped
        definition, new_definition = self.stage.definitions.of(called)
        self._went_on()
        if self._replay is not None:
            recorded = self._replay.answer(key, StepKind.RECORDED, definition, NO_CALL, ())
            if recorded is not None:
                return self.stage.read_steps([recorded.seq])[recorded.seq]
        value = compute()
        step = NewStep(self.stage.take_seqs(), key, StepKind.RECORDED, definition, NO_CALL, ())
        self.stage.post_known(StepKnown(new_definition, step, value_of(encode(value).to_bytes())))
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
        if self.stopped:
            raise BodyStopped
        call, inputs = encode_call(args, kwargs, f"the call {key}", self.stage.keep, self)
        if further:
            inputs += further
        if kind in (StepKind.CREATE, StepKind.METHOD):
            self._refuse_ephemeral(key, inputs)
        definition, new_definition = self.stage.definitions.of(called)
        self._went_on()
        if self._replay is not None:
            recorded = self._replay.answer(key, kind, definition, call, inputs)
            if recorded is not None:
                if recorded.state.ended:
                    self.stage.ended_before(recorded)
                return self._ref(recorded.seq, key, definition)
        step = NewStep(self.stage.take_seqs(), key, kind, definition, call, inputs)
        self.stage.post_step(new_definition, step)
        return self._ref(step.seq, key, definition)

    def _ref(self, seq: int, key: str, definition: int) -> Ref:
        if self.stage.definitions[definition].options.get("checkpoint") is not False:
            return Ref(self, seq, key)
        self.stage.ephemeral.add(seq)
        return EphemeralRef(self, seq, key)

    def _refuse_ephemeral(self, key: str, inputs: tuple[Input, ...]) -> None:
        for item in inputs:
            if isinstance(item, StepInput) and item.seq in self.stage.ephemeral:
                raise BadArguments(
                    f"{key} would change its object's state with {self.stage.key_of(item.seq)}, whose value is not"
                    " recorded (checkpoint=False): after a crash the call could not be made again. Record that value."
                )

    def dropped(self, seq: int) -> None:
        """The body's ref to an ephemeral value is gone. Called wherever it was collected, so it only takes a note."""
        if not self.stopped:
            self.stage.post(RefsDropped((seq,)))

    # ---- waiting ----------------------------------------------------------------------------

    def waiter(self, refs: Sequence[Ref]) -> Waiter:
        return Waiter(self, refs)

    def watch(self, waiter: Waiter, seqs: list[int]) -> None:
        if self.stopped:
            raise BodyStopped
        self._waiters.add(waiter)
        self.stage.watch(seqs, waiter)
        if self.stopped:  # stopped in between: nobody else will tell this waiter
            waiter.stop()

    def end_of(self, watch: Callable[[Waiting], None]) -> StepState:
        """Wait for one step's end, of which `watch` lets the waiter know."""
        end = End()
        self._waiters.add(end)
        watch(end)
        if self.stopped:
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
        state, failure = self.stage.failure_of(seq)
        root = int(failure.facts.get("root_seq", seq))
        self._delivered.update({seq, root})
        with outside():
            error = exception_of(failure, key)
            if state is StepState.SKIPPED and root != seq:
                error.__cause__ = exception_of(self.stage.failure_of(root)[1], self.stage.key_of(root))
        self._raised.append((error, seq, root))
        return error

    def _went_on(self) -> None:
        """The body did something after it was given failures: it has handled them."""
        if self._delivered:
            self.stage.post(FailuresHandled(sorted(self._delivered)))
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
