"""What an attempt needs of the process around it: somewhere to put its results.

`execution.Executor` makes attempts and knows no sockets. A worker process has a `Host` that talks to its controller
(workplace.py); a runtime that runs tasks in its own process has one that does the same without any messages.

May import nothing of ours but values and runtime.{messages,protocol}.
"""

from __future__ import annotations

from typing import Any, Protocol

from dagengine.runtime.messages import Written, Yield
from dagengine.runtime.protocol import TaskId
from dagengine.values import Encoded


class Flow(Protocol):
    """Says how many items a stream may make."""

    def must_wait(self, index: int) -> bool:
        """Whether `may_make` would have to wait."""

    def may_make(self, index: int) -> bool:
        """Wait until item `index` may be made. False: nobody wants more."""

    def give_up(self) -> None:
        """Let a `may_make` that waits on another thread return False."""

    def close(self) -> None:
        """The stream has ended."""


class Host(Protocol):
    """Thread-safe."""

    def store(self, encoded: Encoded, hashed: bool, task: TaskId) -> Written:
        """Hand over an encoded value above model.INLINE_LIMIT. `hashed`: with its digest. Raises ObjectStoreFull."""

    def hand_item(self, item: Yield) -> None:
        """A stream has made an item."""

    def flow(self, task: TaskId, ahead: int) -> Flow:
        """A stream begins, and may make `ahead` items that nobody has read."""

    def open(self, packed: Any) -> Any:
        """The value of an input as messages.pack_input writes it. Raises what inputs.Inputs.open does."""
