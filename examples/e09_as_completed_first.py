"""`as_completed` gives values in the order in which steps end, `first` the one that ends first. The order is recorded,
so a body that is called again after a crash sees the same one.

Prints three results in the order in which they were there, and the winner of a race.
"""

from dagengine import as_completed, first, task, workflow


@task
def stage(name: str, after: str) -> str:
    return f"{after} > {name}" if after else name


@workflow
def relay() -> tuple[list[str], str]:
    one = stage("one", "")
    two = stage("two", one)
    three = stage("three", two)
    winner = first([three, one])
    return list(as_completed([three, two, one])), winner


if __name__ == "__main__":
    in_order, winner = relay.run()
    print(*in_order, sep="\n")
    print(f"winner: {winner}")
