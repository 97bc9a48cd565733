"""A run with its values in one file, to be taken to another store: a tar archive that other tools can look into.

    run.json               the run's own row, and the version of the format
    rows/TABLE-N.jsonl     its other rows
    artifacts/DIGEST       large values, arguments and states
    code.json, code/DIGEST the pack of code that it goes on with, and the files in it
    end.json               how many members there are, and how many runs follow: an archive without it was cut off

A run comes after those that belong to it (`families`), each with such members of its own; an artifact that several name is
there once. Nothing in the archive is a path to write to, and nothing of it is unpickled here; but who resumes an imported run, or reads
its values, runs what is in it: import only what you would run. Artifacts are held against their digests.

May import errors, model, identity, families, code.views and the interfaces of storage.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from dagengine.errors import ArtifactDamaged, BadArguments, RunExists, RunOwned, StoreUnavailable
from dagengine.identity import is_alive
from dagengine.model import INLINE_LIMIT, RunRecord, RunState
from dagengine.storage.interface import ArtifactStore, Store

FORMAT = 2
FORMAT_OF_ONE = 1
"""Of an archive with one run, which older versions read, too."""

ROWS_MAX = 256 * 1024 * 1024
"""Bytes in one member of rows: far above what is written here, and what can be held in memory."""


class _Artifacts:
    """The artifacts that rows name, each once, with their sizes."""

    def __init__(self) -> None:
        self.found: dict[str, int] = {}

    def note(self, table: str, row: dict[str, Any]) -> None:
        if table == "run":
            for name in ("inputs", "result_inputs"):
                self.found.update((part[0], part[1]) for part in json.loads(row[name]) if isinstance(part, list))
            return
        digest = row.get("value_digest" if table == "step" else "digest")
        size = row.get("value_size" if table == "step" else "size")
        if digest and size is not None and row.get("value") is None and (table == "edge" or size > INLINE_LIMIT):
            self.found[digest.hex() if isinstance(digest, bytes) else digest] = size


def export_run(store: Store, artifacts: ArtifactStore, run: RunRecord, file: Path, *, family: bool = True) -> int:
    """Write the run to `file`, which must not be there, after its children and what it goes on in, or without them;
    returns the file's size in bytes.

    Raises BadArguments if the file can't be a new one; RunOwned while a live process works on one of the runs;
    StoreUnavailable; ArtifactMissing if one of their values is gone.
    """
    from dagengine.families import family_of

    runs = family_of(store, run) if family else [run]
    for one in runs:
        if one.state is RunState.RUNNING and one.owner is not None and is_alive(one.owner):
            raise RunOwned(f"run {one.id} is being worked on: wait for it, or cancel it", run_id=one.id)
    there_already = f"{file} is there already: name another file, or remove it."
    if file.exists():
        raise BadArguments(there_already)
    if not file.parent.is_dir():
        raise BadArguments(f"there is no folder {file.parent} to write {file.name} to. Make it, or name another file.")
    written: set[str] = set()
    with tempfile.NamedTemporaryFile(dir=file.parent, prefix=f".{file.name}-") as unfinished:
        with tarfile.open(fileobj=unfinished, mode="w", format=tarfile.PAX_FORMAT) as archive:
            for number, one in enumerate(runs):
                _write(archive, store, artifacts, one, written=written, more=len(runs) - number - 1)
        unfinished.flush()
        os.fsync(unfinished.fileno())
        try:
            os.link(unfinished.name, file)  # whole or not at all, and in nobody's place
        except FileExistsError:  # made meanwhile
            raise BadArguments(there_already) from None
    return file.stat().st_size


def _write(
    archive: tarfile.TarFile, store: Store, artifacts: ArtifactStore, run: RunRecord, *, written: set[str], more: int
) -> None:
    """One run. `written`: digests of artifacts that are in the archive; `more`: runs that come after this one."""
    from dagengine.code.views import packed_code
    from dagengine.storage.transfer import row_text, rows_of, run_row

    named = _Artifacts()
    members = 0
    row = run_row(store, run)
    if RunState(row["state"]) is RunState.RUNNING:  # its owner is dead
        row["state"] = str(RunState.INTERRUPTED)
    named.note("run", row)
    head = {"format": FORMAT if more else FORMAT_OF_ONE, "row": json.loads(row_text(row))}
    _add(archive, "run.json", json.dumps(head).encode())
    for number, (table, rows) in enumerate(rows_of(store, run.number)):
        for each in rows:
            named.note(table, each)
        _add(archive, f"rows/{table}-{number}.jsonl", "\n".join(map(row_text, rows)).encode())
        members += 1
    for digest, size in named.found.items():
        if digest in written:
            continue
        written.add(digest)
        with Path(artifacts.local_path(digest, size)).open("rb") as source:
            _add(archive, f"artifacts/{digest}", source, size)
        members += 1
    for name, data in packed_code(store, run):
        _add(archive, name, data)
        members += 1
    _add(archive, "end.json", json.dumps({"members": members, **({"more": more} if more else {})}).encode())


def import_run(store: Store, artifacts: ArtifactStore, file: Path) -> str:
    """Bring the runs in `file` into the store, all at once; returns the id of the one that was exported, the last. Can be
    resumed, if it could be where it came from. Of its children those that are there already are left as they are.

    Raises RunExists if its id is taken; StoreUnavailable if the file is not such an archive, or not a whole one;
    ArtifactDamaged.
    """
    from dagengine.storage.transfer import finish

    arrived: list[_Arriving] = []
    one: _Arriving | None = None
    more = 1
    try:
        for name, size, data in _members(file):
            if more and name == "run.json" and one is None:
                one = _Arriving(store, artifacts, file, json.loads(_read(data, size)))
            elif one is not None and name == "end.json":
                said = json.loads(_read(data, size))
                one.check(said["members"])
                more = int(said.get("more", 0))
                arrived.append(one)
                one = None
            elif one is not None:
                one.take(name, size, data)
            else:
                raise _unfit(file, f"{name[:80]!r} does not belong into it")
    except (tarfile.TarError, KeyError, ValueError, TypeError, EOFError) as error:
        raise _unfit(file, " ".join(str(error).split()) or type(error).__name__) from None
    if more or one is not None:
        raise _unfit(file, "it is cut off")
    *others, last = arrived
    if last.known is not None:
        raise last.known
    finish(store, [each.arrival for each in (*others, last) if each.arrival is not None])
    return last.run_id


class _Arriving:
    """One run of an archive. `known`: why it is not brought in."""

    def __init__(self, store: Store, artifacts: ArtifactStore, file: Path, head: dict[str, Any]) -> None:
        from dagengine.code.views import ArrivingCode
        from dagengine.storage.transfer import Arrival, row_of

        if head["format"] not in (FORMAT_OF_ONE, FORMAT):
            raise _unfit(file, f"it has format {head['format']}, this dagengine reads {FORMAT}")
        row = row_of("run", json.dumps(head["row"]))
        self.run_id = str(row["id"])
        self.known: RunExists | None = None
        self.arrival: Arrival | None = None
        self._artifacts = artifacts
        self._file = file
        self._code = ArrivingCode(store)
        self._members = 0
        try:
            self.arrival = Arrival(store, row, time.time())
        except RunExists as error:
            self.known = error

    def take(self, name: str, size: int, data: IO[bytes]) -> None:
        from dagengine.storage.transfer import TABLES, row_of

        folder, _, rest = name.partition("/")
        table = rest.partition("-")[0]
        if folder == "rows" and table in TABLES:
            rows = [row_of(table, line) for line in _read(data, size).decode().splitlines()]
            if self.arrival is not None:
                self.arrival.add(table, rows)
        elif folder == "artifacts":
            _put(self._artifacts, rest, size, data)
        elif name == "code.json" or folder == "code":
            self._code.add(rest, _read(data, size))
        else:
            raise _unfit(self._file, f"{name[:80]!r} does not belong into it")
        self._members += 1

    def check(self, members: int) -> None:
        """That is all of it. Raises StoreUnavailable."""
        if members != self._members:
            raise _unfit(self._file, f"run {self.run_id[:12]} is not whole")
        self._code.keep()


def _add(archive: tarfile.TarFile, name: str, data: bytes | IO[bytes], size: int | None = None) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data) if isinstance(data, bytes) else size or 0
    member.mode = 0o600
    archive.addfile(member, io.BytesIO(data) if isinstance(data, bytes) else data)


def _members(file: Path) -> Iterator[tuple[str, int, IO[bytes]]]:
    with tarfile.open(file, mode="r:") as archive:
        for member in archive:
            data = archive.extractfile(member) if member.isreg() else None
            if data is None:
                raise _unfit(file, f"{member.name[:80]!r} is not a plain file")
            yield member.name, member.size, data


def _read(data: IO[bytes], size: int) -> bytes:
    if size > ROWS_MAX:
        raise ValueError(f"a member of {size:,} bytes is too large")
    return data.read(size)


def _put(artifacts: ArtifactStore, digest: str, size: int, data: IO[bytes]) -> None:
    """By way of a file without a name: an artifact may be larger than memory."""
    known = hashlib.sha256()
    with tempfile.TemporaryFile() as copy:
        while chunk := data.read(1 << 20):
            known.update(chunk)
            copy.write(chunk)
        if known.hexdigest() != digest:
            raise ArtifactDamaged(f"the value {digest[:12]} in the archive is damaged: copy it again", digest=digest)
        copy.flush()
        artifacts.put(digest, size, copy.fileno())


def _unfit(file: Path, why: str) -> StoreUnavailable:
    return StoreUnavailable(f"{file} can't be imported: {why}. Export the run again.", store=str(file))
