"""What `doctor` looks at. Each check says what it found, whether that is a fault, and what to do about it.

A check must not fail itself: what can't be found out is said, not raised.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import resource
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from dagengine.cli.terminal import plural, size
from dagengine.config import available_cpus, store_path, without_password
from dagengine.errors import DagengineError
from dagengine.units import GiB, MiB

if TYPE_CHECKING:
    from dagengine.config import Settings
    from dagengine.storage.interface import Store

LIBRARIES = (
    "alembic",
    "click",
    "cloudpickle",
    "fsspec",
    "grpcio",
    "msgspec",
    "networkx",
    "pyarrow",
    "rich",
    "sqlalchemy",
)

NETWORK_FILESYSTEMS = ("nfs", "cifs", "smb", "fuse.sshfs", "9p", "afs", "ceph", "glusterfs", "lustre")
"""Where processes do not share memory, which SQLite's write-ahead log needs."""

DISK_LOW, DISK_OUT = 1 * GiB, 64 * MiB
MEMORY_LOW = 512 * MiB
CHECKED_BYTES = 512 * MiB
"""Of a store's file: what is larger is not read page by page by `doctor`, which would take minutes."""
FILES_LOW = 512  # descriptors: two for each worker, one for each artifact that is being read or written


@dataclass(frozen=True, slots=True)
class Finding:
    what: str
    level: Literal["ok", "warn", "fail"]
    text: str
    advice: str = ""

    def to_json(self) -> dict[str, str]:
        return {"what": self.what, "level": self.level, "text": self.text, "advice": self.advice}


def all_findings(settings: Settings) -> list[Finding]:
    found = []
    for check in (python, libraries, system, memory, files, home, disk, filesystem, store, artifacts, spill, sockets):
        try:
            found += list(check(settings))
        except OSError as error:
            found.append(Finding(check.__name__, "warn", f"can't be looked at: {error.strerror or error}"))
    return found


def python(settings: Settings) -> Iterator[Finding]:
    yield Finding("python", "ok", f"{platform.python_version()} ({sys.executable})")


def libraries(settings: Settings) -> Iterator[Finding]:
    versions, missing = [], []
    for name in LIBRARIES:
        try:
            versions.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            missing.append(name)
    if missing:
        yield Finding("libraries", "fail", f"missing: {', '.join(missing)}", "Install dagengine again, with pip.")
    else:
        yield Finding("libraries", "ok", ", ".join(versions))


def system(settings: Settings) -> Iterator[Finding]:
    absent = [name for name in ("memfd_create", "eventfd", "pidfd_open") if not hasattr(os, name)]
    text = f"{platform.system()} {platform.release()}, {plural(available_cpus(), 'CPU')} for us"
    if absent:
        yield Finding("system", "warn", f"{text}; without {', '.join(absent)}", "Runs are slower here than on Linux.")
    else:
        yield Finding("system", "ok", text)
    if settings.workers.value > 4 * available_cpus():
        advice = "More workers than CPUs help only where tasks wait for something."
        yield Finding("workers", "warn", f"{settings.workers.value} for {available_cpus()} CPUs", advice)


def memory(settings: Settings) -> Iterator[Finding]:
    limit, where = memory_limit()
    if limit is None:
        yield Finding("memory", "warn", "can't be found out")
    elif limit < MEMORY_LOW:
        yield Finding("memory", "warn", f"{size(limit)} ({where})", "Give it more, or run fewer workers (--workers 1).")
    else:
        yield Finding("memory", "ok", f"{size(limit)} ({where})")
    try:
        shared = shutil.disk_usage("/dev/shm")
    except OSError:
        return
    yield Finding("/dev/shm", "ok", f"{size(shared.free)} free of {size(shared.total)}; values use memfd, not this")


def memory_limit() -> tuple[int | None, str]:
    """Bytes that this process may use, and who says so."""
    limits: list[tuple[int, str]] = []
    try:
        pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        limits.append((pages, "the machine's"))
    except (ValueError, OSError):
        pass
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            text = Path(path).read_text().strip()
        except OSError:
            continue
        if text.isdigit():
            limits.append((int(text), "the control group's limit"))
    return min(limits) if limits else (None, "")


def files(settings: Settings) -> Iterator[Finding]:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < FILES_LOW:
        yield Finding("open files", "warn", f"at most {soft}", "Raise it: ulimit -n 4096")
    else:
        yield Finding("open files", "ok", "no limit" if soft == resource.RLIM_INFINITY else f"at most {soft:,}")


def home(settings: Settings) -> Iterator[Finding]:
    folders = {"home": settings.home.value}
    if settings.folder != settings.home.value:
        folders["store folder"] = settings.folder
    for name, folder in folders.items():
        if not folder.exists():
            yield Finding(name, "ok", f"{folder} is not there yet; the first run makes it")
        elif not folder.is_dir():
            yield Finding(name, "fail", f"{folder} is not a folder", "Set DAGENGINE_HOME to one.")
        elif not os.access(folder, os.W_OK | os.X_OK):
            yield Finding(name, "fail", f"{folder} can't be written to", "Change its mode, or name another one.")
        elif folder.stat().st_mode & 0o077:
            mode = f"{folder.stat().st_mode & 0o777:o}"
            advice = f"Who writes there can run code as you: chmod 700 {folder}"
            yield Finding(name, "warn", f"{folder} is open to others (mode {mode})", advice)
        else:
            yield Finding(name, "ok", str(folder))


def _there(folder: Path) -> Path:
    """The folder, or the nearest one above it that is there."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return folder


def disk(settings: Settings) -> Iterator[Finding]:
    folder = _there(settings.folder)
    free = shutil.disk_usage(folder).free
    text = f"{size(free)} free in {folder}"
    if free < DISK_OUT:
        yield Finding("disk", "fail", text, "Free some, or name a store elsewhere: runs stop when it is full.")
    elif free < DISK_LOW:
        yield Finding("disk", "warn", text, "Free some, or name a store elsewhere.")
    else:
        yield Finding("disk", "ok", text)


def filesystem(settings: Settings) -> Iterator[Finding]:
    kind = filesystem_of(_there(settings.folder))
    if kind is not None and kind.startswith(NETWORK_FILESYSTEMS):
        advice = "SQLite can lose data on a network filesystem. Name a store on a local disk."
        yield Finding("filesystem", "fail", f"the store's folder is on {kind}", advice)


def filesystem_of(folder: Path) -> str | None:
    """The kind of filesystem that the folder is on; None where that is not told."""
    try:
        mounts = Path("/proc/mounts").read_text().splitlines()
    except OSError:
        return None
    best, kind = -1, None
    whole = folder.resolve()
    for line in mounts:
        fields = line.split()
        if len(fields) < 3:
            continue
        place = Path(fields[1].replace("\\040", " "))
        if (place == whole or place in whole.parents) and len(place.parts) >= best:
            best, kind = len(place.parts), fields[2]
    return kind


def store(settings: Settings) -> Iterator[Finding]:
    from dagengine.storage import open_existing

    path = store_path(settings.store.value)
    if path is not None and not path.parent.exists() and settings.store.origin == "default":
        return  # said of the home already
    try:
        opened = open_existing(settings.store.value)
    except DagengineError as error:
        yield Finding("store", "fail", str(error))
        return
    if opened is None:
        place = without_password(settings.store.value) if path is None else path
        yield Finding("store", "ok", f"{place} is not there yet; the first run makes it")
        return
    try:
        yield from _soundness(opened)
        yield from _crashed(opened)
    except DagengineError as error:
        yield Finding("store", "fail", str(error))
    finally:
        opened.close()


def _soundness(opened: Store) -> Iterator[Finding]:
    figures = opened.figures()
    counted = f"{plural(figures.runs, 'run')}, {plural(figures.steps, 'step')}, {size(figures.bytes)}"
    if figures.durability != "ok":
        yield Finding("durability", "warn", figures.durability, "Ask whoever runs the server, or name another store.")
    if figures.bytes > CHECKED_BYTES:
        yield Finding(
            "store", "ok", f"{opened.url}: schema {figures.revision}; {counted}; every page: `dagengine db check`"
        )
        return
    integrity = opened.check()["integrity"]
    if integrity == "ok":
        yield Finding("store", "ok", f"{opened.url}: schema {figures.revision}, sound; {counted}")
    else:
        advice = "Keep a copy of it, and restore one from before; `dagengine db check` shows all."
        yield Finding("store", "fail", f"{opened.url} is damaged: {integrity}", advice)


def _crashed(opened: Store) -> Iterator[Finding]:
    from dagengine.model import RunState
    from dagengine.storage.interface import RunFilter
    from dagengine.views import run_state

    running = opened.runs(RunFilter((RunState.RUNNING,), limit=10_000))
    crashed = [run for run in running if run_state(run) is RunState.CRASHED]
    if crashed:
        names = ", ".join(run.id[:8] for run in crashed[:3])
        advice = f"To go on: dagengine resume {crashed[0].id[:8]}"
        text = f"{plural(len(crashed), 'run')} whose process died: {names}{', …' if len(crashed) > 3 else ''}"
        yield Finding("crashed", "warn", text, advice)


def artifacts(settings: Settings) -> Iterator[Finding]:
    from dagengine.storage import open_artifacts
    from dagengine.storage.mounts import NOTE, check_mounted

    place = settings.artifacts.value
    try:
        if "://" not in place and not Path(place).exists():
            check_mounted(Path(place).absolute(), settings.folder / NOTE)
            return
        opened = open_artifacts(place, cache=str(settings.folder / "cache"))
        try:
            place, swept = opened.url, opened.sweep()
        finally:
            opened.close()
    except DagengineError as error:
        yield Finding("artifacts", "fail", str(error))
        return
    left = f"; removed {plural(swept, 'file')} that dead processes had left" if swept else ""
    yield Finding("artifacts", "ok", f"{place}{left}")


def spill(settings: Settings) -> Iterator[Finding]:
    from dagengine.spill_places import tried

    for sound, text in tried(settings.spill.value):
        yield Finding("spill", "ok" if sound else "fail", text)


def sockets(settings: Settings) -> Iterator[Finding]:
    from dagengine.control import sweep

    swept = sweep(settings.control)
    if swept:
        yield Finding("sockets", "ok", f"removed {plural(swept, 'socket')} of dead processes")
