"""`map` makes one step of each item; they run in parallel, and `gather` waits for all. Refs can be handed on unread.

Prints the squares, [0, 1, 4, 9, 16, 25, 36, 49], and that their sum is 140.
"""

from dagengine import gather, task, workflow


@task
def power(base: int, exponent: int) -> int:
    return int(base**exponent)


@task
def add(numbers: list[int]) -> int:
    return sum(numbers)


@workflow
def sum_of_squares(count: int = 8) -> tuple[list[int], int]:
    squares = power.map(range(count), 2)  # a list of refs; the 2 goes to every call
    total = add(squares)  # starts as soon as all squares are recorded
    return gather(squares), total


if __name__ == "__main__":
    squares, total = sum_of_squares.run()
    print(squares)
    print(f"sum: {total}")
