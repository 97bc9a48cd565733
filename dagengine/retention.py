"""How long runs are kept: which may be removed, and which may lose their values, decided from what a run is (pure).

    Retention       ages by default, rules for some states and tags, and how much there may be in all
    Rule            other ages for some runs; of the rules that fit, the first that says an age decides
    parse()         the same from `[retention]` of config.toml

Runs that have not ended, paused ones and pinned ones are never touched; `collecting` does what is decided here.

May import nothing of ours but errors, model, tags, units and validation.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Protocol

from dagengine.errors import BadOption
from dagengine.model import RunState
from dagengine.tags import Wanted, fits, wanted
from dagengine.units import parse_period, parse_size
from dagengine.validation import did_you_mean

DAY = 86_400.0

SUCCEEDED = (RunState.SUCCEEDED,)
UNSUCCESSFUL = (RunState.FAILED, RunState.CANCELLED, RunState.MISMATCH, RunState.INTERRUPTED)
"""Ended, and could be resumed. Paused runs wait for a person, and are kept."""

ENDED = (*SUCCEEDED, *UNSUCCESSFUL)


class Aged(Protocol):
    """What is looked at of a run."""

    @property
    def state(self) -> RunState: ...
    @property
    def created_at(self) -> float: ...
    @property
    def finished_at(self) -> float | None: ...


@dataclass(frozen=True, slots=True)
class Rule:
    """Ages of runs in one of these states, with all of these tags; none: of any.

    records, payloads: seconds, infinity for "for ever"; None: this rule says nothing of it
    """

    states: tuple[RunState, ...] = ()
    tags: Wanted = ()
    records: float | None = None
    payloads: float | None = None

    def fits(self, run: Aged, tags: Mapping[str, str]) -> bool:
        return (not self.states or run.state in self.states) and fits(tags, self.tags)


@dataclass(frozen=True, slots=True)
class Retention:
    """For how many seconds after a run's end things are kept; None: for ever.

    records: the run with all that is recorded of it
    payloads: the values of a run that succeeded; its record stays
    failed_payloads: the same of one that did not, and that can't be resumed from then on
    rules: what is said otherwise of some runs
    records_max: steps that the store may hold: above it the runs that were begun first are removed
    payloads_max: bytes of artifacts that may be needed: above it the runs that were begun first lose their values
    """

    records: float | None = 90 * DAY
    payloads: float | None = 14 * DAY
    failed_payloads: float | None = 30 * DAY
    rules: tuple[Rule, ...] = ()
    records_max: int | None = None
    payloads_max: int | None = None

    def is_over(self, run: Aged, now: float, tags: Mapping[str, str] | None = None) -> bool:
        """Whether the run may be removed."""
        said = (rule.records for rule in self.rules if rule.records is not None and rule.fits(run, tags or {}))
        return _older(run, next(said, self.records), now)

    def has_expired(self, run: Aged, now: float, tags: Mapping[str, str] | None = None) -> bool:
        """Whether the run's values may go."""
        default = self.payloads if run.state in SUCCEEDED else self.failed_payloads
        said = (rule.payloads for rule in self.rules if rule.payloads is not None and rule.fits(run, tags or {}))
        return _older(run, next(said, default), now)

    def may_be_sacrificed(self, run: Aged, tags: Mapping[str, str], *, records: bool) -> bool:
        """Whether the run, or its values, may go for want of room: not if a rule keeps them for ever."""
        said = (age for rule in self.rules if rule.fits(run, tags) and (age := _age(rule, records)) is not None)
        return next(said, 0.0) != math.inf

    def least(self) -> float | None:
        """Seconds after which anything may go."""
        ages = [self.records, self.payloads, self.failed_payloads]
        ages += [age for rule in self.rules for age in (rule.records, rule.payloads)]
        return min((age for age in ages if age is not None and age != math.inf), default=None)


def _age(rule: Rule, records: bool) -> float | None:
    return rule.records if records else rule.payloads


def _older(run: Aged, age: float | None, now: float) -> bool:
    if age is None or run.state not in ENDED:
        return False
    return now - (run.finished_at or run.created_at) > age


# ---- as it is written in a file -----------------------------------------------------------------

_AGES = ("records", "payloads", "failed_payloads")
_RULE = {field.name for field in fields(Rule)}


def parse(said: Any, where: str) -> Retention:
    """From the table `[retention]` of a TOML file. Raises BadOption, with the file's name `where`."""
    if not isinstance(said, Mapping):
        raise BadOption(f"retention is {said!r} ({where}). Give a table: [retention].")
    known = [field.name for field in fields(Retention)]
    ages: dict[str, Any] = {}
    for name, value in said.items():
        if name not in known:
            raise BadOption(f"{where} has an unknown setting {'retention.' + name!r}.{did_you_mean(name, known)}")
        if name in _AGES:
            age = _period(f"retention.{name}", value, where)
            ages[name] = None if age == math.inf else age
    rules = said.get("rules", [])
    if not isinstance(rules, list):
        raise BadOption(f"retention.rules is {rules!r} ({where}). Give tables: [[retention.rules]].")
    return Retention(
        **ages,
        rules=tuple(_rule(rule, where) for rule in rules),
        records_max=_count(said.get("records_max"), where),
        payloads_max=_bytes(said.get("payloads_max"), where),
    )


def _rule(said: Any, where: str) -> Rule:
    if not isinstance(said, Mapping):
        raise BadOption(f"a rule of retention is {said!r} ({where}). Give a table: [[retention.rules]].")
    for name in said:
        if name not in _RULE:
            raise BadOption(
                f"{where} has an unknown setting {'retention.rules.' + name!r}.{did_you_mean(name, sorted(_RULE))}"
            )
    states, tags = _texts("states", said, where), _texts("tags", said, where)
    unknown = [state for state in states if state not in {str(known) for known in ENDED}]
    if unknown:
        raise BadOption(
            f"retention.rules.states has {unknown[0]!r} ({where}).{did_you_mean(unknown[0], [str(s) for s in ENDED])}"
        )
    ages = {
        name: _period(f"retention.rules.{name}", said[name], where) for name in ("records", "payloads") if name in said
    }
    return Rule(tuple(RunState(state) for state in states), wanted(tags), **ages)


def _texts(name: str, said: Mapping[str, Any], where: str) -> list[str]:
    value = said.get(name, [])
    if isinstance(value, Mapping):
        value = [f"{key}={text}" for key, text in value.items()]
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        raise BadOption(f"retention.rules.{name} is {value!r} ({where}). Give a list of texts.")
    return value


def _period(name: str, value: Any, where: str) -> float:
    try:
        return parse_period(value)
    except (ValueError, TypeError):
        raise BadOption(f"{name} is {value!r} ({where}). Give a period: 12h, 14d, 8w, or never.") from None


def _count(value: Any, where: str) -> int | None:
    if value is not None and (type(value) is not int or value < 0):
        raise BadOption(f"retention.records_max is {value!r} ({where}). Give a number of steps.")
    return value


def _bytes(value: Any, where: str) -> int | None:
    if value is None:
        return None
    try:
        size = parse_size(value) if isinstance(value, str) else value
    except ValueError:
        size = -1
    if type(size) is not int or size < 0:
        raise BadOption(f"retention.payloads_max is {value!r} ({where}). Give a size: 500GiB.")
    return size
