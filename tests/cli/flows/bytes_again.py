"""Values that are artifacts: one that is always the same, one that is not."""

import os

from dagengine import task, workflow


@task
def same(number: int) -> bytes:
    return bytes([number]) * 20_000


@task
def longer(data: bytes) -> bytes:
    return data * 2


@task
def random() -> bytes:
    return os.urandom(20_000)


@task
def size(first: bytes, second: bytes) -> int:
    return len(first) + len(second)


@workflow
def values() -> int:
    return size(longer(same(7)), random())
