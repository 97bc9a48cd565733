"""One workload on DBOS, in a process whose Python has DBOS installed; nothing of ours is imported.

PYTHON benchmarks/dbos_child.py URL WORKLOAD N     prints the seconds that it took, warm, as JSON
"""

# mypy: ignore-errors

from __future__ import annotations

import asyncio
import json
import sys
import time

from dbos import DBOS  # pyright: ignore[reportMissingImports]


@DBOS.step()
def increment(number: int) -> int:
    return number + 1


@DBOS.step()
async def increment_beside(number: int) -> int:
    return number + 1


@DBOS.workflow()
def steps(n: int) -> int:
    value = 0
    for _ in range(n):
        value = increment(value)
    return value


@DBOS.workflow()
async def fan(n: int) -> int:
    source = await increment_beside(0)
    return len(await asyncio.gather(*(increment_beside(source) for _ in range(n))))


@DBOS.workflow()
def one(number: int) -> int:
    return increment(number)


def runs(n: int) -> int:
    handles = [DBOS.start_workflow(one, number) for number in range(n)]
    return sum(handle.get_result() > 0 for handle in handles)


def queued(n: int) -> int:
    handles = [DBOS.enqueue_workflow("bench", one, number) for number in range(n)]
    return sum(handle.get_result() > 0 for handle in handles)


WORK = {"steps": steps, "fan": lambda n: asyncio.run(fan(n)), "runs": runs, "queued": queued}


def main() -> None:
    url, name, n = sys.argv[1], sys.argv[2], int(sys.argv[3])
    DBOS(config={"name": "bench", "system_database_url": url, "log_level": "ERROR"})
    DBOS.launch()
    DBOS.register_queue("bench")
    WORK[name](10)
    began = time.perf_counter()
    found = WORK[name](n)
    seconds = time.perf_counter() - began
    assert found == n, (found, n)
    print(json.dumps({"seconds": seconds}), flush=True)
    DBOS.destroy()


if __name__ == "__main__":
    main()
