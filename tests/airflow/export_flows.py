"""Workflows that tests/airflow/test_export.py writes as DAGs. A file, because that is where Airflow's workers find them."""

from __future__ import annotations

import time
from pathlib import Path

from dagengine import get, sql, task, workflow


@task
def part(number: int, into: str) -> dict[str, int]:
    """Leaves a line for each time that it runs."""
    with open(into, "a") as lines:
        lines.write(f"{number}\n")
    return {"number": number}


@task
def large(parts: list[dict[str, int]], size: int) -> bytes:
    """More than an XCom of Airflow is to hold."""
    return bytes(sum(found["number"] for found in parts)) * size


@task
def length(data: bytes, label: str) -> str:
    return f"{label}: {len(data)}"


@workflow
def measured(parts: list[dict[str, int]], size: int) -> bytes:
    return large(parts, size)


@workflow
def whole(into: str, count: int = 3, size: int = 100_000, label: str = "{{ bytes }}") -> str:
    return length(measured([part(number, into) for number in range(count)], size), label)


@task
def refuse(path: str) -> int:
    if not Path(path).exists():
        raise FileNotFoundError("nobody has allowed it")
    return 1


@task
def double(number: int) -> int:
    return 2 * number


@workflow
def gated(path: str, further: bool = True) -> int:
    first = refuse(path)
    return double(double(first)) if further else first


@workflow
def branching(into: str, least: int = 0) -> int:
    found = get(part(1, into))
    return double(found["number"]) if found["number"] > least else 0


@task
def hold(first: dict[str, int], gate: str) -> int:
    """Until somebody opens the gate; the test does."""
    while not Path(gate).exists():
        time.sleep(0.05)
    return first["number"]


@workflow
def held(into: str, gate: str) -> int:
    return hold(part(1, into), gate)


@workflow
def priced() -> int:
    return int(get(sql("SELECT count(*) AS n FROM orders", conn_id="shop_of_a_test"))["n"][0].as_py())
