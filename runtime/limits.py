"""What can never run here, said in one line.

May import nothing of ours but runtime.protocol.
"""

from __future__ import annotations

from dagengine.runtime.protocol import Resources


def misfit(asked: Resources, capacity: Resources) -> str | None:
    """Why a task that asks for this could never run, or None. Depends on nothing that changes."""
    if asked.cpus > capacity.cpus:
        return (
            f"a task asks for {asked.cpus:g} cpus, and there are {capacity.cpus:g}: ask for less or give more workers"
        )
    if asked.memory > capacity.memory:
        return f"a task asks for {asked.memory:,} bytes of memory, and there are {capacity.memory:,}: ask for less"
    return None
