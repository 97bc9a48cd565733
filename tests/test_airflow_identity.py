"""Which run belongs to an Airflow task. Needs no Airflow."""

from __future__ import annotations

import json
import string
from dataclasses import dataclass, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dagengine.airflow_plugin.identity import FACT, NOT_MAPPED, TaskKey
from dagengine.recording import ID_CHARACTERS

NAMES = st.text(min_size=1, max_size=8)
KEYS = st.builds(
    TaskKey, NAMES, NAMES, NAMES, st.integers(-1, 3), st.integers(0, 5), st.integers(0, 3), st.integers(0, 2)
)


@dataclass
class Instance:
    """What Airflow's task instance says of itself."""

    dag_id: str = "etl"
    run_id: str = "manual__2026-01-01T00:00:00+00:00"
    task_id: str = "load"
    map_index: int | None = NOT_MAPPED
    max_tries: int = 2


@given(KEYS, KEYS)
def test_two_tasks_never_have_the_same_run(one: TaskKey, other: TaskKey) -> None:
    """Ids and texts are the same only for the same task, whatever characters are in its names."""
    assert (one.engine_id == other.engine_id) == (one == other)
    assert (one.text == other.text) == (one == other)


def test_a_separator_in_a_name_does_not_make_two_tasks_one() -> None:
    """What a plain join would mix up stays apart."""
    assert TaskKey("a/b", "c", "d").engine_id != TaskKey("a", "b/c", "d").engine_id
    assert TaskKey("a", "b", "c", 1, 23).engine_id != TaskKey("a", "b", "c", 12, 3).engine_id


@given(KEYS)
def test_the_run_id_is_one_that_the_engine_takes(key: TaskKey) -> None:
    """Odd characters in a templated run id are no concern of the engine's: the id is hex, and the text one plain line."""
    assert len(key.engine_id) == 32
    assert set(key.engine_id) <= ID_CHARACTERS & set(string.hexdigits.lower())
    assert key.text.isprintable()
    assert json.loads(json.dumps(key.facts(1))) == key.facts(1)


def test_every_try_of_a_task_finds_the_same_run() -> None:
    """The id follows from what Airflow says of the task, which a retry does not change."""
    first, retry = TaskKey.of(Instance()), TaskKey.of(Instance())
    assert first == retry
    assert first.text == "airflow/etl/manual__2026-01-01T00:00:00+00:00/load/-1/2"
    assert TaskKey.of(Instance(map_index=None)) == first


def test_a_cleared_task_has_another_run() -> None:
    """Clearing grants more tries, and that is another generation."""
    assert TaskKey.of(Instance(max_tries=3)).engine_id != TaskKey.of(Instance()).engine_id


def test_mapped_tasks_have_a_run_each() -> None:
    """The map index is part of the id."""
    assert len({TaskKey.of(Instance(map_index=index)).engine_id for index in range(-1, 5)}) == 6


def test_ids_stay_what_they_are() -> None:
    """A new version of dagengine finds the runs that an old one has begun."""
    assert TaskKey("etl", "manual", "load", -1, 2).engine_id == "29add6230c974e32686fc7931ccc4492"


def test_the_latest_run_of_a_generation_is_looked_for_first() -> None:
    """A restart in this generation goes before the run that it restarted."""
    key = TaskKey("d", "r", "t", NOT_MAPPED, 2)
    found = list(key.same_generation(3))
    assert [each.restart for each in found if each.edition == 0] == [3, 2, 1, 0]
    assert [each.edition for each in found] == sorted((each.edition for each in found), reverse=True)
    assert key.restarted(2).next_edition() in found


def test_earlier_generations_are_looked_for_from_the_last_one() -> None:
    """Of a task that was cleared twice, the run before the last clearing is the donor."""
    key = TaskKey("d", "r", "t", NOT_MAPPED, 3, restart=2)
    assert [each.generation for each in key.earlier_generations()] == [2, 1, 0]
    assert {each.restart for each in key.earlier_generations()} == {0}


@pytest.mark.parametrize("generation", [10**6])
def test_looking_back_is_bounded(generation: int) -> None:
    """Somebody who grants a million tries does not make a query of a million ids."""
    key = TaskKey("d", "r", "t", NOT_MAPPED, generation)
    assert len(list(key.earlier_generations())) <= 500
    assert len(list(key.same_generation(generation))) <= 20 * 501
    assert key.restarted(0) in list(key.same_generation(generation))


def test_the_record_says_whose_run_it_is() -> None:
    """People find the task from the run."""
    facts = replace(TaskKey("etl", "r/1", "load", 4, 2)).facts(1, dag_file="etl.py")[FACT]
    assert facts["key"] == "airflow/etl/r%2F1/load/4/2"
    assert (facts["dag_id"], facts["run_id"], facts["task_id"], facts["map_index"], facts["try"]) == (
        "etl", "r/1", "load", 4, 1,
    )  # fmt: skip
    assert facts["dag_file"] == "etl.py"
