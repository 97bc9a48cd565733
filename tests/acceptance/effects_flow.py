"""A workflow of effects, and a program that runs or resumes it and dies where it is told to.

    python effects_flow.py FOLDER begin|resume [commit before|after N]

The world is `world.db` in the folder, an SQLite file of its own: a ledger of parts, and a service that counts the jobs that it
was given. What the transactional task does is in the store's database. Prints how the run ended.
"""

from __future__ import annotations

import sqlite3
import sys
from pathlib import Path
from typing import Any

from sqlalchemy import text

from dagengine import Engine, Pending, context, get, task, workflow
from tests.acceptance.crash_flow import open_store_of, suicide


def world(folder: str, sql: str, *given: Any) -> list[Any]:
    connection = sqlite3.connect(f"{folder}/world.db", timeout=60)
    try:
        with connection:
            return connection.execute(sql, given).fetchall()
    finally:
        connection.close()


def make_world(folder: Path) -> None:
    world(str(folder), "CREATE TABLE IF NOT EXISTS ledger (what TEXT)")
    world(str(folder), "CREATE TABLE IF NOT EXISTS job (key TEXT PRIMARY KEY, submitted INTEGER, polls INTEGER)")


def note(folder: str, what: str) -> str:
    world(folder, "INSERT INTO ledger VALUES (?)", what)
    return what


@task
def parts(folder: str) -> list[str]:
    here = context()
    done = [here.once(name, lambda name=name: note(folder, name)) for name in ("one", "two")]  # type: ignore[misc]
    here.checkpoint(done)
    noted: list[str] = here.restored([])
    return noted


@task
def job(folder: str, before: list[str]) -> str:
    def submit(key: str) -> str:
        world(
            folder,
            "INSERT INTO job VALUES (?, 1, 0) ON CONFLICT (key) DO UPDATE SET submitted = submitted + 1",
            key,
        )
        return key

    def poll(key: str) -> Any:
        ((polls,),) = world(folder, "UPDATE job SET polls = polls + 1 WHERE key = ? RETURNING polls", key)
        return "done" if polls >= 3 else Pending

    def find(key: str) -> str | None:
        return key if world(folder, "SELECT 1 FROM job WHERE key = ?", key) else None

    result: str = context().external(submit, poll, find=find, every=0.0)
    return result


MAKE = "CREATE TABLE IF NOT EXISTS moved_by_effects (run TEXT, amount INTEGER)"


def move(amount: int) -> int:
    connection = context().connection
    connection.execute(text(MAKE))
    row = {"run": context().run_id, "amount": amount}
    connection.execute(text("INSERT INTO moved_by_effects VALUES (:run, :amount)"), row)
    return amount


@task(transactional=True)
def move_back(result: int, folder: str, before: str) -> int:
    return move(-result)


@task(transactional=True, undo=move_back)
def move_there(folder: str, before: str) -> int:
    return move(100)


@task(transactional=True)
def moves(moved: int) -> list[int]:
    """What is in the table; as a part of the result it shows up if a step counted twice."""
    found = context().connection.execute(
        text("SELECT amount FROM moved_by_effects WHERE run = :run"), {"run": context().run_id}
    )
    return [row[0] for row in found]


@task
def refuse(moved: list[int]) -> str:
    raise ValueError(f"moved {moved}")


@workflow(compensate=True)
def effects(folder: str) -> str:
    assert get(parts(folder)) == ["one", "two"]
    return refuse(moves(move_there(folder, job(folder, ["one", "two"]))))


def main(folder: Path, verb: str, *where: str) -> None:
    kind, when, count = (where[0], where[1], int(where[2])) if where else ("", "", 0)
    on_commit, _ = suicide(kind, when, count)
    make_world(folder)
    with Engine(open_store_of(folder, on_commit), home=folder, workers=1) as engine:
        run = engine.start(effects, str(folder)) if verb == "begin" else engine.resume("")
        run.wait()
        failure = run.failure
        print(run.state, "" if failure is None else failure.message)


if __name__ == "__main__":
    from tests.acceptance import effects_flow  # the workflow of the importable module, which workers find by name

    effects_flow.main(Path(sys.argv[1]), *sys.argv[2:])
