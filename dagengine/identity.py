"""Who a process is, whether another one still lives, and new ids.

Liveness is proved by the pid and the start time of the process together, so that a reused pid can't pass for a living owner;
and that only where the pid means something: under this host name, in this boot of this kernel, in this pid namespace. Two
machines, or two containers, may have one name. What then?

    same name     other boot            a reboot, or another machine     the lease decides; without one, it was a reboot
    same name     other pid namespace   another container, or a former   the lease decides; without one, whether it listens at
                                        one, of this kernel              its socket, which lies beside the store
    other name                          another machine                  the lease decides; without one, it counts as alive

May import only model.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import secrets
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from dagengine.model import ProcessRecord

_MACHINES_OWN = 0xEFFFFFFC
"""The number of the first pid namespace of every Linux kernel."""

_SUN_PATH = 107
"""Bytes of a socket's path, the end not counted (Linux; macOS has 103, which the check below uses)."""


def new_id() -> str:
    """128 random bits in hex. Not ordered by time: people type prefixes, and those of one day must differ at once."""
    return secrets.token_hex(16)


def boot_id() -> str:
    """What changes with each boot of this machine."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        # macOS and others: the time of the boot. Where even that is missing, the pid and start time must do.
        result = subprocess.run(["sysctl", "-n", "kern.boottime"], capture_output=True, text=True, check=False)
        return result.stdout.strip()


def start_time(pid: int) -> float | None:
    """When the process `pid` started, in an unknown unit that only serves to compare; None if there is none.

    A zombie counts as gone: it runs nothing.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        if Path("/proc/self/stat").exists():
            return None
        return _start_time_by_ps(pid)
    return None if fields[0] in (b"Z", b"X") else float(fields[19])


def _start_time_by_ps(pid: int) -> float | None:
    result = subprocess.run(["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False)
    text = " ".join(result.stdout.split())
    return time.mktime(time.strptime(text, "%a %b %d %H:%M:%S %Y")) if text else None


def pid_space() -> str:
    """In which namespace pids are meant here: "" for a machine's own, else a number that names one of this kernel's."""
    try:
        number = Path("/proc/self/ns/pid").stat().st_ino
    except OSError:
        return ""
    return "" if number == _MACHINES_OWN else str(number)


def this_process() -> ProcessRecord:
    """A new record of this process."""
    pid, space = os.getpid(), pid_space()
    where = f"{boot_id()}/{space}" if space else boot_id()
    return ProcessRecord(new_id(), platform.node(), where, pid, start_time(pid) or 0.0, time.time())


def is_here(process: ProcessRecord) -> bool:
    """Whether its pid is one of those that are seen here."""
    return process.host == platform.node() and process.boot_id.partition("/")[::2] == (boot_id(), pid_space())


def proof(process: ProcessRecord) -> bool | None:
    """Whether the process lives, as far as it can be proved from here; None: it can't be."""
    if process.host != platform.node():
        return None
    if is_here(process):
        return start_time(process.pid) == process.start_time
    if process.leased:
        return None
    return process.boot_id.partition("/")[0] == boot_id() and any(
        listens(folder, f"{process.id}.sock") for folder in _sockets
    )


def is_alive(process: ProcessRecord) -> bool:
    """Whether the process lives, or nothing here can prove that it is dead."""
    return proof(process) is not False


# ---- sockets, of those whose pids are not seen here --------------------------------------------

_sockets: set[Path] = set()


def sockets_in(folder: Path) -> None:
    """Processes that work on the runs of a store that this process has opened listen in this folder."""
    _sockets.add(folder)


def listens(folder: Path, name: str) -> bool:
    """Whether somebody listens at the socket, or nothing proves that nobody does."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(1.0)
        try:
            with short_path(folder, name) as path:
                connection.connect(path)
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except OSError:
            return True
    return True


@contextlib.contextmanager
def short_path(folder: Path, name: str) -> Iterator[str]:
    """A path of the socket that fits in the kernel's 108 bytes, however deep the folder lies."""
    path = str(folder / name)
    if len(os.fsencode(path)) <= _SUN_PATH - 4 or not Path("/proc/self/fd").is_dir():
        yield path
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{descriptor}/{name}"
    finally:
        os.close(descriptor)


# ---- whose a file is, by its name ------------------------------------------------------------


def process_mark() -> str:
    """This process, as the beginning of a file's name: host-boot-pid-start."""
    pid = os.getpid()
    return f"{_short(platform.node())}-{_short(boot_id())}-{pid}-{start_time(pid) or 0:.0f}"


def is_mark_dead(name: str) -> bool:
    """Whether the process whose mark, with a further part, is `name` is proved to be gone. One of another host never
    is, and neither is what is not a mark."""
    try:
        host, boot, pid, start, _ = name.split("-")
        alive = start_time(int(pid)) == float(start)
    except ValueError:
        return False
    if host != _short(platform.node()):
        return False
    return boot != _short(boot_id()) or not alive


def _short(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]
