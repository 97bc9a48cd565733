"""A real pooler before the session's server: PgBouncer in transaction mode, which gives each transaction another session.

It is taken from the system if it is installed; else its Debian package is fetched with `apt-get download`, which needs no
rights, and unpacked into a folder of temporary files: nothing is installed. Where neither can be had there is none
(`binary` is None), and a test that needs one says so.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import functools
import os
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path

from tests.postgres.server import PATIENCE, Server, as_nobody, shared

_LIBC = ctypes.CDLL(None)  # loaded before a child becomes a user who can't read Python's files

PACKAGES = ("pgbouncer", "libc-ares2")
"""What it needs beyond these (libevent, OpenSSL) a machine with a PostgreSQL client or Python mostly has."""

NONE = "no PgBouncer: install the package pgbouncer, or let apt-get fetch it"

SESSIONS = 4
"""Of the server, taken in turn, so that a transaction hardly ever has the session of the one before it."""

SETTINGS = """\
[databases]
* = host={server} port=5432
[pgbouncer]
listen_addr =
listen_port = 6432
unix_socket_dir = {folder}
auth_type = trust
auth_file = {folder}/users
pool_mode = transaction
default_pool_size = {sessions}
server_round_robin = 1
max_client_conn = 200
server_login_retry = 1
logfile = {folder}/log
"""


@functools.cache
def binary() -> tuple[Path, dict[str, str]] | None:
    """The program and the environment that it runs in."""
    found = shutil.which("pgbouncer", path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    places: list[tuple[Path, dict[str, str]]] = [(Path(found), {})] if found else []
    folder = Path(tempfile.gettempdir()) / f"dagengine-pgbouncer-{os.getuid()}"
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        unpacked = _unpacked(folder)
        libraries = {str(library.parent) for library in unpacked.rglob("lib*.so*")}
        places.append((unpacked / "usr/sbin/pgbouncer", {"LD_LIBRARY_PATH": ":".join(sorted(libraries))}))
    for place, environment in places:
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            subprocess.run([place, "--version"], check=True, capture_output=True, env=environment, timeout=PATIENCE)
            return place, environment
    return None


def _unpacked(folder: Path) -> Path:
    """The packages' files; fetched by one of several test processes. A failure is remembered for the machine's life."""
    folder.mkdir(mode=0o755, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "done").exists():
            (folder / "done").touch()
            subprocess.run(
                ["apt-get", "download", *PACKAGES], cwd=folder, check=True, capture_output=True, timeout=PATIENCE
            )
            for package in folder.glob("*.deb"):
                subprocess.run(["dpkg-deb", "-x", package, folder], check=True, capture_output=True, timeout=PATIENCE)
    return folder


class Pooler:
    """PgBouncer before a server. It ends with the process that started it."""

    def __init__(self, server: Server) -> None:
        found = binary()
        assert found is not None, NONE
        program, environment = found
        self.folder = Path(tempfile.mkdtemp(prefix="dagengine-pooler-"))
        self._server = server
        user = as_nobody()
        if user:
            os.chown(self.folder, user["user"], user["group"])
        settings = self.folder / "pgbouncer.ini"
        settings.write_text(SETTINGS.format(server=server.folder, folder=self.folder, sessions=SESSIONS))
        (self.folder / "users").write_text('"tester" ""\n')
        self._command: list[str | Path] = [program, "-q", settings]
        self._environment = environment
        self.start()

    def start(self) -> None:
        """It may take a moment until it takes connections."""
        self._process = subprocess.Popen(
            self._command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            env=self._environment,
            start_new_session=True,
            preexec_fn=_die_with_parent,  # noqa: PLW1509 - it calls one function of the C library
            **as_nobody(),
        )

    def kill(self) -> None:
        """All its connections are lost, to both sides."""
        self._process.kill()
        self._process.wait()

    def url(self, schema: str, **parameters: str) -> str:
        """A store behind the pooler. `connect_timeout`: it may still be starting."""
        given = {"connect_timeout": "300", **parameters, "host": str(self.folder), "port": "6432"}
        return self._server.url(schema, **given)

    def remove(self) -> None:
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)


def _die_with_parent() -> None:
    _LIBC.prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


@functools.cache
def shared_pooler() -> Pooler:
    """Of this test process, before the session's server."""
    import atexit

    pooler = Pooler(shared())
    atexit.register(pooler.remove)
    return pooler
