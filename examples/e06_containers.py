"""Refs are found in lists, tuples, dicts, sets, dataclasses and named tuples, and arrive in the task as their values.

Prints a summary of three words by length, and the longest.
"""

from dataclasses import dataclass

from dagengine import task, workflow


@dataclass(frozen=True)
class Summary:
    title: str
    lengths: dict[str, int]
    longest: str


@task
def length(word: str) -> int:
    return len(word)


@task
def longest(lengths: dict[str, int]) -> str:
    return max(lengths, key=lambda word: lengths[word])


@task
def render(summary: Summary) -> str:
    rows = [f"{word:>10} {length}" for word, length in summary.lengths.items()]
    return "\n".join([summary.title, *rows, f"longest: {summary.longest}"])


@workflow
def summarise(words: tuple[str, ...] = ("step", "workflow", "run")) -> str:
    lengths = {word: length(word) for word in words}  # a dict of refs
    return render(Summary("Words", lengths, longest(lengths)))  # a dataclass with refs in two places


if __name__ == "__main__":
    print(summarise.run())
