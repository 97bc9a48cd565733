"""The verbs that look at the record: what they print, and their exit statuses."""

from __future__ import annotations

import json
import time
import xml.etree.ElementTree
from pathlib import Path
from typing import Any

import pytest

from dagengine import failing
from dagengine.cli import main
from dagengine.errors import RunOwned
from dagengine.identity import new_id
from dagengine.model import NewRun, RunState
from dagengine.storage import statements
from dagengine.storage.interface import Store
from dagengine.storage.writes import CloseBody
from dagengine.values import encode
from tests.cli.book import DEAD, HERE, Book, boom, failed_run
from tests.cli.conftest import Cli


def succeeded(store: Store, run_id: str = "beef", value: object = 42) -> Book:
    book = Book(store, run_id)
    book.step("extract[0]")
    book.succeed("extract[0]", value=value)
    book.write(CloseBody(encode(((value,), {})).to_bytes(), ()))
    book.end(RunState.SUCCEEDED)
    return book


# ---- ls -----------------------------------------------------------------------------------


def test_ls_on_a_machine_without_a_store_says_so_and_makes_none(cli: Cli, home: Path) -> None:
    """Looking leaves no trace."""
    done = cli("ls")
    assert (done.status, done.out) == (0, "")
    assert "no runs yet" in done.err
    assert cli("ls", "--json").json == []
    assert not home.exists()


def test_ls_lists_runs_with_their_states(cli: Cli, store: Store) -> None:
    """Newest first, crashed ones as such."""
    failed_run(store, "aaaa")
    Book(store, "bbbb", owner=DEAD)
    succeeded(store, "cccc")
    done = cli("ls")
    assert done.status == 0
    assert {line.split()[0]: line.split()[3] for line in done.out.splitlines()[1:]} == {
        "aaaa": "failed",
        "bbbb": "crashed",
        "cccc": "succeeded",
    }
    assert [run["id"] for run in cli("ls", "--json").json] == ["cccc", "bbbb", "aaaa"]


@pytest.mark.parametrize(
    ("words", "ids"),
    [
        (["--state", "failed"], {"aaaa"}),
        (["--state", "crashed"], {"bbbb"}),
        (["--state", "running"], {"dddd"}),
        (["--state", "failed", "--state", "succeeded"], {"aaaa", "cccc"}),
        (["--name", "nightly"], {"aaaa", "bbbb", "cccc"}),
        (["--name", "no"], set()),
        (["--limit", "1"], {"dddd"}),
        (["--since", "30d"], {"aaaa", "bbbb", "cccc", "dddd"}),
        (["--since", "2999-01-01"], set()),
    ],
)
def test_ls_filters(cli: Cli, store: Store, words: list[str], ids: set[str]) -> None:
    """By state, also the derived ones, by name, by age, by number."""
    failed_run(store, "aaaa")
    Book(store, "bbbb", owner=DEAD)
    succeeded(store, "cccc")
    Book(store, "dddd", "weekly")
    assert {run["id"] for run in cli("ls", "--json", *words).json} == ids


def test_ls_says_whose_children_runs_are(cli: Cli, store: Store) -> None:
    """In a column of its own, which is there where one of them is a child; a paused one is let go on by `unpause`."""
    Book(store, "aaaa").end(RunState.SUCCEEDED)
    assert "child of" not in cli("ls").out
    call, began = encode(((), {})).to_bytes(), time.time()
    entry = {"module": "nightly", "qualname": "nightly"}
    store.create_run(NewRun("bbbb", "nightly", entry, call, (), began, {"parent": ["aaaa", 3]}), HERE)
    header, *rows = cli("ls").out.splitlines()
    assert header.endswith("child of")
    assert {row.split()[0]: row.rstrip().endswith("aaaa") for row in rows} == {"aaaa": False, "bbbb": True}
    parents = {run["id"]: run["parent"] for run in cli("ls", "--json").json}
    assert parents == {"aaaa": None, "bbbb": {"run": "aaaa", "step": 3}}
    Book(store, "cccc").end(RunState.PAUSED)
    assert "to go on: dagengine unpause cccc" in cli("show", "cccc").out


def test_a_run_that_somebody_else_goes_on_with_is_unpaused_all_the_same(
    cli: Cli, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A task of Airflow's that waits for it, say. The story: on a slow machine that was quicker, and `unpause` had failed."""

    def quicker(*_: object, **__: object) -> int:
        claim = store.claim("aaaa", HERE, lambda process: True)
        assert claim is not None
        raise RunOwned("it is worked on by somebody", run_id="aaaa", owner="")

    monkeypatch.setattr("dagengine.cli.unpause.find_modules", lambda record: None)
    monkeypatch.setattr("dagengine.cli.unpause.work_on", quicker)
    Book(store, "aaaa").end(RunState.PAUSED)
    done = cli("unpause", "aaaa")
    assert (done.status, done.out, done.err) == (0, "run aaaa: running\n", "")


def test_ls_says_that_there_are_more(cli: Cli, store: Store) -> None:
    """And how to see them."""
    Book(store, "aaaa")
    Book(store, "bbbb")
    assert "there are more" in cli("ls", "-n", "1").err
    assert "there are more" not in cli("ls", "-n", "2").err


# ---- show, steps ----------------------------------------------------------------------------


def test_show_is_a_run_at_a_glance(cli: Cli, store: Store) -> None:
    """Tasks in the order of their calls, what failed with its line of code, and what to type next."""
    failed_run(store)
    done = cli("show", "7f")
    assert done.status == 0
    rows = [line.split() for line in done.out.splitlines()]
    assert ["extract", "3", "2", "1"] in rows
    assert ["merge", "1", "0", "1"] in rows
    assert rows.index(["extract", "3", "2", "1"]) < rows.index(["merge", "1", "0", "1"])
    assert "nightly/extract[1] failed: ValueError: bad month 13" in done.out
    assert 'File "nightly.py", line 7, in extract' in done.out
    assert "dagengine resume 7f3a" in done.out


def test_show_json_is_one_object_with_the_steps(cli: Cli, store: Store) -> None:
    """Each with key, task, state, attempts."""
    failed_run(store)
    found = cli("show", "7f3a", "--json").json
    assert (found["id"], found["workflow"], found["state"]) == ("7f3a", "nightly", "failed")
    assert [step["key"] for step in found["steps"]][1] == "nightly/extract[1]"
    assert {"key", "task", "state", "attempts"} <= found["steps"][0].keys()


def test_show_names_the_owner_and_what_runs_now(cli: Cli, store: Store) -> None:
    """Of a live run."""
    book = Book(store)
    book.step("slow[0]")
    book.attempt("slow[0]")
    out = cli("show", "@last").out
    assert "● nightly/slow[0] for" in out
    assert "owner     process" in out
    assert "resume" not in out


def test_show_says_of_a_crashed_run_that_its_process_is_dead(cli: Cli, store: Store) -> None:
    """And how to go on."""
    Book(store, owner=DEAD)
    out = cli("show", "@last").out
    assert "crashed" in out
    assert "which is dead" in out
    assert "dagengine resume 7f3a" in out


def test_hints_name_the_store_where_it_was_given_by_hand(cli: Cli, store: Store, home: Path) -> None:
    """What is printed can be typed as it is."""
    failed_run(store)
    place = str(home / "store.db")
    assert f"dagengine resume 7f3a --store {place}" in cli("show", "7f3a", "--store", place).out
    assert f"dagengine resume 7f3a --store {place}" in cli("--store", place, "show", "7f3a").out


def test_steps_lists_and_filters(cli: Cli, store: Store) -> None:
    """In the order of their calls; by state and by task."""
    failed_run(store)
    assert len(cli("steps", "7f3a").out.splitlines()) == 6
    assert [step["key"] for step in cli("steps", "7f3a", "--state", "failed", "--json").json] == ["nightly/extract[1]"]
    assert len(cli("steps", "7f3a", "--task", "extract", "--json").json) == 3
    assert "2 more steps" in cli("steps", "7f3a", "-n", "3").err
    assert "no step fits" in cli("steps", "7f3a", "--task", "zzz").err
    Book(store, "empty")
    assert "has no steps" in cli("steps", "empty").err


def test_what_is_printed_of_the_record_can_not_steer_the_terminal(cli: Cli, store: Store) -> None:
    """Names, messages and tracebacks are cleaned in every verb."""
    evil = "\x1b]0;owned\x07\x1b[2Jx\u202e"
    book = Book(store, "7f3a", f"night{evil}")
    book.step(f"extract{evil}[0]")
    book.fail(f"extract{evil}[0]", boom(f"bad\n{evil}"))
    book.end(RunState.FAILED, boom(evil, step=evil))
    for verb in (["ls"], ["show", "7f"], ["steps", "7f"], ["graph", "7f"], ["errors", "7f"], ["explain", "7f", "0"]):
        done = cli(*verb)
        assert done.status == 0
        for character in ("\x1b", "\x07", "\u202e"):
            assert character not in done.out + done.err, verb


# ---- graph ----------------------------------------------------------------------------------


def test_graph_is_a_tree_of_groups(cli: Cli, store: Store) -> None:
    """With the run's state as its head."""
    failed_run(store)
    assert cli("graph", "7f3a").out.splitlines()[:3] == [
        "✗ nightly  7f3a  failed",
        "  ✗ extract[0…2] ×3   (1 failed, 2 succeeded)",
        "  │",
    ]
    Book(store, "empty")
    assert "no steps" in cli("graph", "empty").out


@pytest.mark.parametrize(
    ("form", "begin"), [("mermaid", "flowchart TD"), ("dot", 'digraph "nightly"'), ("svg", "<svg "), ("json", "{")]
)
def test_graph_has_formats(cli: Cli, store: Store, home: Path, form: str, begin: str) -> None:
    """To stdout, or into a file whose name may say which."""
    failed_run(store)
    assert cli("graph", "7f3a", "--format", form).out.startswith(begin)
    file = home / f"graph.{form}"
    assert cli("graph", "7f3a", "-o", str(file), *(["-f", form] if form == "mermaid" else [])).status == 0
    content = file.read_text()
    assert content.startswith(begin)
    if form == "svg":
        xml.etree.ElementTree.fromstring(content)
    if form == "json":
        assert len(json.loads(content)["nodes"]) == 5


def test_graph_json_is_the_json_format(cli: Cli, store: Store) -> None:
    """--json works on every verb."""
    failed_run(store)
    assert [3, 4] in cli("graph", "7f3a", "--json").json["edges"]


# ---- result, errors, explain ------------------------------------------------------------------


def test_result_prints_what_the_run_returned(cli: Cli, store: Store) -> None:
    """A text as it is, anything else as Python writes it; with --json as JSON."""
    succeeded(store, "a1", {"top": ["libc6"], "n": 3})
    assert cli("result", "a1").out == "{'top': ['libc6'], 'n': 3}\n"
    assert cli("result", "a1", "--json").json == {"top": ["libc6"], "n": 3}
    succeeded(store, "a2", "Hello,\nworld!")
    assert cli("result", "a2").out == "Hello,\nworld!\n"


def test_result_of_a_step(cli: Cli, store: Store) -> None:
    """By its key."""
    succeeded(store, "a1", 42)
    assert cli("result", "a1", "extract[0]").out == "42\n"


def test_a_long_result_is_cut_unless_all_of_it_is_wanted(cli: Cli, store: Store) -> None:
    """The cut is seen, with the whole length."""
    succeeded(store, "a1", "x" * 10_000)
    assert "(10,000 characters)" in cli("result", "a1").out
    assert cli("result", "a1", "--full").out == "x" * 10_000 + "\n"


def test_result_without_a_json_form_says_which_part(cli: Cli, store: Store) -> None:
    """And how to see it."""
    succeeded(store, "a1", {"a": [1, b"bytes"]})
    done = cli("result", "a1", "--json")
    assert (done.status, done.out) == (2, "")
    assert "['a'][1] is of type bytes" in done.err


def test_result_of_a_failed_run_is_its_failure(cli: Cli, store: Store) -> None:
    """Exit status 1, nothing on stdout."""
    failed_run(store)
    done = cli("result", "7f3a")
    assert (done.status, done.out) == (1, "")
    assert "nightly/extract[1] failed: ValueError: bad month 13" in done.err
    done = cli("result", "7f3a", "extract[1]")
    assert (done.status, done.out) == (1, "")
    assert "dagengine explain 7f3a" in done.err


def test_result_of_a_run_that_goes_on_is_not_there_yet(cli: Cli, store: Store) -> None:
    """Exit status 1, and the verb that waits."""
    Book(store)
    done = cli("result", "7f3a")
    assert done.status == 1
    assert "dagengine wait 7f3a" in done.err


def test_a_result_of_code_that_is_gone_is_one_line(cli: Cli, store: Store) -> None:
    """The class can't be found: it says so, and does not fail as a bug of ours."""
    book = Book(store, "a1")
    gone = b"\x80\x05cno_such_module\nThing\n)R."
    head = encode(None).to_bytes()[:8]
    data = head + len(gone).to_bytes(8, "little") + gone
    book.write(CloseBody(data, ()))
    book.end(RunState.SUCCEEDED)
    done = cli("result", "a1")
    assert done.status == 2
    assert "can't be read by this code: ModuleNotFoundError" in done.err
    assert len(done.err.splitlines()) == 1


def test_errors_shows_each_kind_of_failure_once(cli: Cli, store: Store) -> None:
    """With all of its traceback, and the keys of those that failed alike."""
    book = Book(store)
    for index in range(8):
        book.step(f"extract[{index}]")
        book.fail(f"extract[{index}]")
    book.step("merge[0]")
    book.fail("merge[0]", boom("other"))
    book.end(RunState.FAILED, boom(step="nightly/extract[0]"))
    out = cli("errors", "7f3a").out
    assert out.count("bad month 13') ".rstrip()) == 1
    assert "and 7 more alike: nightly/extract[1]" in out
    assert "ValueError: other" in out
    found = cli("errors", "7f3a", "--json").json
    assert len(found["steps"]) == 9
    assert found["steps"][0]["failure"]["message"] == "bad month 13"


def test_errors_of_very_many_kinds_shows_some_and_counts_the_others(
    cli: Cli, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Messages that all differ; read in several pages. As JSON, all of them."""
    monkeypatch.setattr(failing, "PAGE", 3)
    monkeypatch.setattr(failing, "KINDS", 2)
    book = Book(store)
    for index in range(8):
        book.step(f"extract[{index}]")
        book.fail(f"extract[{index}]", boom(f"bad row {index}"))
    book.end(RunState.FAILED, boom(step="nightly/extract[7]"))
    out = cli("errors", "7f3a").out
    assert "ValueError: bad row 1" in out
    assert "bad row 2" not in out
    assert "and 6 steps of extract with other messages: --json has all" in out
    assert "the body of" not in out
    found = cli("errors", "7f3a", "--json").json
    assert [step["failure"]["message"] for step in found["steps"]] == [f"bad row {index}" for index in range(8)]


def test_errors_shows_a_failure_of_the_body(cli: Cli, store: Store) -> None:
    """It is no step's."""
    book = Book(store)
    book.end(RunState.FAILED, boom("in the body"))
    out = cli("errors", "7f3a").out
    assert "the body of nightly" in out
    assert "ValueError: in the body" in out


def test_errors_shows_the_difference_of_a_mismatch(cli: Cli, store: Store) -> None:
    """What was recorded, and what was called."""
    book = Book(store)
    book.end(RunState.MISMATCH, boom("not the same call", difference="recorded: f(1)\ncalled:   f(2)"))
    out = cli("errors", "7f3a").out
    assert "recorded: f(1)" in out
    assert "called:   f(2)" in out


def test_errors_of_a_run_without_any_says_so(cli: Cli, store: Store) -> None:
    """Exit status 0."""
    succeeded(store, "a1")
    done = cli("errors", "a1")
    assert (done.status, done.out) == (0, "")
    assert "nothing has failed" in done.err


def test_explain_says_why(cli: Cli, store: Store) -> None:
    """In lines, and as JSON."""
    failed_run(store)
    out = cli("explain", "7f3a", "publish").out
    assert out.splitlines()[0] == "↷ nightly/publish[0] was skipped"
    assert "nightly/extract[1] failed: ValueError: bad month 13" in out
    assert cli("explain", "7f3a", "publish", "--json").json["caused_by"][0]["key"] == "nightly/extract[1]"


def test_explain_of_a_failed_run_says_what_where_and_what_next(cli: Cli, store: Store) -> None:
    """What failed and how often it was tried, the line of code, what never ran, and commands to type."""
    failed_run(store)
    first, *rest = cli("explain", "7f3a").out.splitlines()
    assert first.startswith("✗ run 7f3a of nightly failed after ")
    assert first.endswith(": 2 steps done, 1 failed, 2 skipped")
    assert rest == [
        "✗ nightly/extract[1] failed (2 attempts): ValueError: bad month 13",
        "    at nightly.py:7 in extract",
        "↷ 2 steps never ran, because of what came before: nightly/merge[0], nightly/publish[0]",
        "  tracebacks: dagengine errors 7f3a",
        "  to go on: dagengine resume 7f3a",
        "  or from there, in a new run: dagengine fork 7f3a --from 'nightly/extract[1]'",
    ]
    found = cli("explain", "7f3a", "--json").json
    assert (found["state"], found["total"], found["waits"]) == ("failed", 0, [])
    assert found["failure"] == "ValueError: bad month 13"
    assert [(step["key"], step["attempts"], step["at"]) for step in found["failed"]] == [
        ("nightly/extract[1]", 2, "nightly.py:7 in extract")
    ]
    assert found["left"] == {"skipped": {"count": 2, "keys": ["nightly/merge[0]", "nightly/publish[0]"]}}


def test_explain_of_a_run_with_many_failures_names_some(cli: Cli, store: Store) -> None:
    """Those that failed alike are one line; of those that did not, five are shown."""
    book = Book(store)
    for index in range(12):
        book.step(f"extract[{index}]")
        book.fail(f"extract[{index}]", boom(f"bad {max(0, index - 5)}"))
    book.end(RunState.FAILED, boom(step="nightly/extract[0]", count=12))
    lines = cli("explain", "7f3a").out.splitlines()
    assert sum(line.startswith("✗ nightly/") for line in lines) == 5
    keys = ", ".join(f"nightly/extract[{index}]" for index in range(1, 6))
    assert f"    and 5 more alike: {keys}" in lines
    assert "  … and 2 more that failed otherwise" in lines


def test_explain_of_a_failure_of_the_body_names_its_line(cli: Cli, store: Store) -> None:
    """No step failed: so there is none to fork from."""
    book = Book(store)
    book.end(RunState.FAILED, boom("in the body"))
    assert cli("explain", "7f3a").out.splitlines()[1:] == [
        "✗ the body of nightly: ValueError: in the body",
        "    at nightly.py:7 in extract",
        "  tracebacks: dagengine errors 7f3a",
        "  to go on: dagengine resume 7f3a",
    ]


def test_explain_of_a_cancelled_run_says_what_did_not_run(cli: Cli, store: Store) -> None:
    """And how it goes on."""
    book = Book(store)
    book.step("extract[0]")
    book.step("merge[0]", "extract[0]")
    book.end(RunState.CANCELLED)
    first, *rest = cli("explain", "7f3a").out.splitlines()
    assert first.startswith("⊘ run 7f3a of nightly was cancelled after ")
    assert first.endswith(": 0 steps done, 2 waiting")
    assert rest == [
        "○ 2 steps without an end: nightly/extract[0], nightly/merge[0]",
        "  to go on: dagengine resume 7f3a",
    ]


def test_explain_of_a_run_that_succeeded_points_to_its_result(cli: Cli, store: Store) -> None:
    """And says which failures the workflow has handled."""
    book = Book(store)
    book.step("extract[0]")
    book.fail("extract[0]")
    book.end(RunState.SUCCEEDED)
    lines = cli("explain", "7f3a").out.splitlines()
    assert lines[0].startswith("✓ run 7f3a of nightly succeeded after")
    assert lines[-2:] == [
        "  the workflow has handled this failure, and went on",
        "  its result: dagengine result 7f3a",
    ]


# ---- ids --------------------------------------------------------------------------------------


def test_a_run_is_found_by_a_unique_beginning_or_as_the_last(cli: Cli, store: Store) -> None:
    """Several that begin alike are named."""
    Book(store, "aa11")
    Book(store, "aa22")
    assert cli("show", "aa1", "--json").json["id"] == "aa11"
    assert cli("show", "@last", "--json").json["id"] == "aa22"
    done = cli("show", "aa")
    assert done.status == 3
    assert "aa11" in done.err
    assert "aa22" in done.err


def test_a_whole_id_is_meant_even_if_another_begins_with_it(cli: Cli, store: Store) -> None:
    """Ids that people choose may begin alike."""
    Book(store, "run")
    Book(store, "run-2")
    assert cli("show", "run", "--json").json["id"] == "run"


def test_what_is_shown_of_an_id_is_enough_to_find_the_run(cli: Cli, store: Store) -> None:
    """Ids sort by time, so that runs of one day begin alike; what `ls` shows can be typed."""
    run_id = new_id()
    Book(store, run_id)
    shown = cli("ls").out.splitlines()[1].split()[0]
    assert len(shown) < len(run_id)
    assert cli("show", shown, "--json").json["id"] == run_id


def test_last_on_an_empty_store_is_not_found(cli: Cli) -> None:
    """Exit status 3, and how to make one."""
    done = cli("show", "@last")
    assert done.status == 3
    assert "there are no runs yet" in done.err


# ---- wait, cancel -------------------------------------------------------------------------------


def test_wait_returns_at_once_for_what_nobody_works_on(cli: Cli, store: Store) -> None:
    """0 if it succeeded, else 1, with the last words on it."""
    succeeded(store, "a1")
    failed_run(store, "b1")
    Book(store, "c1", owner=DEAD)
    Book(store, "d1", owner=None)
    assert cli("wait", "a1").status == 0
    assert cli("wait", "b1").status == 1
    done = cli("wait", "c1")
    assert done.status == 1
    assert "crashed" in done.err
    assert "dagengine resume c1" in done.err
    done = cli("wait", "d1")
    assert done.status == 1
    assert "has not begun" in done.err
    assert cli("wait", "a1", "--json").json["state"] == "succeeded"


def test_wait_gives_up_when_it_was_told_to(cli: Cli, store: Store) -> None:
    """Exit status 124, as of timeout(1)."""
    Book(store)
    done = cli("wait", "7f3a", "--timeout", "0.01")
    assert done.status == 124
    assert "still runs" in done.err


def test_cancel_ends_what_nobody_works_on(cli: Cli, store: Store) -> None:
    """A pending run, an interrupted one, and one whose process is dead."""
    Book(store, "pending", owner=None)
    Book(store, "crashed", owner=DEAD)
    Book(store, "stopped").end(RunState.INTERRUPTED)
    done = cli("cancel", "pending", "crashed", "stopped")
    assert (done.status, done.out.count(": cancelled")) == (0, 3)
    assert {run["state"] for run in cli("ls", "--json").json} == {"cancelled"}


def test_cancel_asks_a_live_owner(cli: Cli, store: Store) -> None:
    """The request is recorded, whoever answers."""
    Book(store)
    done = cli("cancel", "7f3a", "--json")
    assert (done.status, done.json) == (0, {"id": "7f3a", "state": "running"})
    assert store.find_run("7f3a").cancel_requested_at is not None


def test_cancel_of_a_run_that_has_ended_is_a_conflict(cli: Cli, store: Store) -> None:
    """Exit status 4, and nothing is changed."""
    succeeded(store, "a1")
    done = cli("cancel", "a1")
    assert done.status == 4
    assert "has already ended: succeeded" in done.out


def test_a_wrong_name_among_several_cancels_none(cli: Cli, store: Store) -> None:
    """All are looked up first."""
    Book(store, "a1", owner=None)
    assert cli("cancel", "a1", "nosuch").status == 3
    assert store.find_run("a1").state is RunState.PENDING


# ---- the store, the version, completion -----------------------------------------------------------


def test_db_check_counts_and_looks_at_every_page(cli: Cli, store: Store) -> None:
    """Exit status 0 for a sound one."""
    failed_run(store)
    done = cli("db", "check")
    assert done.status == 0
    assert "1 run with 5 steps" in done.out
    assert cli("db", "check", "--json").json["sound"] is True


def test_db_check_of_a_damaged_store_has_status_five(cli: Cli, store: Store, home: Path) -> None:
    """It says what SQLite says."""
    failed_run(store)
    store.close()
    file = home / "store.db"
    data = bytearray(file.read_bytes())
    for page in range(4096, len(data), 4096):
        data[page : page + 64] = b"\xff" * 64
    file.write_bytes(data)
    done = cli("db", "check")
    assert done.status == 5
    assert "bug" not in done.err


def test_db_upgrade_makes_a_store_and_leaves_a_new_one_alone(cli: Cli, home: Path) -> None:
    """Twice is harmless."""
    assert cli("db", "upgrade").status == 0
    assert (home / "store.db").exists()
    assert "up to date" in cli("db", "upgrade").out
    assert cli("db", "upgrade", "--json").json["after"]


def test_version_is_known(cli: Cli) -> None:
    """As text and as JSON."""
    assert cli("version").out.startswith("dagengine ")
    assert cli("version", "--json").json["version"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_a_script(cli: Cli, shell: str) -> None:
    """For each shell, without starting it."""
    out = cli("completion", shell).out
    assert "_DAGENGINE_COMPLETE" in out


@pytest.mark.parametrize(
    ("words", "offered"), [("sho", "plain,show"), ("show a", "plain,aa11"), ("show @", "plain,@last")]
)
def test_the_shell_completes_verbs_and_ids(
    store: Store,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: str,
    offered: str,
) -> None:
    """Ids of runs that begin with what was typed; nothing else on stdout."""
    Book(store, "aa11")
    Book(store, "bb22")
    monkeypatch.setenv("_DAGENGINE_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_WORDS", f"dagengine {words}")
    monkeypatch.setenv("COMP_CWORD", str(len(words.split())))
    assert main([]) == 0
    assert capsys.readouterr().out.split() == [offered]


# ---- lineage --------------------------------------------------------------------------------


def test_lineage_shows_both_directions_and_what_would_run_again(cli: Cli, store: Store) -> None:
    """As text, as data and as a picture."""
    failed_run(store, "aaaa")
    done = cli("lineage", "aaaa", "merge")
    assert done.status == 0
    first, *_, last = done.out.splitlines()
    assert first.startswith("↷ nightly/merge[0]   no value yet, recorded; from 3 steps, read by 1 step")
    assert "if its value were lost, 2 steps would run again, beginning from 2 recorded values" in last
    data = cli("lineage", "aaaa", "merge", "--up", "--json").json
    assert [step["key"] for step in data["up"]] == [f"nightly/extract[{n}]" for n in range(3)]
    assert data["down"] == []
    assert data["if_lost"]["stops_at"] == ["nightly/extract[0]", "nightly/extract[2]"]
    assert cli("lineage", "aaaa", "merge", "-f", "mermaid").out.startswith("flowchart TD")


def test_lineage_of_a_step_that_is_not_there_names_what_is_near(cli: Cli, store: Store) -> None:
    """As every verb that takes a step."""
    failed_run(store, "aaaa")
    done = cli("lineage", "aaaa", "merg[0]")
    assert done.status == 3
    assert "Did you mean nightly/merge[0]?" in done.err


def test_ls_asks_the_same_number_of_questions_for_many_runs_as_for_few(
    cli: Cli, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not one for each run that has not ended, or that waits: of a hundred thousand that takes minutes."""
    questions = []
    ask = statements.Query.__call__

    def counted(query: statements.Query, *args: Any, **given: Any) -> Any:
        questions.append(query)
        return ask(query, *args, **given)

    def listed() -> int:
        questions.clear()
        with monkeypatch.context() as patch:
            patch.setattr(statements.Query, "__call__", counted)
            assert cli("ls", "-n", "1000", "--json").status == 0
        return len(questions)

    def three(name: str) -> None:
        for state in (RunState.FAILED, RunState.WAITING, None):
            book = Book(store, f"{name}{state or 'running'}")
            book.step("extract[0]")
            book.step("extract[1]")
            book.succeed("extract[0]")
            if state is not None:
                book.end(state)

    three("first")
    few = listed()
    for number in range(10):
        three(f"run{number}")
    assert listed() == few > 0
    assert {(run["steps"], run["steps_succeeded"]) for run in cli("ls", "--json").json} == {(2, 1)}


def test_explain_without_a_step_lists_what_is_unfinished(cli: Cli, store: Store) -> None:
    """Of a run that nobody works on, with what to do."""
    book = Book(store, "cccc", owner=DEAD)
    book.step("extract[0]")
    book.succeed("extract[0]", value=1)
    book.step("merge[0]", "extract[0]")
    done = cli("explain", "cccc")
    assert done.out.splitlines() == [
        "run cccc of nightly is crashed; 1 unfinished step",
        "  ○ nightly/merge[0]  the run is crashed; to go on: dagengine resume cccc",
    ]
    assert cli("explain", "cccc", "--json").json["waits"][0]["key"] == "nightly/merge[0]"
