"""A small workflow for verbs that change and compare runs: fails where it is told to."""

from dagengine import task, workflow


@task
def load(name: str) -> int:
    return len(name)


@task
def double(value: int) -> int:
    return 2 * value


@task
def add(first: int, second: int) -> int:
    if second == 99:
        raise ValueError("no 99")
    return first + second


@workflow
def sums(name: str = "abc", last: int = 1) -> int:
    return add(double(load(name)), last)
