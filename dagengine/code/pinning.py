"""Which code a run goes on with: its own, from its pack, or today's.

A body is called in this process, so its modules have to be the pack's here, too. Where the files still are as they were,
nothing special happens. Where they are not, and none of the modules is loaded, they are imported from the pack. A process
that has another version loaded can't have both: it says so, and the command line, a process of its own, can.

May import errors, functions, model, packing, packs, project, tasks, workflows and storage.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from dagengine.code.packing import Shelf, agrees_with_disk, conflict_here, keep_code, load_pack, surroundings_changed
from dagengine.errors import BadArguments, DefinitionError, LoadError
from dagengine.functions import Reference, resolve
from dagengine.model import RunRecord, RunState
from dagengine.packs import Pack, Packed, install, install_file
from dagengine.storage.code import find_pack, use_pack, used_pack
from dagengine.storage.interface import Store
from dagengine.tasks import Task
from dagengine.workflows import Workflow, of_task

PINNED = "pinned"
CURRENT = "current"


class Pin:
    """The code that one run goes on with. `digest`: of its pack, if it has one; `current`: it is today's."""

    def __init__(self, store: Store, record: RunRecord, digest: str | None, current: bool) -> None:
        self._store = store
        self._record = record
        self.digest = digest
        self._current = current
        if current:
            self.digest = keep_code(store, self.workflow()).get("code")

    def workflow(self) -> Workflow[..., Any]:
        """Raises LoadError or DefinitionError."""
        return load_workflow(self._record)

    def hold(self, record: RunRecord) -> RunRecord:
        """The record of the run, which this process has claimed, with the code that it goes on with from here on."""
        facts: dict[str, Any] = {**record.facts, "code": self.digest}
        if self._current and self.digest is not None and self.digest != code_of(self._store, record):
            use_pack(self._store, record.number, self.digest)
            facts["changed_code"] = True
        return replace(record, facts={name: fact for name, fact in facts.items() if fact is not None})


def load_workflow(record: RunRecord) -> Workflow[..., Any]:
    """The run's workflow as this process imports it. Raises LoadError or DefinitionError."""
    reference = Reference.from_json(record.entry)
    found = resolve(reference)
    if isinstance(found, Task):
        return of_task(found)
    if not isinstance(found, Workflow):
        raise DefinitionError(f"{reference} is not a workflow any more.")
    return found


def code_of(store: Store, record: RunRecord) -> str | None:
    """The digest of the pack that the run goes on with unless somebody says otherwise."""
    return used_pack(store, record.number) or record.code


def pin(store: Store, record: RunRecord, code: str, shelf: Shelf, digest: str | None = None) -> Pin:
    """See to it that the run's modules are those of its pack, in this process as well; or, if `code` says so, today's.

    digest: of the pack that it goes on with, where that is known. Raises LoadError if another version of one of them is loaded here.
    """
    if code not in (PINNED, CURRENT):
        raise BadArguments(f'code={code!r}: a run goes on with its own code, "pinned", or with today\'s, "current".')
    if code == CURRENT:
        return Pin(store, record, None, True)
    digest = digest or code_of(store, record)
    if digest is None and record.state is RunState.PENDING:
        return Pin(store, record, None, True)  # it has not begun, and from here on it has the code that it begins with
    if digest is not None:
        _have_here(record, shelf.pack(digest), lambda: install_file(shelf.give(digest)[1]))
    return Pin(store, record, digest, False)


def import_from_pack(store: Store, record: RunRecord) -> None:
    """Have the run's values read here with its own classes, whatever has become of their modules.

    Raises LoadError if the pack is not there, or if another version of one of its modules is loaded here.
    """
    digest = code_of(store, record)
    if digest is not None:
        pack = load_pack(store, digest)
        _have_here(record, pack, lambda: install(pack, None))


def _have_here(record: RunRecord, pack: Pack, make_importable: Callable[[], None]) -> None:
    folder = str(Path(record.entry["file"]).parent) if record.entry.get("file") else None
    if folder is not None and folder not in sys.path and Path(folder).is_dir():
        sys.path.insert(0, folder)  # as loading the file does, so that what lies beside it is held against the pack
    if agrees_with_disk(pack):
        return
    other = conflict_here(pack)
    if other is not None:
        raise LoadError(
            f"run {record.id[:8]} was started with another version of {other} than this process has loaded. Resume it"
            f' from the command line, dagengine resume {record.id[:8]}, or with today\'s code: code="current".'
        )
    make_importable()


def changed_surroundings(store: Store, record: RunRecord) -> str | None:
    """One line on what is another version here than where the run was started; None if nothing is."""
    digest = code_of(store, record)
    manifest = None if digest is None else find_pack(store, digest)
    return None if manifest is None else surroundings_changed(json.loads(manifest))


def changed_files(store: Store, record: RunRecord) -> list[str]:
    """The project's files that are not what they were when the run was started, where they still are; as `code ls` names
    them. The run goes on with its own code whatever has become of them."""
    digest = code_of(store, record)
    manifest = None if digest is None else find_pack(store, digest)
    if manifest is None:
        return []
    pack = Pack(json.loads(manifest), lambda wanted: b"")  # what is in it is not read
    return [module.file for name, module in pack.modules.items() if _is_other(Path(pack.path(name)), module)]


def _is_other(path: Path, module: Packed) -> bool:
    if module.kind == "namespace":
        return False
    try:
        return path.is_file() and sha256(path.read_bytes()).hexdigest() != module.digest
    except OSError:
        return False  # not to be read: nothing is known
