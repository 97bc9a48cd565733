"""What every store promises of the code that is kept in it."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import pytest

from dagengine.code.packing import keep_pack, load_pack
from dagengine.collecting import collect
from dagengine.errors import LoadError
from dagengine.packs import FORMAT, Pack
from dagengine.retention import DAY, Retention
from dagengine.storage.artifacts import LocalArtifacts
from dagengine.storage.code import PackFacts, add_pack, all_packs, packs_like, read_files, use_pack, used_pack
from dagengine.storage.interface import Store
from dagengine.storage.schedules import ScheduleRow, add
from tests.storage.kit import begin, new_run


def pack(**modules: bytes) -> Pack:
    """A pack with these modules in one folder."""
    data = {f"{name}-digest": source for name, source in modules.items()}
    listed = {name: [0, f"{name}.py", f"{name}-digest", len(source), "module"] for name, source in modules.items()}
    manifest = {
        "format": FORMAT,
        "entry": next(iter(modules)),
        "python": "3.11.0",
        "implementation": "CPython",
        "roots": ["/project"],
        "modules": listed,
        "left_out": {},
        "distributions": {},
    }
    return Pack(manifest, data.__getitem__)


def test_a_pack_is_kept_with_its_files_and_found_by_the_beginning_of_its_digest(store: Store) -> None:
    """Kept twice it is there once, and what comes back is what was given."""
    given = pack(flow=b"import helper\n" * 2_000, helper=b"\xff not text \x00")
    assert (
        keep_pack(store, given)
        == given.digest
        == keep_pack(store, pack(flow=b"import helper\n" * 2_000, helper=b"\xff not text \x00"))
    )
    assert [(found.digest, found.entry, found.modules) for found in all_packs(store)] == [(given.digest, "flow", 2)]
    assert packs_like(store, given.digest[:6]) == [given.digest]
    assert packs_like(store, "0" * 12) == []
    loaded = load_pack(store, given.digest)
    assert {name: loaded.source(name) for name in loaded.modules} == {
        "flow": b"import helper\n" * 2_000,
        "helper": b"\xff not text \x00",
    }


def test_files_are_shared_by_packs(store: Store) -> None:
    """A second pack adds only what is new; each names its own."""
    first, second = pack(flow=b"1", helper=b"2"), pack(helper=b"2", other=b"3")
    for given in (first, second):
        facts = PackFacts(given.digest, "flow", 2, 2, 0.0)
        add_pack(
            store, facts, given.text, {module.digest: given.source(name) for name, module in given.modules.items()}
        )
    assert set(read_files(store, first.digest)) == {"flow-digest", "helper-digest"}
    assert set(read_files(store, second.digest)) == {"helper-digest", "other-digest"}


def test_a_run_goes_on_with_the_pack_that_it_was_last_told_to(store: Store) -> None:
    """Of others nothing is known."""
    claim = begin(store)
    assert used_pack(store, claim.run_number) is None
    use_pack(store, claim.run_number, "a")
    use_pack(store, claim.run_number, "b")
    assert used_pack(store, claim.run_number) == "b"
    assert used_pack(store, claim.run_number + 1) is None


def test_code_that_is_not_there_says_what_to_do(store: Store) -> None:
    """One line."""
    with pytest.raises(LoadError, match=r"is not in the store\. Resume it with today's: --code current\.$"):
        load_pack(store, "0" * 64)


def test_packs_that_nothing_names_are_collected_with_the_files_that_only_they_have(
    store: Store, tmp_path: Path
) -> None:
    """Not those that a run was started with, or went on with, or a schedule names, nor a young one, nor a renewed one."""
    packs = {
        name: pack(**{name: b"1", "helper": b"2"}) for name in ("free", "begun", "used", "timed", "young", "renewed")
    }
    for name, given in packs.items():
        at = time.time() - (0 if name == "young" else 2 * DAY)
        facts = PackFacts(given.digest, name, 2, 2, at)
        add_pack(store, facts, given.text, {one.digest: given.source(name) for name, one in given.modules.items()})
    store.create_run(replace(new_run("old"), facts={"code": packs["begun"].digest}), None)
    use_pack(store, begin(store).run_number, packs["used"].digest)
    add(store, ScheduleRow("nightly", {"facts": {"code": packs["timed"].digest}}, b"", False, None))
    keep_pack(store, packs["renewed"])

    artifacts = LocalArtifacts(str(tmp_path / "artifacts"))
    never = Retention(None, None, None)
    assert collect(store, artifacts, None, never, dry_run=True).packs == 1
    assert len(all_packs(store)) == 6
    done = collect(store, artifacts, None, never)
    assert (done.packs, done.pack_bytes) == (1, 2)
    assert {found.entry for found in all_packs(store)} == packs.keys() - {"free"}
    for name in packs.keys() - {"free"}:
        assert set(read_files(store, packs[name].digest)) == {f"{name}-digest", "helper-digest"}
    assert read_files(store, packs["free"].digest) == {}
    assert keep_pack(store, packs["free"]) in {found.digest for found in all_packs(store)}
    assert set(read_files(store, packs["free"].digest)) == {"free-digest", "helper-digest"}


def test_the_codes_of_runs_are_told_from_a_number_on(store: Store) -> None:
    """With the greatest number there is; runs without code name none."""
    assert store.codes() == (set(), 0)
    store.create_run(replace(new_run("a"), facts={"code": "1"}), None)
    first = store.find_run("a").number
    begin(store, "b")
    store.create_run(replace(new_run("c"), facts={"code": "2"}), None)
    last = store.find_run("c").number
    assert store.codes() == ({"1", "2"}, last)
    assert store.codes(first) == ({"2"}, last)
    assert store.codes(last) == (set(), last)
