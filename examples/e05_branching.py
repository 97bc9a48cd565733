"""A body may wait for values, branch on them, and loop until it has what it wants. After a crash it is called again,
and its calls of recorded steps are answered at once.

Prints the square root of 2 and how many steps it took.
"""

from dagengine import get, task, workflow


@task
def improve(guess: float, number: float) -> float:
    return (guess + number / guess) / 2


@task
def error_of(guess: float, number: float) -> float:
    return abs(guess * guess - number)


@task
def refuse(number: float) -> str:
    return f"{number} has no real square root"


@workflow
def square_root(number: float = 2.0) -> str:
    if number < 0:
        return refuse(number)
    guess, rounds = 1.0, 0
    while get(error_of(guess, number)) > 1e-9:
        guess = improve(guess, number)  # a ref, handed on to the next round unread
        rounds += 1
    return f"{get(guess):.6f} after {rounds} rounds"


if __name__ == "__main__":
    print(square_root.run())
