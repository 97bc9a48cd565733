"""Tags: what runs are called beside their workflow's name, so that some of them are found, and kept, apart from others.

`env=prod`, `team=data`: a name and a text each. A workflow may have tags for all of its runs; a run has these and its own, for
good. Child runs, forks and what a run goes on in have those of the run that they come from.

Pure. May import nothing of ours but errors and model.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from dagengine.errors import BadOption
from dagengine.model import RunRecord

NAME_LENGTH, VALUE_LENGTH = 64, 200
MOST = 32
"""Tags of one run. They are looked for among all runs of a store: they are words for people, not data."""

Wanted = tuple[tuple[str, str | None], ...]
"""What runs are looked for by: each name, with its text, or None for any."""


def checked(tags: Mapping[str, str]) -> dict[str, str]:
    """The tags as they are recorded, by name. Raises BadOption."""
    if not isinstance(tags, Mapping):
        raise BadOption(f"tags={tags!r} has to be a mapping of names to texts: {{'env': 'prod'}}.")
    for name, value in tags.items():
        _check("a tag's name", name, NAME_LENGTH)
        if "=" in name or name != name.strip():
            raise BadOption(f"a tag's name is {name!r}. Leave out = and spaces around it.")
        _check(f"tag {name}", value, VALUE_LENGTH)
    if len(tags) > MOST:
        raise BadOption(f"there are {len(tags)} tags. A run has {MOST} at most.")
    return {name: tags[name] for name in sorted(tags)}


def _check(what: str, text: object, length: int) -> None:
    if not isinstance(text, str) or not 1 <= len(text) <= length or not text.isprintable():
        raise BadOption(f"{what} is {text!r}. Give a text of 1 to {length} printable characters.")


def given(words: Iterable[str]) -> dict[str, str]:
    """From `env=prod` each. Raises BadOption."""
    found: dict[str, str] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals:
            raise BadOption(f"tag {word!r} has no value. Say {word}=VALUE.")
        if name in found:
            raise BadOption(f"tag {name!r} is given twice. Give it once.")
        found[name] = value
    return checked(found)


def wanted(words: Iterable[str]) -> Wanted:
    """From `env=prod`, or `env` for whatever text it has. Raises BadOption."""
    parts = [word.partition("=") for word in words]
    for name, equals, value in parts:
        checked({name: value if equals else "any"})
    return tuple((name, value if equals else None) for name, equals, value in parts)


def tags_of(run: RunRecord) -> dict[str, str]:
    """The run's own, by name."""
    found: dict[str, str] = run.facts.get("tags", {})
    return found


def fits(tags: Mapping[str, str], which: Wanted) -> bool:
    """Whether a run with these tags is one that is looked for."""
    return all(name in tags and value in (None, tags[name]) for name, value in which)
