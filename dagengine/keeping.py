"""Making durable what came from the workers: large results, and what attempts note, become artifacts.

Bytes are written and synced on a helper thread; only then does the run hear of them. So nothing is recorded that names an
artifact which a crash could take away.

May import base modules, attempts, the runtime's protocol and the interface of the artifacts.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from dagengine.attempts import shared_parts
from dagengine.model import Value
from dagengine.runtime.protocol import Content, SharedObject, Succeeded

if TYPE_CHECKING:
    from dagengine.driver import Driver
    from dagengine.engine import Engine


class Keeping:
    """Of one engine. On its thread, except `_keep`."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._verified: set[str] = set()  # digests

    def must_verify(self, digest: str) -> bool:
        """Whether the artifact's bytes are yet to be held against the digest: the first time this process uses them."""
        if digest in self._verified:
            return False
        self._verified.add(digest)
        return True

    def keep_result(self, driver: Driver, event: Succeeded) -> None:
        """Make a large result durable; then the driver is told."""
        self._keep_for(driver, [shared for _, _, shared in shared_parts(event)], lambda: event)

    def keep_content(self, driver: Driver, content: Content, event: Callable[[Value], Any]) -> None:
        """Make what was read from the runtime durable; then the driver is told what `event` makes of it."""
        digest = content.digest or None
        if content.data is not None:
            value = Value(digest or sha256(content.data).hexdigest(), content.size, content.data)
            self._engine.tell(driver, event(value))
            return
        shared = content.shared
        assert shared is not None
        self._keep_for(driver, [shared], lambda: event(Value(shared.digest, content.size)))

    def _keep_for(self, driver: Driver, parts: list[SharedObject], told: Callable[[], Any]) -> None:
        self._engine.helpers.work_for(driver, partial(self._keep, driver, parts, told))

    def _keep(self, driver: Driver, parts: list[SharedObject], told: Callable[[], Any]) -> None:
        try:
            for shared in parts:
                if not shared.digest:
                    shared.digest = sha256(shared.view()).hexdigest()
                self._engine.artifacts.put(shared.digest, shared.size, shared.fileno(), shared.offset)
                self._verified.add(shared.digest)
        finally:
            for shared in parts:
                shared.close()
        self._engine.tell(driver, told())
