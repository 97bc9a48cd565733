"""What the running task may know of itself, and ask of the runtime around it.

The workflow layer reads `context` (`dagengine.contexts.context()`); runtime/client.py and owner.py use `link`. A module of its own, so
that reading it costs no more than a context variable: it imports nothing of ours but what type checkers want.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from dagengine.runtime.messages import Answer, Written
    from dagengine.runtime.protocol import TaskId
    from dagengine.values import Encoded

context: ContextVar[dict[str, Any] | None] = ContextVar("dagengine_task", default=None)
"""`TaskSpec.context` of the attempt that this code belongs to; None outside of attempts."""

task: ContextVar[TaskId | None] = ContextVar("dagengine_attempt", default=None)
"""The attempt that this code belongs to; None outside of attempts, and on threads that a task has started."""


inline: ContextVar[Callable[[Any, Encoded | None, bool], Answer] | None] = ContextVar("dagengine_inline", default=None)
"""What `owner` asks by where tasks run in the submitter's own process: (question, value, whether an answer is wanted)."""


class Terminated(SystemExit):
    """The worker was told to end (SIGTERM). Raised in the task that runs on its main thread, so that `with` and
    `finally` do what they are for; what is not done within the grace time, SIGKILL cuts off.

    A SystemExit, because what runs other people's code (asyncio, for one) lets that through, and ends in good order.
    """


class Link(Protocol):
    """A worker's way to its runtime. All of it may be used from any thread, on behalf of the attempt in `task`."""

    def ask(self, verb: str, body: Any, blocks: bool = False) -> Answer:
        """Ask, and wait for what is answered. `blocks`: no cpu is needed until then.

        Raises RuntimeStopped if no answer will come.
        """

    def tell(self, verb: str, body: Any) -> None:
        """An Ask that nobody answers. It is sent at once, and so before the result of the attempt."""

    def note(self, verb: str, item: Any) -> None:
        """The same for finalisers, which run anywhere: the items of a verb go together, as the body [item, …], with
        what is sent next, or when the worker has nothing to do."""

    def keep(self, encoded: Encoded) -> Written:
        """Hand an encoded value over so that an `ask` can name it; what is small is in what is returned.

        Raises ObjectStoreFull.
        """

    def open(self, packed: Any) -> Any:
        """The value of an input as an answer has it (messages.pack_input). Its arrays are not copied."""


link: Link | None = None
"""None outside of workers."""
