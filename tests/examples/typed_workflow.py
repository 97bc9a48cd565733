"""A user's workflow as the documentation shows it, with what a type checker must make of it.

To a type checker, a call of a task in a workflow's body is the value, so that refs can be handed on where values are
expected. test_typing.py has mypy (strict) and pyright read this file, and never runs it.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import assert_type

from dagengine import MiB, Run, aio, as_completed, context, first, gather, get, readonly, stateful, task, workflow


@dataclass(frozen=True)
class Table:
    rows: int
    source: str


@task(retries=3, retry_delay=0.5, backoff=2.0, retry_on=(ConnectionError, TimeoutError), timeout=60.0)
def extract(month: int, source: str = "archive") -> Table:
    return Table(rows=month * context().attempt, source=source)


@task(memory=200 * MiB, cpus=1)
def merge(tables: list[Table]) -> Table:
    return Table(sum(table.rows for table in tables), "all")


@task
def months_of(year: int) -> list[int]:
    return list(range(1, 13 if year < 2024 else 7))


@task
async def publish(table: Table, to: str) -> str:
    await asyncio.sleep(0)
    return f"{table.rows} rows for {to}"


@workflow
def yearly(year: int, *, to: str = "everyone") -> str:
    tables = extract.map(range(1, 13), "mirror")
    assert_type(tables, list[Table])
    assert_type(extract.map(months_of(year)), list[Table])  # over a list that no one knows yet
    assert_type(extract.options(timeout=5, key="january")(1, source="tape"), Table)
    merged = merge(tables)
    assert_type(merged, Table)
    assert_type(get(merged), Table)
    assert_type(gather(tables), list[Table])
    assert_type(gather(tables, return_exceptions=True), list[Table | BaseException])
    assert_type(first(tables), Table)
    for table in as_completed(tables):
        assert_type(table, Table)
    assert_type(get(publish(merged, to)), str)  # an async task's value, not a coroutine
    return f"{year}: {get(merged).rows}"


@workflow(name="later")
async def async_yearly(year: int) -> list[str]:
    merged = merge(extract.map([1, 2]))
    assert_type(await aio.get(merged), Table)
    assert_type(await publish(merged, "everyone"), str)
    assert_type(await aio.gather([publish(merged, "one"), publish(merged, "two")]), list[str])
    assert_type(yearly(year, to="someone"), str)  # a workflow in a workflow: a scope of this run
    return [await aio.get(publish(merged, "everyone"))]


@stateful(gpus=0.5, checkpoint_every=5)
class Trainer:
    def __init__(self, rate: float) -> None:
        self.rate = rate
        self.loss = 1.0

    def epoch(self, table: Table) -> float:
        self.loss *= 1 - self.rate * table.rows / 1000
        return self.loss

    async def publish(self, to: str) -> str:
        return await publish.function(Table(1, "trainer"), to)

    @readonly
    def current(self) -> float:
        return self.loss


@stateful
class Log:
    lines: list[str]


@workflow
def train(rate: float) -> float:
    trainer = Trainer(rate)
    assert_type(trainer, Trainer)  # to a type checker, what a body has in hand is an object of the class
    table = merge(extract.map([1, 2]))
    losses = [trainer.epoch(table) for _ in range(3)]
    assert_type(losses, list[float])
    assert_type(trainer.current(), float)
    assert_type(get(trainer.publish("everyone")), str)
    trainer.epoch("table")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Trainer("fast")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    return get(losses[-1])


class BetterTrainer(Trainer):
    """Outside of a body the class is the plain class: it can be derived from."""


def use() -> None:
    """Outside of a body: runs."""
    assert_type(yearly(2013), str)
    assert_type(yearly.run(2013, to="someone"), str)
    run = yearly.start(2013)
    assert_type(run, Run[str])
    assert_type(run.result(), str)
    assert_type(async_yearly.run(2013), list[str])
    assert_type(async_yearly.start(year=2013), Run[list[str]])


def misuse() -> None:
    """What a type checker must refuse: an unused ignore is an error, so each of these lines has to be one."""
    extract("January")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    merge(extract(1))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    yearly.run("2013")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    stateful(checkpoint_evry=3)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    task(retires=3)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
