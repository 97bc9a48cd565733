"""A failed attempt is tried again, with growing delays, if the task has `retries` left and `retry_on` says so.

Prints that a busy service answered at attempt 3, and that a request it refused was not tried again.
"""

from dagengine import context, get, task, workflow


def may_pass(error: BaseException) -> bool:
    """A predicate on the exception; a type or a tuple of types will do, too."""
    return isinstance(error, ConnectionError)


@task(retries=5, retry_delay=0.01, backoff=2, jitter=0.1, retry_on=may_pass)
def ask(question: str) -> str:
    attempt = context().attempt
    if not question.endswith("?"):
        raise ValueError(f"not a question, at attempt {attempt}")
    if attempt < 3:
        raise ConnectionError("busy")
    return f"answered at attempt {attempt}"


@workflow
def ask_twice() -> list[str]:
    answer = ask("What holds Debian up?")
    try:
        refused = get(ask("libc6."))
    except ValueError as error:  # the task's own exception
        refused = f"refused: {error}"
    return [get(answer), refused]


if __name__ == "__main__":
    print(*ask_twice.run(), sep="\n")
