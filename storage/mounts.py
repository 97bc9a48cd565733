"""Whether a folder lies on the filesystem on which it lay before: below an empty mount point nobody would miss anything,
and values would be written that are out of sight once the disk is mounted.

    opened, and its filesystem is not the note's own  ──▶ noted: folder ─▶ mount point
    opened again, and nothing is mounted there        ──▶ has values: noted anew;  empty: refused, "mount it"

A folder on the filesystem of the note itself (`artifacts/` beside a store) is never noted: nothing is mounted there that
could be missing. The note is of this machine, and a help, no promise: where it can't be written, nothing is refused.

May import nothing of ours but errors.
"""

from __future__ import annotations

import json
import os
import re
from contextlib import suppress
from pathlib import Path
from typing import Final

from dagengine.errors import StoreUnavailable

NOTE: Final = "mounts.json"

_SHARD = re.compile(r"[0-9a-f]{2}")


def check_mounted(folder: Path, note: Path) -> None:
    """Before anything is made there. `note`: a file in a folder of this machine, which need not be there.

    Raises StoreUnavailable.
    """
    before = _noted(note).get(str(folder))
    if before is None or os.path.ismount(before) or _has_values(folder):
        return
    raise StoreUnavailable(
        f"the artifacts in {folder} were on a filesystem mounted at {before}, where nothing is mounted now: mount it."
        f" If the folder is to be used without it, remove {note}",
        store=str(folder),
    )


def note_mount(folder: Path, note: Path) -> None:
    """The folder is in use."""
    known = _noted(note)
    now = mount_point(folder)
    wanted = {**known, str(folder): str(now)}
    if now == mount_point(note):
        del wanted[str(folder)]
    if wanted == known:
        return
    unfinished = note.with_name(f".{note.name}-{os.getpid()}")
    with suppress(OSError):  # who only reads may not be able to
        try:
            unfinished.write_text(json.dumps(wanted, indent=2) + "\n")
            unfinished.replace(note)
        finally:
            unfinished.unlink(missing_ok=True)


def mount_point(path: Path) -> Path:
    """Of the filesystem that the path lies on, or would."""
    whole = Path(os.path.realpath(path))
    return next((place for place in (whole, *whole.parents) if os.path.ismount(place)), Path("/"))


def _noted(note: Path) -> dict[str, str]:
    try:
        found = json.loads(note.read_text())
    except (OSError, ValueError):
        return {}
    return {str(folder): str(mount) for folder, mount in found.items()} if isinstance(found, dict) else {}


def _has_values(folder: Path) -> bool:
    try:
        with os.scandir(folder) as entries:
            return any(_SHARD.fullmatch(entry.name) for entry in entries)
    except OSError:
        return False
