"""Whatever is typed wrong: one line that says what and what to do, the right exit status, nothing recorded, no traceback."""

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path

import pytest

import dagengine.cli.version
from dagengine.errors import ArtifactMissing, DagengineError, RunOwned, StoreFull, WorkerLost
from dagengine.storage.interface import Store
from tests.cli.book import Book, failed_run
from tests.cli.conftest import Cli, Done

FLOW = """
from dagengine import task, workflow

@task
def double(x: int) -> int:
    return 2 * x

@workflow
def flow(x: int, lr: float = 0.1, tags: list[str] | None = None) -> int:
    return double(x)

@workflow
def lockless(thing: object) -> int:
    return double(1)

def plain() -> None: ...

number = 3
"""

FILES = {
    "flow_good.py": FLOW,
    "flow_syntax.py": "def (:\n",
    "flow_raises.py": "raise RuntimeError('no\\ndatabase')\n",
    "flow_imports.py": "import no_such_module_anywhere\n",
    "flow_exits.py": "import sys\nsys.exit('bye')\n",
    "flow_none.py": "x = 1\n",
    "flow_retries.py": "from dagengine import task\n@task(retries=-1)\ndef f(): ...\n",
    "flow_option.py": "from dagengine import task\n@task(retrys=1)\ndef f(): ...\n",
    "flow-name.py": FLOW,
    "notes.txt": "no code",
    "list.json": "[1]",
    "broken.json": "{",
}

RUN = [
    ([], "Missing argument", 2),
    (["no_such.py:flow"], "there is no file no_such.py", 2),
    (["flow_good.py:flwo"], "Did you mean flow?", 2),
    (["flow_good.py:xyzzy"], "There are: flow, lockless", 2),
    (["flow_good.py"], "which workflow?", 2),
    (["flow_good.py:plain"], "is neither a workflow nor a task", 2),
    (["flow_good.py:number"], "is neither a workflow nor a task", 2),
    (["flow_good.py:"], "which workflow?", 2),
    ([":flow"], "names no workflow", 2),
    ([""], "names no workflow", 2),
    (["no_such_module:flow"], "can't be imported", 2),
    (["flow_syntax.py:flow"], "SyntaxError", 2),
    (["flow_raises.py:flow"], "RuntimeError: no", 2),
    (["flow_imports.py:flow"], "no_such_module_anywhere", 2),
    (["flow_exits.py:flow"], "ends the process", 2),
    (["flow_none.py:flow"], "There are: none", 2),
    (["flow_retries.py:flow"], "retries", 2),
    (["flow_option.py:flow"], "retries", 2),
    (["flow-name.py:flow"], "rename the file", 2),
    (["notes.txt:flow"], "notes.txt", 2),
    ([".:flow"], ".", 2),
    (["/:flow"], "/", 2),
    (["flow_good.py:flow"], "misses x (int)", 2),
    (["flow_good.py:flow", "x"], "is not key=value", 2),
    (["flow_good.py:flow", "y=1"], "has no parameter 'y'", 2),
    (["flow_good.py:flow", "x=one"], "'one' is not a whole number", 2),
    (["flow_good.py:flow", "x=1.5"], "is not a whole number", 2),
    (["flow_good.py:flow", "x="], "is not a whole number", 2),
    (["flow_good.py:flow", "x=1", "x=2"], "given twice", 2),
    (["flow_good.py:flow", "x=1", "lr=fast"], "is not a number", 2),
    (["flow_good.py:flow", "x=1", "tags=[1]"], "tags[0]", 2),
    (["flow_good.py:flow", "x=@no_such.json"], "can't be read", 2),
    (["flow_good.py:flow", "x=@broken.json"], "is not JSON", 2),
    (["flow_good.py:flow", "@list.json"], "holds a list", 2),
    (["flow_good.py:flow", "--x=1"], "--x", 2),
    (["flow_good.py:flow", "x=1", "--workers", "0"], "workers is 0", 2),
    (["flow_good.py:flow", "x=1", "--workers", "many"], "many", 2),
    (["flow_good.py:flow", "x=1", "--run-id", ""], "--run-id is empty", 2),
    (["flow_good.py:flow", "x=1", "--run-id", "../x"], "run id '../x'", 2),
    (["flow_good.py:flow", "x=1", "--run-id", "-x"], "run id '-x'", 2),
    (["flow_good.py:flow", "x=1", "--run-id", "x" * 200], "run id", 2),
    (["flow_good.py:flow", "x=1", "--run-id", "a\nb"], "run id", 2),
    (["flow_good.py:flow", "x=1", "--store", ""], "store is ''", 2),
    (["flow_good.py:flow", "x=1", "--store", "mysql://u:secret@h/db"], "supported are", 5),
    (["flow_good.py:flow", "x=1", "--store", "notes.txt/x.db"], "notes.txt", 5),
    (["flow_good.py:flow", "x=1", "--store", "notes.txt"], "notes.txt", 5),
]

OTHERS = [
    (["no_such_verb"], "there is no verb 'no_such_verb'", 2),
    (["shwo", "x"], "Did you mean show?", 2),
    (["flow_good.py:flow"], "Did you mean `dagengine run flow_good.py:flow`?", 2),
    (["--no-such-option"], "--no-such-option", 2),
    (["--store"], "--store", 2),
    (["show"], "Missing argument 'RUN'", 2),
    (["show", ""], "empty", 2),
    (["show", "nosuch"], "there is no run nosuch", 3),
    (["show", "../../etc/passwd"], "there is no run", 3),
    (["show", "%"], "there is no run", 3),
    (["show", "_"], "there is no run", 3),
    (["show", "' OR 1=1 --"], "there is no run", 3),
    (["show", "\x1b]0;owned\x07"], "there is no run", 3),
    (["show", "\udcff"], "there is no run", 3),
    (["explain", "7f3a", "\udcff"], "is not text in UTF-8", 2),
    (["ls", "--name", "\udcff"], "is not text in UTF-8", 2),
    (["show", "@first"], "Did you mean @last?", 2),
    (["show", "7f3a", "more"], "unexpected extra argument", 2),
    (["steps", "7f3a", "--state", "done"], "'done'", 2),
    (["steps", "7f3a", "--limit", "0"], "0", 2),
    (["ls", "--state", "dead"], "'dead'", 2),
    (["ls", "--since", "tomorrow"], "is no age", 2),
    (["ls", "--since", "99999999999d"], "is no age", 2),
    (["ls", "--limit", "-1"], "-1", 2),
    (["graph", "7f3a", "--format", "png"], "'png'", 2),
    (["graph", "7f3a", "-o", "no/such/folder/x.svg"], "can't be written", 2),
    (["logs", "7f3a", "nosuch"], "has no step 'nosuch'", 3),
    (["logs", "7f3a", "--attempt", "0"], "0", 2),
    (["result", "7f3a", "nosuch"], "has no step", 3),
    (["result", "7f3a", "extract"], "3 steps of run 7f3a are called", 3),
    (["explain", "7f3a", "extrct[0]"], "Did you mean nightly/extract[0]?", 3),
    (["explain", "7f3a", ""], "has no step ''", 3),
    (["wait", "7f3a", "--timeout", "-1"], "-1", 2),
    (["wait", "nosuch"], "there is no run", 3),
    (["cancel"], "Missing argument", 2),
    (["cancel", "nosuch"], "there is no run", 3),
    (["resume", "nosuch"], "there is no run", 3),
    (["resume", "--workers", "x"], "x", 2),
    (["completion", "tcsh"], "'tcsh'", 2),
    (["completion"], "Missing argument", 2),
    (["db", "drop"], "o such command", 2),
    (["show", "7f3a", "--store", "notes.txt"], "notes.txt", 5),
    (["ls", "--store", "no/such/folder/runs.db"], "no/such", 5),
    (["ls", "--store", "mysql://u:secret@h/db"], "supported are", 5),
    (["db", "check", "--store", "nowhere.db"], "there is no store", 5),
    (["db", "upgrade", "--store", "notes.txt"], "notes.txt", 5),
    (["db", "upgrade", "--store", "memory:"], "memory:", 5),
]


@pytest.fixture(scope="session")
def flows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Workflows good and bad. One folder for all tests: a process loads a file under its name once."""
    folder = tmp_path_factory.mktemp("flows")
    for name, text in FILES.items():
        (folder / name).write_text(text)
    return folder


@pytest.fixture
def folder(home: Path, flows: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder of the commands of this test."""
    monkeypatch.chdir(flows)
    return flows


Case = tuple[list[str], str, int]


def named(cases: list[Case]) -> list[object]:
    return [pytest.param(case, id=" ".join(case[0])[:60] or "nothing") for case in cases]


def check(done: Done, said: str, status: int) -> None:
    lines = done.err.splitlines()
    assert done.status == status, done.err
    assert len(lines) == 1, done.err
    assert lines[0].startswith("error: ")
    assert said in lines[0]
    assert "Traceback" not in done.err
    assert "a bug" not in done.err
    assert "secret" not in done.err
    assert "\x1b" not in done.err
    assert done.out == ""


@pytest.mark.parametrize("case", named(RUN))
def test_a_run_that_can_not_begin_is_one_line(cli: Cli, folder: Path, case: Case) -> None:
    """And nothing is recorded."""
    words, said, status = case
    check(cli("run", *words), said, status)
    assert cli("ls", "--json").json == []


@pytest.mark.parametrize("case", named(OTHERS))
def test_a_verb_that_can_not_be_followed_is_one_line(cli: Cli, folder: Path, store: Store, case: Case) -> None:
    """On a store with a run in it."""
    words, said, status = case
    failed_run(store)
    check(cli(*words), said, status)


def test_an_id_that_is_taken_is_a_conflict(cli: Cli, folder: Path, store: Store) -> None:
    """Exit status 4, and the run that has it is left alone."""
    failed_run(store)
    check(cli("run", "flow_good.py:flow", "x=1", "--run-id", "7f3a"), "there is a run 7f3a already", 4)


def test_a_live_run_is_not_resumed(cli: Cli, folder: Path, store: Store, home: Path) -> None:
    """Exit status 4, with who works on it; in the background likewise."""
    book = Book(store)
    entry = folder / "flow_good.py"
    store.close()
    with sqlite3.connect(home / "store.db") as connection:
        connection.execute(
            "UPDATE run SET entry = ?", (f'{{"module": "flow_good", "qualname": "flow", "file": "{entry}"}}',)
        )
    connection.close()
    check(cli("resume", book.run_id), "is being worked on by process", 4)
    check(cli("resume", book.run_id, "--detach"), "is being worked on by process", 4)


@pytest.mark.parametrize("verb", ["airflow", "cache", "code", "db", "queue", "schedule"])
def test_a_verb_of_verbs_alone_lists_them(cli: Cli, verb: str) -> None:
    done = cli(verb)
    assert done.status == 2
    assert done.err.startswith(f"Usage: dagengine {verb} [OPTIONS] COMMAND")
    assert "Commands:" in done.err


def test_resume_without_a_run_needs_exactly_one(cli: Cli, store: Store) -> None:
    """None, or several, are named as such."""
    check(cli("resume"), "no run is left to be resumed", 2)
    failed_run(store, "a1")
    failed_run(store, "b1")
    check(cli("resume"), "2 runs can be resumed: b1 (nightly), a1 (nightly)", 2)


def test_code_that_is_gone_is_named_on_resume(cli: Cli, store: Store) -> None:
    """The run stays as it is."""
    failed_run(store)
    check(cli("resume", "7f3a"), "there is no file /jobs/nightly.py", 2)


@pytest.mark.parametrize("content", ["workers = 0", "wrokers = 2", "store = ["])
def test_a_wrong_config_file_is_one_line_for_each_verb(cli: Cli, home: Path, content: str) -> None:
    """It names the file; doctor lists it among what is to be fixed."""
    home.mkdir()
    (home / "config.toml").write_text(content)
    check(cli("ls"), str(home / "config.toml"), 2)
    done = cli("doctor")
    assert done.status == 1
    assert str(home / "config.toml") in done.out


def test_a_database_of_another_application_is_refused(cli: Cli, home: Path) -> None:
    """Exit status 5, and it is not touched."""
    home.mkdir()
    with sqlite3.connect(home / "store.db") as connection:
        connection.execute("CREATE TABLE things (id)")
    connection.close()
    before = (home / "store.db").read_bytes()
    check(cli("ls"), "another application", 5)
    check(cli("db", "upgrade"), "another application", 5)
    assert (home / "store.db").read_bytes() == before


def test_a_newer_store_is_refused(cli: Cli, home: Path, empty_store: Path) -> None:
    """Exit status 5, and what to do."""
    home.mkdir()
    shutil.copy(empty_store, home / "store.db")
    with sqlite3.connect(home / "store.db") as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.close()
    check(cli("ls"), "newer dagengine", 5)


def test_a_store_that_is_not_there_is_named(cli: Cli, home: Path) -> None:
    """Where the run was looked for; and looking made nothing."""
    check(cli("show", "7f3a"), f"in {home}/store.db", 3)
    assert not home.exists()


def test_a_home_that_is_a_file_is_one_line(cli: Cli, home: Path) -> None:
    """Exit status 5."""
    home.write_text("x")
    check(cli("db", "upgrade"), "a file is in its place", 5)


def fail_with(error: BaseException) -> object:
    def callback() -> None:
        raise error

    return callback


@pytest.mark.parametrize(
    ("error", "said", "status"),
    [
        (StoreFull("the disk is full. Free some space.", store="x"), "the disk is full", 5),
        (RunOwned("taken", run_id="x", owner="y"), "taken", 4),
        (WorkerLost("killed", key="k", cause="c"), "killed", 1),
        (ArtifactMissing("gone", digest="d"), "gone", 5),
        (DagengineError("two\nlines"), "two lines", 1),
        (PermissionError(13, "Permission denied", "/x"), "Permission denied (/x)", 5),
        (OSError(28, "No space left on device"), "No space left on device", 5),
        (MemoryError(), "out of memory", 5),
    ],
)
def test_each_class_of_error_has_its_exit_status(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, error: Exception, said: str, status: int
) -> None:
    """Whatever a verb raises."""
    monkeypatch.setattr(dagengine.cli.version.command, "callback", fail_with(error))
    check(cli("version"), said, status)


def test_a_bug_of_ours_is_said_to_be_one(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exit status 70, one line; with --debug the traceback, too."""
    monkeypatch.setattr(dagengine.cli.version.command, "callback", fail_with(KeyError("seq")))
    done = cli("version")
    assert done.status == 70
    assert done.err == (
        "error: this is a bug of dagengine: KeyError: 'seq'. Please report it with what you typed; run again with"
        " --debug.\n"
    )
    done = cli("version", "--debug")
    assert done.status == 70
    assert "Traceback (most recent call last)" in done.err
    assert done.err.splitlines()[-1].startswith("error: this is a bug of dagengine")


def test_ctrl_c_is_no_error(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exit status 130, and no traceback."""
    monkeypatch.setattr(dagengine.cli.version.command, "callback", fail_with(KeyboardInterrupt()))
    done = cli("version")
    assert (done.status, done.err.split()) == (130, ["interrupted"])
