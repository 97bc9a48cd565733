"""The ten most common names in the source of Python's standard library, counted in parallel.

Prints them, one a line. Typed again after a `kill -9`, `dagengine resume` goes on with the files that are not counted.
"""

import ast
from collections import Counter
from pathlib import Path

from dagengine import task, workflow


@task
def count(file: Path) -> Counter[str]:
    return Counter(node.id for node in ast.walk(ast.parse(file.read_bytes())) if isinstance(node, ast.Name))


@task
def top(counts: list[Counter[str]]) -> list[tuple[str, int]]:
    return sum(counts, Counter[str]()).most_common(10)


@workflow
def most_common_names() -> list[tuple[str, int]]:
    return top(count.map(sorted(Path(ast.__file__).parent.glob("*.py"))))


if __name__ == "__main__":
    for name, times in most_common_names.run():
        print(f"{times:7,} {name}")
