"""Effects that count once: a part of a task is done once for all its attempts, and a run that fails undoes what it did.

Prints what the hotel was asked for, in order, and then why the run failed.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from dagengine import RunFailed, context, get, task, workflow


def ask_hotel(ledger: str, words: str) -> str:
    with Path(ledger).open("a") as file:
        file.write(words + "\n")
    return words.upper()


@task
def give_back(room: str, ledger: str, city: str) -> None:
    ask_hotel(ledger, f"give back {room}")


@task(undo=give_back, retries=1, retry_delay=0)
def book(ledger: str, city: str) -> str:
    room = context().once("room", lambda: ask_hotel(ledger, f"room in {city}"))
    if context().attempt == 1:
        raise TimeoutError("the confirmation did not come")  # the second attempt books no second room
    return room


@task
def pay(rooms: list[str]) -> str:
    raise ValueError(f"no money for {len(rooms)} rooms")


@workflow(compensate=True)
def trip(ledger: str) -> str:
    return pay([get(book(ledger, city)) for city in ("Rome", "Bern")])


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        try:
            trip.run(f"{folder}/ledger")
        except RunFailed as error:
            print(Path(folder, "ledger").read_text(), end="")
            print(error.__cause__)
