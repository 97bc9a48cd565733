"""How long runs are kept: ages, rules for states and tags, and how it is written in a file."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest

from dagengine import config
from dagengine.errors import BadOption
from dagengine.model import RunState
from dagengine.retention import DAY, Retention, Rule, parse
from dagengine.storage.memory_run import new_record
from tests.storage.kit import new_run

FOR_EVER = Retention(None, None, None)


def test_what_may_go_follows_from_state_and_age() -> None:
    """Records and values have ages of their own; what has not ended, or waits for a person, never goes."""
    kept = Retention(records=90, payloads=14, failed_payloads=30)
    run = replace(new_record(1, new_run(), None), finished_at=1000.0)
    verdicts = {}
    for state in RunState:
        aged = replace(run, state=state)
        verdicts[state] = [
            [kept.has_expired(aged, 1000.0 + age), kept.is_over(aged, 1000.0 + age)] for age in (14, 15, 31, 91)
        ]
    never = [[False, False]] * 4
    for state in (RunState.PENDING, RunState.RUNNING, RunState.WAITING, RunState.PAUSED):
        assert verdicts[state] == never
    assert verdicts[RunState.SUCCEEDED] == [[False, False], [True, False], [True, False], [True, True]]
    for state in (RunState.FAILED, RunState.CANCELLED, RunState.INTERRUPTED, RunState.MISMATCH):
        assert verdicts[state] == [[False, False], [False, False], [True, False], [True, True]]
    assert not FOR_EVER.is_over(replace(run, state=RunState.FAILED), 1e12)


def test_the_first_rule_that_fits_and_says_an_age_decides() -> None:
    """By state and by tags; what no rule speaks of keeps the age of all; one may keep for ever."""
    rules = (
        Rule(tags=(("env", "prod"),), payloads=50.0),
        Rule(tags=(("keep", None),), records=math.inf, payloads=math.inf),
        Rule(states=(RunState.CANCELLED,), records=5.0),
    )
    kept = Retention(records=90, payloads=14, failed_payloads=30, rules=rules)
    run = replace(new_record(1, new_run(), None), finished_at=1000.0, state=RunState.SUCCEEDED)
    cancelled = replace(run, state=RunState.CANCELLED)
    prod, keep = {"env": "prod"}, {"keep": "yes"}
    assert [kept.has_expired(run, 1000.0 + age, prod) for age in (49, 51)] == [False, True]
    assert [kept.is_over(run, 1000.0 + age, prod) for age in (89, 91)] == [False, True]
    assert not kept.is_over(run, 1e12, keep)
    assert not kept.has_expired(cancelled, 1e12, keep)
    assert [kept.is_over(cancelled, 1000.0 + age) for age in (4, 6)] == [False, True]
    assert kept.least() == 5.0
    assert kept.may_be_sacrificed(run, prod, records=True)
    assert not kept.may_be_sacrificed(run, keep, records=True)


def test_retention_is_written_in_a_file(tmp_path: Path) -> None:
    """Every word of it; without the table, the defaults."""
    (tmp_path / "config.toml").write_text(
        """
        [retention]
        records = "1w"
        payloads = "2d"
        failed_payloads = "never"
        records_max = 1_000_000
        payloads_max = "1GiB"
        [[retention.rules]]
        tags = {env = "prod"}
        records = "never"
        [[retention.rules]]
        tags = ["team"]
        states = ["failed", "cancelled"]
        payloads = "12h"
        """
    )
    rules = (
        Rule(tags=(("env", "prod"),), records=math.inf),
        Rule((RunState.FAILED, RunState.CANCELLED), (("team", None),), payloads=DAY / 2),
    )
    expected = Retention(7 * DAY, 2 * DAY, None, rules, 1_000_000, 1 << 30)
    assert config.load(home=tmp_path, environ={}).retention.value == expected
    assert config.load(home=tmp_path / "none", environ={}).retention.value is None


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ("90d", "Give a table"),
        ({"record": "1d"}, "Did you mean records"),
        ({"records": "soon"}, "retention.records is 'soon'"),
        ({"records": ["1d"]}, "Give a period"),
        ({"payloads_max": "much"}, "Give a size"),
        ({"payloads_max": True}, "Give a size"),
        ({"records_max": -1}, "Give a number of steps"),
        ({"rules": {}}, "Give tables"),
        ({"rules": ["x"]}, "Give a table"),
        ({"rules": [{"tag": "x"}]}, "Did you mean tags"),
        ({"rules": [{"states": ["running"]}]}, "has 'running'"),
        ({"rules": [{"states": "failed"}]}, "Give a list of texts"),
        ({"rules": [{"tags": [""]}]}, "a tag's name is ''"),
    ],
)
def test_what_can_t_be_meant_is_one_line_with_its_file(said: object, why: str) -> None:
    """Also in rules that would never have been used."""
    with pytest.raises(BadOption, match=why) as caught:
        parse(said, "/home/me/config.toml")
    assert "\n" not in str(caught.value)
