"""A server a part of whose data lies on a disk that can be filled: a small tmpfs, in a mount namespace of its own.

    holder     a process that has the mount; with its end the disk is gone
    server     started in the holder's namespace, as the user that it needs
    we         reach the disk through /proc/HOLDER/root

As root the namespace is enough. Others need one of users, too, in which they may mount; in a second one inside of it they
are themselves again, since PostgreSQL refuses to run as root. `mountable` says whether the machine lets us.
"""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import subprocess
from pathlib import Path

from tests.postgres.server import PATIENCE, Server, as_nobody

MIB = 1 << 20
SPARE = 256 << 10
"""Bytes that are left when the disk is filled: a run that has begun gets on for a while."""

_AS_ROOT = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]


@functools.cache
def mountable() -> str:
    """What is in the way of mounting something, or ""."""
    command = ["unshare", "--mount", *_AS_ROOT, "mount", "-t", "tmpfs", "none", "/mnt"]
    try:
        tried = subprocess.run(command, check=False, capture_output=True, text=True, timeout=PATIENCE)
    except OSError as error:
        return str(error)
    return tried.stderr.strip()


class SmallDisk(Server):
    """`what` lies on the small disk: "tables" (of new databases' default), or "log" (the write-ahead log)."""

    def __init__(self, what: str, size: int = 24 * MIB) -> None:
        super().__init__(segment_mib=1)
        place = self.folder / "small"
        place.mkdir()
        owner = "".join(f",{name[0]}id={number}" for name, number in as_nobody().items() if name != "extra_groups")
        mount = f"mount -t tmpfs -o size={size},mode=0700{owner} none {place} && echo mounted && exec cat"
        self._holder = subprocess.Popen(
            ["unshare", "--mount", *_AS_ROOT, "sh", "-c", mount], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert self._holder.stdout is not None
        assert self._holder.stdout.readline() == b"mounted\n"
        self.disk = Path(f"/proc/{self._holder.pid}/root{place}")
        self.around = ["nsenter", "--mount", f"--target={self._holder.pid}"]
        if os.geteuid() == 0:
            nobody = as_nobody()
            who = [f"--reuid={nobody['user']}", f"--regid={nobody['group']}", "--clear-groups"]
        else:
            self.around += ["--user", "--preserve-credentials"]
            who = []
            self.around += ["unshare", "--user", f"--map-user={os.geteuid()}", f"--map-group={os.getegid()}"]
        self.around += ["setpriv", "--pdeathsig=QUIT", *who]
        if what == "log":
            self._move_log()
            self.start()
        else:
            self.start()
            self.run(f"CREATE TABLESPACE small LOCATION '{place}'")
            self.run("ALTER DATABASE postgres SET default_tablespace = small")

    def _move_log(self) -> None:
        there = self.disk / "pg_wal"
        shutil.copytree(self.data / "pg_wal", there)
        shutil.rmtree(self.data / "pg_wal")
        (self.data / "pg_wal").symlink_to(self.folder / "small/pg_wal")
        if user := as_nobody():
            for path in (there, *there.rglob("*")):
                os.chown(path, user["user"], user["group"])

    def fill(self) -> None:
        """Only a little is left. The server may be writing meanwhile."""
        with contextlib.suppress(OSError), (self.disk / "ballast").open("wb", buffering=0) as ballast:
            while (free := shutil.disk_usage(self.disk).free) > SPARE:
                ballast.write(bytes(min(free - SPARE, MIB)))

    def make_room(self) -> None:
        (self.disk / "ballast").unlink()

    def remove(self) -> None:
        super().remove()
        assert self._holder.stdin is not None
        assert self._holder.stdout is not None
        self._holder.stdin.close()
        self._holder.wait(PATIENCE)
        self._holder.stdout.close()
