"""Workflows of the tests of `Client`. `attempts` says how often `breaks` was called, `FAILS` how often it fails."""

from __future__ import annotations

from dagengine import continue_with, sleep, task, workflow

attempts: list[int] = []
fails: list[bool] = []


class Broken(Exception):
    """An exception of the project's own."""


@task
def double(x: int) -> int:
    attempts.append(x)
    return 2 * x


@task(retries=0)
def breaks(x: int) -> int:
    attempts.append(-x)
    if fails and fails.pop():
        raise Broken(f"no {x}")
    return x + 1


@workflow
def doubled(x: int, by: str = "") -> int:
    return double(x)


@workflow
def other(x: int, by: str = "") -> int:
    return double(x)


@workflow
def broken(x: int) -> int:
    return breaks(double(x))


@workflow
def onward(left: int) -> int:
    if left:
        continue_with(left - 1)
    return double(21)


@workflow
def sleeper() -> None:
    sleep("1h")
