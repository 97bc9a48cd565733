"""A query as a step, its values kept for the next run, and a test that kills the workflow at every write.

Prints the total twice, how often the query was asked, and what the test of crashes says.
"""

from __future__ import annotations

import sqlite3
import tempfile
from typing import TYPE_CHECKING

from dagengine import Cache, sql, task, workflow
from dagengine.testing import crash_everywhere, memory_engine

if TYPE_CHECKING:
    import pyarrow as pa


@task
def total(rows: pa.Table) -> float:
    return float(sum(rows["km"].to_pylist()))


@workflow
def distance(url: str, month: int) -> float:
    query = "SELECT km FROM trip WHERE month = :month"
    return total(sql(query, url=url, params={"month": month}, cache=Cache(max_age="1h")))


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        with sqlite3.connect(f"{folder}/trips.db") as connection:
            connection.execute("CREATE TABLE trip (month INTEGER, km REAL)")
            connection.executemany("INSERT INTO trip VALUES (?, ?)", [(1, 2.5), (1, 4.0), (2, 8.0)])
        url = f"sqlite:///{folder}/trips.db"

        with memory_engine() as engine:
            first = engine.start(distance, url, 1)
            print(first.result())
            second = engine.start(distance, url, 1)
            print(second.result())
            asked = [step.attempts for run in (first, second) for step in run.steps() if step.task == "sql"]
            print("asked:", asked)

        report = crash_everywhere(distance, url, 1)
        print("the same after every crash:", report.state, report.result)


if __name__ == "__main__":
    main()
