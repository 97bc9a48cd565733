"""A workflow that waits for a person, in a file of its own: processes that are killed run it."""

from __future__ import annotations

import dagengine


@dagengine.workflow
def asks() -> list[object]:
    number = dagengine.random()
    print("drew", number, flush=True)
    answer = dagengine.wait_event("answer")
    return [number, answer]
