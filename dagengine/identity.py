"""Who a process is, whether another one still lives, and new ids.

Liveness is proved by three facts together, so that a reused pid or a reboot can't pass for a living owner: the boot id
of the machine, the pid, and the start time of the process. May import only model.
"""

from __future__ import annotations

import hashlib
import os
import platform
import secrets
import subprocess
import time
from pathlib import Path

from dagengine.model import ProcessRecord


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


def this_process() -> ProcessRecord:
    """A new record of this process."""
    pid = os.getpid()
    return ProcessRecord(new_id(), platform.node(), boot_id(), pid, start_time(pid) or 0.0, time.time())


def is_alive(process: ProcessRecord) -> bool:
    """Whether the process lives. One of another host counts as alive: nothing here can prove that it is dead."""
    if process.host != platform.node():
        return True
    return process.boot_id == boot_id() and start_time(process.pid) == process.start_time


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
