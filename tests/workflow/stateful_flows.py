"""Stateful classes and workflows of theirs, for tests. What is executed is noted in a file, whichever process does it."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from dagengine import context, gather, get, readonly, stateful, task, workflow


def mark(ledger: str, what: str) -> None:
    """Note that this is executed."""
    descriptor = os.open(ledger, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(descriptor, f"{what}\n".encode())
    os.close(descriptor)


def executed(ledger: Path | str) -> list[str]:
    """What was executed, in its order."""
    path = Path(ledger)
    return path.read_text().splitlines() if path.exists() else []


def times(ledger: Path | str) -> Counter[str]:
    return Counter(executed(ledger))


def flag(ledger: str, name: str) -> bool:
    """Whether the test has set this flag: a file beside the ledger."""
    return Path(f"{ledger}.{name}").exists()


class Account:
    """The plain class under the stateful ones."""

    def __init__(self, ledger: str, start: int = 0) -> None:
        mark(ledger, "init")
        if flag(ledger, "no-account"):
            raise ValueError("no account today")
        self.ledger = ledger
        self.entries = [start]

    def add(self, amount: int) -> int:
        mark(self.ledger, f"add {amount}")
        self.entries.append(amount)
        if flag(self.ledger, f"no-{amount}"):
            raise ValueError(f"not {amount}")
        return sum(self.entries)

    async def add_later(self, amount: int) -> int:
        return self.add(amount)

    @readonly
    def total(self) -> int:
        mark(self.ledger, "total")
        if flag(self.ledger, "no-total"):
            raise ValueError("no total")
        return sum(self.entries)

    @readonly
    def history(self) -> list[int]:
        return list(self.entries)

    @staticmethod
    def currency() -> str:
        return "EUR"


@stateful
class Saved(Account):
    """Saved with every call."""


@stateful(checkpoint_every=3)
class Seldom(Account):
    """Saved with every third call."""


@stateful(retries=2, retry_delay=0.0)
class Stubborn(Account):
    """The first attempt at a call fails, after it has changed half of the state."""

    def add(self, amount: int) -> int:
        total = super().add(amount)
        if context().attempt == 1:
            raise OSError("not yet")
        return total


@stateful
class Heavy(Account):
    """Its state is larger than a row takes."""

    def __init__(self, ledger: str) -> None:
        super().__init__(ledger)
        self.weight = np.zeros(10_000)

    def add(self, amount: int) -> int:
        self.weight = self.weight + amount  # what was restored is read-only
        return super().add(amount)

    def both_large(self) -> Any:
        self.weight = self.weight + 1
        return self.weight


@stateful
class Notebook:
    """Says itself what its state is."""

    def __init__(self, ledger: str) -> None:
        self.ledger = ledger
        self.pages: list[str] = []
        self.cannot_be_pickled = open(os.devnull)  # noqa: SIM115 - closed with the object

    def __del__(self) -> None:
        if "cannot_be_pickled" in self.__dict__:
            self.cannot_be_pickled.close()

    def write(self, page: str) -> int:
        self.pages.append(page)
        return len(self.pages)

    def checkpoint(self) -> tuple[str, list[str]]:
        return self.ledger, self.pages

    def restore(self, state: tuple[str, list[str]]) -> None:
        mark(state[0], "restore")
        self.__init__(state[0])  # type: ignore[misc]
        self.pages = state[1]

    def tear(self) -> int:
        raise ValueError("torn")


@stateful
class Unpicklable:
    """Its state can't be saved."""

    def __init__(self) -> None:
        self.file = (number for number in range(3))

    def touch(self) -> int:
        return 1


@task
def number(amount: int) -> int:
    return amount


@task
def failing() -> int:
    raise ValueError("never")


@task
def an_account(ledger: str) -> Saved:
    return Saved(ledger, 40)


@task
def total_of(account: Account) -> int:
    return sum(account.entries)


KINDS: dict[str, Any] = {"saved": Saved, "seldom": Seldom, "stubborn": Stubborn, "heavy": Heavy}


@workflow
def adding(ledger: str, kind: str, amounts: list[int]) -> tuple[list[int], int]:
    """Calls one after the other, then a look at the state."""
    account = KINDS[kind](ledger)
    totals = [account.add(amount) for amount in amounts]
    return totals, account.total()


@workflow
def stepwise(ledger: str, kind: str, amounts: list[int]) -> int:
    """The body waits for each call, and goes on after one that failed."""
    account = KINDS[kind](ledger)
    for amount in amounts:
        try:
            get(account.add(number(amount)))
        except ValueError:
            continue
    total: int = get(account.total())
    return total


@workflow
def two_accounts(ledger: str) -> list[int]:
    """Each has a state of its own."""
    one, other = Saved(ledger, 1), Saved(ledger, 100)
    for amount in (1, 2):
        one.add(amount)
        other.add(amount)
    return gather([one.total(), other.total()])
