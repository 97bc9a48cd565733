"""The functions of a run under their numbers: each is recorded once, with its options, and steps name the number.

Numbers are given on the body's thread, and on the engine's to what tasks defer. May import model, functions and
fingerprints.
"""

from __future__ import annotations

import json
import threading
from dataclasses import replace
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
        self._unrecorded: set[int] = set()  # of the body's; what a task defers brings its definitions itself
        self._next = 0
        self._lock = threading.Lock()  # the body's thread and the engine's both find new ones

    def __getitem__(self, number: int) -> Definition:
        return self._by_number[number]

    def learn(self, definition: Definition) -> None:
        """Take over a definition that is recorded."""
        self._by_number[definition.number] = definition
        self._numbers[_text(definition)] = definition.number
        self._next = max(self._next, definition.number + 1)

    def recording(self, definition: Definition) -> None:
        """It goes with a step that is about to be recorded: none after that has to bring it."""
        self._unrecorded.discard(definition.number)

    def of(self, called: Defined) -> tuple[int, Definition | None]:
        """The number, and the definition if the run does not have it yet.

        It does not have it before a step is recorded with it (`recording`). The first call of a function need not make
        one: on replay a recorded step answers, under the definition that the function had when that was recorded.
        """
        number = self._numbers_of.get(called)
        if number is None:
            number = self._numbers_of[called] = self._found(called)
        return number, self._by_number[number] if number in self._unrecorded else None

    def _found(self, called: Defined) -> int:
        from dagengine.code.fingerprints import fingerprint  # reads source: of no use to whoever only reads definitions

        referred: Any = getattr(called, "referred", called)  # the step of a child run is a call of the workflow
        reference = refer(referred).to_json()
        whole = getattr(called, "options_json", None)
        options = called.settings.to_json() if whole is None else whole()
        undo = getattr(called.settings, "undo", None)
        if undo is not None:
            found = {"name": undo.name, "reference": refer(undo).to_json(), "options": undo.settings.to_json()}
            options["undo"] = found
        new = Definition(-1, called.name, reference, options, fingerprint(referred))
        new, is_new = self._number(new)
        if is_new:
            self._unrecorded.add(new.number)
        return new.number

    def grown(self, found: Definition) -> Definition:
        """The definition of a function that a task has deferred a call of, under its number."""
        return self._number(found)[0]

    def _number(self, found: Definition) -> tuple[Definition, bool]:
        """The definition under its number, and whether the run did not have it."""
        text = _text(found)
        with self._lock:
            known = self._numbers.get(text)
            if known is not None:
                return self._by_number[known], False
            new = replace(found, number=self._next)
            self.learn(new)
        return new, True

    def of_undo(self, number: int) -> tuple[int, Definition | None]:
        """The number of the task that undoes what the definition's steps do, and its definition if it is new."""
        undo = self._by_number[number].options["undo"]
        options = {name: value for name, value in undo["options"].items() if name != "checkpoint"}
        new, is_new = self._number(Definition(-1, undo["name"], undo["reference"], options))
        return new.number, new if is_new else None


def _text(definition: Definition) -> str:
    fields = [definition.name, definition.reference, definition.options, definition.fingerprint]
    return json.dumps(fields, sort_keys=True)
