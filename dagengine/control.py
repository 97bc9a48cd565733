"""A Unix socket by which another process of the same user asks the engine to cancel a run, or waits for its end.

    client ── {"verb": "wait", "run": "7f3a…"}\\n ──▶ engine
    client ◀── {"state": "succeeded"}\\n ─────────── engine       one request, one answer, then both close

It is a convenience beside the store, never a source of truth: whoever gets no answer reads the store. A blocked reader
costs a thread and nothing else; nobody polls. The socket lies in a 0700 folder, as `<process id>.sock`, and each peer must
be of this user (SO_PEERCRED). Requests and answers are bounded. What a dead process left is swept by `sweep`.

Life of a server: `start` returns when it listens, `stop` waits; stopping twice, or before starting, is harmless.

May import nothing of ours but errors, model and identity.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import socket
import struct
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dagengine.errors import StoreUnavailable
from dagengine.identity import listens, short_path, start_time

UNFINISHED, UNFINISHED_SECONDS = ".new", 60.0
"""What a socket's name ends with until its process listens, and for how long that can take."""

MESSAGE_LIMIT = 64 * 1024  # bytes: a request names a verb and a run
CONNECTIONS = 64  # waiting clients; each costs a thread of the engine's process
READ_TIMEOUT = 5.0  # seconds: a client sends its one line at once, or is of no use

Handle = Callable[[dict[str, Any]], dict[str, Any]]


class NoAnswer(Exception):
    """Nobody answers at the socket: there is none, its process is dead, or it went away. Read the store instead."""


class ControlServer:
    """Answers requests with `handle`, which runs on a thread of its own for each client, and may block."""

    def __init__(self, folder: Path, process_id: str, handle: Handle) -> None:
        self._folder = folder
        self._name = f"{process_id}.sock"
        self._handle = handle
        self._lock = threading.Lock()
        self._clients: dict[socket.socket, threading.Thread] = {}
        self._listener: socket.socket | None = None
        self._thread: threading.Thread | None = None
        self._wake: tuple[int, int] | None = None

    @property
    def path(self) -> Path:
        return self._folder / self._name

    def start(self) -> None:
        """Listen. Raises StoreUnavailable if the folder can't hold a socket."""
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                # It gets its name when it listens: until then another process would sweep it away.
                with short_path(self._folder, self._name + UNFINISHED) as path:
                    listener.bind(path)
                    Path(path).chmod(0o600)
                    listener.listen(CONNECTIONS)
                    Path(path).rename(self.path)
            except OSError:
                listener.close()
                raise
        except OSError as error:
            raise StoreUnavailable(
                f"no control socket can be made in {self._folder}: {error.strerror or error}. Use a store in a folder"
                " of your own on a local disk.",
                store=str(self._folder),
            ) from None
        self._listener = listener
        self._wake = os.pipe()
        self._thread = threading.Thread(
            target=self._accept, args=(listener, self._wake[0]), name="dagengine-control", daemon=True
        )
        self._thread.start()

    def stop(self, grace: float = 1.0) -> None:
        """Take no more clients, give those who are being answered `grace` seconds in all, and remove the socket."""
        thread, self._thread = self._thread, None
        if thread is None or self._wake is None or self._listener is None:
            return
        with contextlib.suppress(OSError):
            self.path.unlink()
        os.write(self._wake[1], b"x")
        thread.join()
        self._listener.close()
        for end in self._wake:
            os.close(end)
        with self._lock:
            clients = list(self._clients.items())
        for _, client in clients:
            client.join(grace / max(1, len(clients)))
        for connection, _ in clients:
            # One who is still being answered is told so: the end of the stream sends him to the store.
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def _accept(self, listener: socket.socket, wake: int) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(listener, selectors.EVENT_READ)
            selector.register(wake, selectors.EVENT_READ)
            while True:
                ready = {key.fd for key, _ in selector.select()}
                if wake in ready:
                    return
                try:
                    connection, _ = listener.accept()
                except OSError:
                    continue
                self._welcome(connection)

    def _welcome(self, connection: socket.socket) -> None:
        with self._lock:
            full = len(self._clients) >= CONNECTIONS
            if not full and _peer_is_us(connection):
                thread = threading.Thread(
                    target=self._serve, args=(connection,), name="dagengine-control-client", daemon=True
                )
                self._clients[connection] = thread
                thread.start()
                return
        connection.close()

    def _serve(self, connection: socket.socket) -> None:
        try:
            connection.settimeout(READ_TIMEOUT)
            request = json.loads(_read_line(connection))
            if not isinstance(request, dict):
                raise ValueError("not an object")
            answer = self._handle(request)
        except (OSError, ValueError, RecursionError) as error:
            answer = {"error": f"not a request: {error}"}
        except Exception as error:  # a fault of the handler is told to the client, and must not end the engine
            answer = {"error": f"{type(error).__name__}: {error}"}
        try:
            connection.settimeout(READ_TIMEOUT)
            connection.sendall(json.dumps(answer).encode() + b"\n")
        except OSError:
            pass  # the client has gone: nobody is left to tell
        finally:
            connection.close()
            with self._lock:
                self._clients.pop(connection, None)


def ask(folder: Path, process_id: str, request: dict[str, Any], timeout: float | None = 5.0) -> dict[str, Any]:
    """The answer of the engine of that process. Raises NoAnswer; TimeoutError after `timeout` seconds (None: never)."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(timeout)
        try:
            with short_path(folder, f"{process_id}.sock") as path:
                connection.connect(path)
            if not _peer_is_us(connection):
                raise NoAnswer("the socket belongs to another user")
            connection.sendall(json.dumps(request).encode() + b"\n")
            line = _read_line(connection)
        except TimeoutError:
            raise
        except OSError as error:
            raise NoAnswer(str(error)) from None
    try:
        answer = json.loads(line)
    except ValueError:
        raise NoAnswer("the answer was cut off") from None
    if not isinstance(answer, dict):
        raise NoAnswer("the answer is not an object")
    return answer


def tell(folder: Path, process_id: str, request: dict[str, Any], timeout: float = 1.0) -> bool:
    """As `ask`, without waiting for an answer; whether somebody listens."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(timeout)
        try:
            with short_path(folder, f"{process_id}.sock") as path:
                connection.connect(path)
            if not _peer_is_us(connection):
                return False
            connection.sendall(json.dumps(request).encode() + b"\n")
        except OSError:  # a TimeoutError is one
            return False
    return True


def sweep(folder: Path, is_dead: Callable[[str], bool] | None = None) -> int:
    """Remove the sockets at which nobody listens any more; returns their number."""
    gone = 0
    long_ago = time.time() - UNFINISHED_SECONDS
    try:
        names = [entry.name for entry in os.scandir(folder) if entry.name.endswith(".sock")]
        left = [entry for entry in os.scandir(folder) if entry.name.endswith(f".sock{UNFINISHED}")]
    except OSError:
        return 0
    for entry in left:
        with contextlib.suppress(OSError):
            if entry.stat().st_mtime < long_ago:
                Path(entry.path).unlink()
                gone += 1
    for name in names:
        dead = is_dead(name.removesuffix(".sock")) if is_dead else not listens(folder, name)
        if dead:
            with contextlib.suppress(OSError):
                (folder / name).unlink()
                gone += 1
    return gone


def is_left(folder: Path, process_id: str) -> bool:
    """Whether the socket of a process lies there: of one that has ended, whether it ended without a word."""
    return (folder / f"{process_id}.sock").exists()


def process_ends(pid: int, started: float) -> int | None:
    """A file descriptor that becomes readable when the process ends; None if it has ended, or can't be watched."""
    if not hasattr(os, "pidfd_open"):
        return None
    try:
        watch = os.pidfd_open(pid)
    except (OSError, OverflowError):
        return None
    if start_time(pid) != started:  # the pid was given to another process
        os.close(watch)
        return None
    return watch


def _read_line(connection: socket.socket) -> bytes:
    """Up to the newline. Raises ValueError if it is longer than a message may be."""
    data = bytearray()
    while not data.endswith(b"\n"):
        part = connection.recv(4096)
        if not part:
            break
        data += part
        if len(data) > MESSAGE_LIMIT:
            raise ValueError("the message is too long")
    return bytes(data)


def _peer_is_us(connection: socket.socket) -> bool:
    if hasattr(socket, "SO_PEERCRED"):
        size = struct.calcsize("3i")
        _, uid, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))
        return bool(uid == os.geteuid())
    return True  # elsewhere the folder's mode alone keeps others out
