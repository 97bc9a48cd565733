"""The functions of a run under their numbers: each is recorded once, with its options, and steps name the number.

Numbers are given on the body's thread, and read by the engine's. May import model, functions and fingerprints.
"""

from __future__ import annotations

import json
from typing import Any, Protocol

from dagengine.functions import refer
from dagengine.model import Definition


class Settings(Protocol):
    """`to_json`: options, without those that have their defaults."""

    def to_json(self) -> dict[str, Any]: ...


class Defined(Protocol):
    """What a step can be a call of; `functions.refer` finds its name, or takes it by value. `name`: for people."""

    name: str

    @property
    def settings(self) -> Settings: ...


class Definitions:
    """Of one run, recorded and new ones."""

    def __init__(self) -> None:
        self._by_number: dict[int, Definition] = {}
        self._numbers: dict[str, int] = {}
        self._numbers_of: dict[Defined, int] = {}

    def __getitem__(self, number: int) -> Definition:
        return self._by_number[number]

    def learn(self, definition: Definition) -> None:
        """Take over a definition that is recorded."""
        self._by_number[definition.number] = definition
        self._numbers[_text(definition)] = definition.number

    def of(self, called: Defined) -> tuple[int, Definition | None]:
        """The number, and the definition if the run does not have it yet."""
        number = self._numbers_of.get(called)
        if number is not None:
            return number, None
        from dagengine.fingerprints import fingerprint  # reads source: of no use to whoever only reads definitions

        reference = refer(called).to_json()  # type: ignore[arg-type]  # it has a name, whether or not it can be called
        code = fingerprint(called)
        options = called.settings.to_json()
        undo = getattr(called.settings, "undo", None)
        if undo is not None:
            options["undo"] = {
                "name": undo.name,
                "reference": refer(undo).to_json(),
                "options": undo.settings.to_json(),
            }
        new = Definition(len(self._by_number), called.name, reference, options, code)
        number = self._numbers_of[called] = self._numbers.get(_text(new), new.number)
        if number != new.number:
            return number, None
        self.learn(new)
        return number, new

    def of_undo(self, number: int) -> tuple[int, Definition | None]:
        """The number of the task that undoes what the definition's steps do, and its definition if it is new."""
        undo = self._by_number[number].options["undo"]
        options = {name: value for name, value in undo["options"].items() if name != "checkpoint"}
        new = Definition(len(self._by_number), undo["name"], undo["reference"], options)
        known = self._numbers.get(_text(new))
        if known is not None:
            return known, None
        self.learn(new)
        return new.number, new


def _text(definition: Definition) -> str:
    fields = [definition.name, definition.reference, definition.options, definition.fingerprint]
    return json.dumps(fields, sort_keys=True)
