"""The runtime without a workflow: functions as tasks, a class as an actor, values as objects. Nothing is recorded.

Prints the sum of a million numbers, counted in four parts by two workers; what an actor has seen of it; and the parts
as a generator makes them.
"""

from __future__ import annotations

from collections.abc import Iterator

import dagengine.runtime as rt


@rt.remote
def part_sum(numbers: range, part: int, parts: int) -> int:
    return sum(numbers[part::parts])


@rt.remote
def total(*sums: int) -> int:
    return sum(sums)


@rt.remote
def squares(most: int) -> Iterator[int]:
    for number in range(most):
        yield number * number


class Witness:
    def __init__(self) -> None:
        self.seen: list[int] = []

    def see(self, value: int) -> int:
        self.seen.append(value)
        return len(self.seen)


if __name__ == "__main__":
    with rt.start(workers=2):
        numbers = rt.put(range(1_000_001))
        sums = [part_sum.remote(numbers, part, 4) for part in range(4)]
        print(f"{rt.get(total.remote(*sums)):,}")  # the parts go from worker to worker

        witness = rt.remote(Witness).options(name="witness").remote()
        seen = [witness.see.remote(each) for each in sums]
        print(f"seen: {rt.get(seen)[-1]}")

        print(*(rt.get(ref) for ref in squares.remote(5)))
