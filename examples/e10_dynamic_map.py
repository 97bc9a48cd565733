"""`map` also fans out over a list that no one knows yet: over a ref. The body does not wait for it.

Prints how often each digit of 2 to the power of 40 occurs, of those digits that do.
"""

from dagengine import task, workflow


@task
def digits(number: int) -> list[str]:
    return sorted(set(str(number)))


@task
def count(digit: str, number: int) -> tuple[str, int]:
    return digit, str(number).count(digit)


@task
def table(counts: list[tuple[str, int]]) -> str:
    return "\n".join(f"{digit}: {'#' * times}" for digit, times in counts)


@workflow
def digit_counts(number: int = 2**40) -> str:
    found = digits(number)
    counts = count.map(found, number)  # as many steps as digits() finds: one ref, to the list of their results
    return table(counts)


if __name__ == "__main__":
    print(digit_counts.run())
