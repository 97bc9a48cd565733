"""A workflow called in a workflow is part of the same run; its steps get keys in a scope of its own.

Prints the cleaned texts of two sources, each with the key of the step that cleaned it.
"""

from dagengine import context, task, workflow


@task
def fetch(source: str) -> str:
    return f"  text of {source} "


@task
def clean(text: str) -> str:
    return f"{text.strip()} ({context().key})"


@workflow
def ingest(source: str) -> str:
    return clean(fetch(source))


@workflow
def library(sources: tuple[str, ...] = ("shelf", "box")) -> list[str]:
    return [ingest(source) for source in sources]


if __name__ == "__main__":
    print(*library.run(), sep="\n")
