"""`rm`, `pin`, `unpin`, `gc`, `db stats` and `db backup`, as a person uses them."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from hashlib import sha256
from pathlib import Path

from dagengine.model import RunState
from dagengine.storage.artifacts import LocalArtifacts
from dagengine.storage.interface import Store
from dagengine.storage.writes import FinishRun
from tests.cli.conftest import Cli
from tests.storage.kit import DEFINITION, begin, new_run, record, recorded, step, succeed


def ended(store: Store, run_id: str = "7f3a") -> None:
    """A run that succeeded a long time ago."""
    claim = begin(store, run_id)
    recorded(
        store,
        claim,
        record(step(0), definitions=(DEFINITION,)),
        succeed(0, 0),
        FinishRun(RunState.SUCCEEDED, 2e6),
    )


def test_a_run_is_removed_by_its_prefix(cli: Cli, store: Store) -> None:
    """It says which, and is not found again; a wrong name among several removes none."""
    ended(store)
    wrong = cli("rm", "7f", "nosuch")
    assert (wrong.status, wrong.err.count("\n")) == (3, 1)
    assert cli("rm", "7f").out == "run 7f3a of nightly removed\n"
    assert cli("show", "7f3a").status == 3


def test_what_has_not_ended_is_not_removed_unasked(cli: Cli, store: Store) -> None:
    """One line says to cancel it; --force removes what nobody works on."""
    store.create_run(new_run("9c00"), None)
    refused = cli("rm", "9c00")
    assert refused.status == 4
    assert refused.err == "error: run 9c00 is pending: cancel it first\n"
    assert cli("rm", "--force", "9c00").status == 0


def test_a_pinned_run_is_kept(cli: Cli, store: Store) -> None:
    """From `gc` and from `rm`, until it is unpinned; the list says by whom and why."""
    ended(store)
    assert cli("pin").err.startswith("no run is pinned")
    assert cli("pin", "7f3a", "--why", "the paper").status == 0
    [listed] = cli("pin", "--json").json
    assert (listed["id"], listed["why"]) == ("7f3a", "the paper")
    assert cli("gc").out.startswith("0 runs removed")
    refused = cli("rm", "7f3a")
    assert (refused.status, refused.err.count("\n")) == (4, 1)
    assert "unpin it" in refused.err
    assert cli("unpin", "7f3a").out == "run 7f3a is not pinned\n"
    assert cli("gc").out.startswith("1 run removed: 7f3a\n")


def test_gc_says_what_would_go_and_what_is_no_period(cli: Cli, store: Store) -> None:
    """A dry run changes nothing; `never` keeps; anything else than a period is refused in one line."""
    ended(store)
    dry = cli("gc", "--dry-run", "--json").json
    assert (dry["dry_run"], dry["runs"], dry["complete"]) == (True, ["7f3a"], True)
    never = cli("gc", "--records", "never", "--payloads", "never", "--failed-payloads", "never", "--json").json
    assert (never["runs"], never["expired"]) == ([], [])
    values = cli("gc", "--records", "never", "--json").json
    assert values["expired"] == ["7f3a"]
    assert cli("show", "7f3a").status == 0
    wrong = cli("gc", "--records", "soon")
    assert wrong.status == 2
    assert "no period" in wrong.err
    assert cli("gc", "--seconds", "0").status == 1


def test_a_store_is_counted_and_copied(cli: Cli, store: Store, home: Path, tmp_path: Path) -> None:
    """The copy is a store by itself, and is not made over anything."""
    ended(store)
    stats = cli("db", "stats", "--json").json
    assert (stats["runs"], stats["states"], stats["workflows"]) == (1, {"succeeded": 1}, {"nightly": 1})
    assert "1 nightly" in cli("db", "stats").out
    assert "artifacts" not in stats
    place = LocalArtifacts(str(home / "artifacts"))
    for data in (b"one", b"twice as much"):
        place.put(sha256(data).hexdigest(), len(data), data)
    assert cli("db", "stats", "--artifacts", "--json").json["artifacts"] == {"count": 2, "bytes": 16}
    assert "2 artifacts: 16 B" in cli("db", "stats", "--artifacts").out
    copy = tmp_path / "copy.db"
    assert cli("db", "backup", str(copy)).status == 0
    assert cli("--store", str(copy), "ls", "--json").json[0]["id"] == "7f3a"
    with closing(sqlite3.connect(copy)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    again = cli("db", "backup", str(copy))
    assert (again.status, again.err.count("\n")) == (2, 1)


def test_a_run_is_taken_to_another_store(cli: Cli, store: Store, tmp_path: Path) -> None:
    """By a file; a second time its id is taken; and a file that is no archive is refused in one line."""
    ended(store)
    file, other = tmp_path / "run.tar", str(tmp_path / "other.db")
    assert cli("export", "7f3a", str(file)).status == 0
    again = cli("export", "7f3a", str(file))
    assert (again.status, again.err) == (2, f"error: {file} is there already: name another file, or remove it.\n")
    assert cli("--store", other, "import", str(file)).out.startswith("run 7f3a imported")
    assert cli("--store", other, "show", "7f3a").status == 0
    assert cli("--store", other, "import", str(file)).status == 4
    file.write_bytes(b"noise" * 500)
    noise = cli("import", str(file))
    assert (noise.status, noise.err.count("\n")) == (5, 1)
