"""Ownership in a store of one machine: an owner owns its runs for as long as it can be proved to live. Imports model only."""

from __future__ import annotations

from dagengine.model import ProcessRecord


class Unleased:
    """What a `Store` says of leases that has none."""

    lease: float | None = None

    def hurry(self) -> None: ...

    def renew(self, process: ProcessRecord) -> dict[int, bool]:
        return {}

    def listen(self, process: ProcessRecord, seconds: float) -> None: ...

    def wake(self, process: ProcessRecord) -> None: ...
