"""What the end of a run is to an Airflow task. Needs no Airflow, but for its exceptions, which tests/airflow raises."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dagengine import errors
from dagengine.airflow_plugin.outcomes import (
    REFERENCE_KEY,
    XCOM_LIMIT,
    Kind,
    failure_of,
    for_xcom,
    is_reference,
    outcome_of_error,
    reference,
)
from dagengine.model import Failure, RunState

RUN = "1a2b3c4d5e6f" + "0" * 20
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.just(REFERENCE_KEY),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=12,
)


def failed(type_name: str = "ValueError", message: str = "boom", **said: Any) -> Failure:
    return Failure(
        **{"kind": "error", "type": type_name, "message": message, "facts": {"step": "nightly/load[2]"}, **said}
    )


@given(JSON)
def test_what_goes_to_xcom_as_it_is_comes_back_as_it_was(value: Any) -> None:
    """Either JSON gives back an equal value, or a reference stands for it."""
    sent = for_xcom(value, RUN, conn_id="dagengine_default")
    if is_reference(sent):
        assert sent["run"] == RUN
    else:
        assert json.loads(json.dumps(sent)) == value
        assert "\\u0000" not in json.dumps(sent)


@pytest.mark.parametrize(
    "value",
    [
        (1, 2), {1: "int key"}, {"s": {1, 2}}, b"bytes", math.nan, math.inf, "\0", "\ud800", object(), [("x",)],
        {"__classname__": "os.system"}, {"__type": "x"}, {REFERENCE_KEY: 1, "run": "another"}, "x" * XCOM_LIMIT,
    ],
)  # fmt: skip
def test_what_json_would_change_goes_as_a_reference(value: object) -> None:
    """Tuples, keys that are no text, what Airflow's own format gives a meaning, and what is large."""
    assert for_xcom(value, RUN, store="/data/store.db") == {
        REFERENCE_KEY: 1, "run": RUN, "store": "/data/store.db", "type": type(value).__qualname__,
    }  # fmt: skip


def test_the_limit_is_of_bytes_and_can_be_set() -> None:
    """A value of exactly that size still goes as it is."""
    assert for_xcom("x" * 8, RUN, store="s", limit=10) == "x" * 8
    assert is_reference(for_xcom("x" * 9, RUN, store="s", limit=10))


def test_a_value_that_contains_itself_or_is_very_deep_goes_as_a_reference() -> None:
    """Looking at it ends."""
    circle: list[Any] = []
    circle.append(circle)
    assert is_reference(for_xcom(circle, RUN, store="s"))


def test_a_reference_names_the_connection_or_the_store() -> None:
    """Whoever reads it knows where."""
    assert reference(RUN, conn_id="warehouse") == {REFERENCE_KEY: 1, "run": RUN, "conn_id": "warehouse"}
    assert not is_reference({REFERENCE_KEY: 1})
    assert not is_reference([REFERENCE_KEY])


def test_a_failure_says_where_it_happened_and_how_to_look() -> None:
    """One line, with the failed step and its exception."""
    outcome = failure_of(RUN, "nightly", RunState.FAILED, failed(message="boom\nmore"), "/data/store.db")
    assert outcome.kind is Kind.FAILED
    assert outcome.text == (
        "run 1a2b3c4d5e6f of nightly failed in step nightly/load[2]: ValueError: boom. To see it: dagengine show"
        " 1a2b3c4d5e6f --store /data/store.db"
    )


@pytest.mark.parametrize(
    "failure",
    [
        failed("dagengine.errors.BadArguments"), failed("dagengine.errors.LoadError"), failed("dagengine.errors.Infeasible"),
        failed("dagengine.errors.Rejected"), failed("dagengine.errors.Unpicklable", kind="unpicklable"),
        failed("PermissionError", retriable=False), failed("dagengine.errors.StepUnknown", kind="unknown", retriable=False),
        failed("airflow.sdk.exceptions.AirflowFailException"),
    ],
)  # fmt: skip
def test_what_no_retry_would_help_fails_for_good(failure: Failure) -> None:
    """Arguments, code, and what the task's own retry_on says."""
    assert failure_of(RUN, "nightly", RunState.FAILED, failure).kind is Kind.FAILED_FOR_GOOD


@pytest.mark.parametrize(
    "failure",
    [
        failed(), failed("dagengine.errors.WorkerLost", kind="lost"), failed("dagengine.errors.RunTimeout", kind="timeout"),
        failed(retriable=False, facts={"child": "abc"}), failed("mylib.errors.BadArguments"), failed("LoadError"),
        failed("elsewhere.AirflowFailException"),
    ],
)  # fmt: skip
def test_what_a_retry_may_help_may_be_retried(failure: Failure) -> None:
    """The user's own exceptions are, whatever they are called; lost workers and timeouts are."""
    assert failure_of(RUN, "nightly", RunState.FAILED, failure).kind is Kind.FAILED


def test_ends_that_are_no_failures_map_sensibly() -> None:
    """Cancelled by a person: for good. Interrupted or crashed: a retry goes on. A mismatch: for good."""
    assert failure_of(RUN, "nightly", RunState.CANCELLED, None).kind is Kind.FAILED_FOR_GOOD
    assert failure_of(RUN, "nightly", RunState.INTERRUPTED, None).kind is Kind.FAILED
    assert failure_of(RUN, "nightly", RunState.CRASHED, None).kind is Kind.FAILED
    assert failure_of(RUN, "nightly", RunState.MISMATCH, failed(kind="mismatch")).kind is Kind.FAILED_FOR_GOOD


def test_skipping_is_skipping() -> None:
    """A step or body that raised Airflow's skip, and a result that was skipped, skip the task."""
    skip = failed("airflow.sdk.exceptions.AirflowSkipException", "nothing new")
    assert failure_of(RUN, "nightly", RunState.FAILED, skip).text == "nothing new"
    assert failure_of(RUN, "nightly", RunState.FAILED, skip).kind is Kind.SKIPPED
    assert outcome_of_error(errors.StepSkipped("no input", key="a", cause="b"), RUN).kind is Kind.SKIPPED


def test_errors_of_ours_are_one_line_and_say_whether_a_retry_helps() -> None:
    """A store that can't be reached may come back; a missing workflow won't."""
    assert outcome_of_error(errors.StoreUnavailable("no route", store="s")).kind is Kind.FAILED
    assert outcome_of_error(errors.LoadError("there is no file x.py. Name one.")).kind is Kind.FAILED_FOR_GOOD
    assert outcome_of_error(errors.BadArguments("f(x): missing")).kind is Kind.FAILED_FOR_GOOD
    assert outcome_of_error(KeyError("a\nb")).text == "KeyError: 'a\\nb'"


def test_odd_characters_in_a_failure_do_not_break_the_log_line() -> None:
    """What can't be printed is escaped, and a message without end is cut."""
    outcome = failure_of(RUN, "night\nly", RunState.FAILED, failed(message="\x1b[31m" + "x" * 10_000))
    assert outcome.text.isprintable()
    assert len(outcome.text) < 1_000
