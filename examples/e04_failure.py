"""When a step fails, the steps that depend on it are skipped and all others finish; the body may look at what is left.

Prints two results, the failed step's own exception, and why the step after it did not run.
"""

from dagengine import gather, task, workflow


@task
def invert(number: int) -> float:
    return 1 / number


@task
def percent(share: float) -> str:
    return f"{share:.0%}"


@workflow
def shares() -> list[str]:
    inverted = invert.map([4, 0, 2])
    texts = percent.map(inverted)
    # Without return_exceptions, gather would raise the ZeroDivisionError; uncaught, it would fail the run.
    outcomes = gather([*texts, inverted[1]], return_exceptions=True)
    return [out if isinstance(out, str) else f"{type(out).__name__}: {out}" for out in outcomes]


if __name__ == "__main__":
    print(*shares.run(), sep="\n")
