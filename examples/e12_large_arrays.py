"""NumPy arrays and Arrow tables cross between processes without being copied: consumers map what the producer wrote,
read-only. Values over 16 KiB lie in files named by their digest.

Prints the size of the array that four steps read, their sums, and the total of an Arrow column.
"""

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from dagengine import task, workflow

Numbers = npt.NDArray[np.int64]


@task
def count_up(size: int) -> Numbers:
    return np.arange(size)


@task
def add_quarter(quarter: int, numbers: Numbers) -> int:
    assert not numbers.flags.writeable  # the mapped file: to change it, copy it
    part = np.array_split(numbers, 4)[quarter]  # a view: only this quarter's pages are read
    return int(part.sum())


@task
def tabulate(numbers: Numbers) -> pa.Table:
    return pa.table({"number": numbers, "odd": numbers % 2 == 1})


@task
def add_odd(table: pa.Table) -> int:
    return int(table.filter(table["odd"])["number"].to_numpy().sum())


@task
def size_of(numbers: Numbers) -> str:
    return f"{numbers.nbytes / 1e6:.0f} MB"


@workflow
def sums(size: int = 4_000_000) -> tuple[str, list[int], int]:
    numbers = count_up(size)
    return size_of(numbers), add_quarter.map(range(4), numbers), add_odd(tabulate(numbers))


if __name__ == "__main__":
    size, quarters, odd = sums.run()
    print(size)
    print(*quarters)
    print(f"odd: {odd}")
