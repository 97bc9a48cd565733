"""The control socket: one question, one answer; nobody else's process, nothing left behind."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dagengine import control
from dagengine.control import MESSAGE_LIMIT, ControlServer, NoAnswer, process_ends, sweep
from dagengine.errors import StoreUnavailable
from dagengine.identity import start_time

PATIENCE = 300.0


def ask(folder: Path, process_id: str, request: dict[str, Any], timeout: float = PATIENCE) -> dict[str, Any]:
    return control.ask(folder, process_id, request, timeout)


def echo(request: dict[str, Any]) -> dict[str, Any]:
    if request.get("verb") == "fail":
        raise LookupError("no such run")
    return {"said": request}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ControlServer]:
    """A server that repeats what it is told."""
    started = ControlServer(tmp_path / "control", "p1", echo)
    started.start()
    yield started
    started.stop()


def raw(path: Path, data: bytes) -> bytes:
    """What is answered to these bytes; nothing, if it hangs up before it has read them all."""
    found = b""
    with socket.socket(socket.AF_UNIX) as connection, contextlib.suppress(ConnectionError):
        connection.settimeout(PATIENCE)
        connection.connect(str(path))
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        while part := connection.recv(65536):
            found += part
    return found


def test_a_question_is_answered(server: ControlServer, tmp_path: Path) -> None:
    """The handler's answer comes back to whoever asked."""
    assert ask(tmp_path / "control", "p1", {"verb": "x"}) == {"said": {"verb": "x"}}


def test_the_socket_is_for_its_user_alone(server: ControlServer) -> None:
    """The folder has mode 0700, the socket 0600."""
    assert server.path.parent.stat().st_mode & 0o777 == 0o700
    assert server.path.stat().st_mode & 0o777 == 0o600


def test_a_failing_handler_is_told_and_survived(server: ControlServer, tmp_path: Path) -> None:
    """Its exception is the answer, and the next question is answered as usual."""
    assert ask(tmp_path / "control", "p1", {"verb": "fail"}) == {"error": "LookupError: no such run"}
    assert ask(tmp_path / "control", "p1", {}) == {"said": {}}


@pytest.mark.parametrize(
    "data", [b"", b"\n", b"{", b"[]\n", b"\xff\xfe\n", b"3\n", b"[" * 50_000 + b"\n", b"x" * (MESSAGE_LIMIT + 5000)]
)
def test_what_is_no_request_gets_an_error(server: ControlServer, tmp_path: Path, data: bytes) -> None:
    """Whatever is sent, the server answers an error or hangs up, and goes on."""
    answer = raw(server.path, data)
    assert not answer or "error" in json.loads(answer)
    assert ask(tmp_path / "control", "p1", {}) == {"said": {}}


def test_a_waiting_client_is_answered_when_its_time_comes(tmp_path: Path) -> None:
    """A handler may block: others are answered meanwhile, and its client when it returns."""
    asked, over = threading.Event(), threading.Event()

    def handle(request: dict[str, Any]) -> dict[str, Any]:
        if request.get("verb") == "wait":
            asked.set()
            assert over.wait(PATIENCE)
        return {"state": "succeeded"}

    server = ControlServer(tmp_path, "p1", handle)
    server.start()
    answers: list[dict[str, Any]] = []
    client = threading.Thread(target=lambda: answers.append(ask(tmp_path, "p1", {"verb": "wait"})))
    client.start()
    assert asked.wait(PATIENCE)
    assert ask(tmp_path, "p1", {}) == {"state": "succeeded"}
    assert not answers
    over.set()
    client.join(PATIENCE)
    server.stop()
    assert answers == [{"state": "succeeded"}]


def test_stopping_answers_those_whose_run_has_just_ended(tmp_path: Path) -> None:
    """`stop` gives clients that are being answered the time for it."""
    asked, over = threading.Event(), threading.Event()

    def handle(request: dict[str, Any]) -> dict[str, Any]:
        asked.set()
        assert over.wait(PATIENCE)
        return {"state": "succeeded"}

    server = ControlServer(tmp_path, "p1", handle)
    server.start()
    answers: list[dict[str, Any]] = []
    client = threading.Thread(target=lambda: answers.append(ask(tmp_path, "p1", {})))
    client.start()
    assert asked.wait(PATIENCE)
    over.set()
    server.stop(grace=PATIENCE)
    client.join(PATIENCE)
    assert answers == [{"state": "succeeded"}]


def test_stopping_hangs_up_on_those_who_would_wait_on(tmp_path: Path) -> None:
    """A client whose handler does not return gets no answer, and looks into the store."""
    asked, over = threading.Event(), threading.Event()

    def handle(request: dict[str, Any]) -> dict[str, Any]:
        asked.set()
        assert over.wait(PATIENCE)
        return {}

    server = ControlServer(tmp_path, "p1", handle)
    server.start()
    errors: list[Exception] = []

    def client() -> None:
        try:
            ask(tmp_path, "p1", {})
        except NoAnswer as error:
            errors.append(error)

    thread = threading.Thread(target=client)
    thread.start()
    assert asked.wait(PATIENCE)
    server.stop(grace=0.0)
    thread.join(PATIENCE)
    over.set()
    assert len(errors) == 1


def test_stop_may_come_twice_or_before_start(tmp_path: Path) -> None:
    """Both are harmless; the socket is gone, and so are the threads."""
    others = set(threading.enumerate())
    server = ControlServer(tmp_path, "p1", echo)
    server.stop()
    server.start()
    server.stop()
    server.stop()
    assert not server.path.exists()
    assert not [thread for thread in set(threading.enumerate()) - others if thread.name == "dagengine-control"]


def test_nobody_there_is_no_answer(tmp_path: Path) -> None:
    """No socket, or one whose process is dead."""
    with pytest.raises(NoAnswer):
        ask(tmp_path, "p1", {})
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "p1.sock"))
    with pytest.raises(NoAnswer):
        ask(tmp_path, "p1", {})


def test_a_client_does_not_wait_longer_than_it_said(tmp_path: Path) -> None:
    """Then TimeoutError, which is not NoAnswer: somebody is there."""
    over = threading.Event()

    def handle(request: dict[str, Any]) -> dict[str, Any]:
        assert over.wait(PATIENCE)
        return {}

    server = ControlServer(tmp_path, "p1", handle)
    server.start()
    with pytest.raises(TimeoutError):
        ask(tmp_path, "p1", {}, timeout=0.05)
    over.set()
    server.stop()


def test_another_users_process_is_not_answered(
    server: ControlServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A peer with another uid is hung up on, without a word; and a client does not trust another user's server."""
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    assert raw(server.path, b"{}\n") == b""
    with pytest.raises(NoAnswer):
        ask(tmp_path / "control", "p1", {})


def test_more_clients_than_there_is_room_for_are_hung_up_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bound holds, and those who are in are answered."""
    monkeypatch.setattr(control, "CONNECTIONS", 2)
    monkeypatch.setattr(control, "READ_TIMEOUT", PATIENCE)  # two of them say nothing until the third was refused
    over = threading.Event()

    def handle(request: dict[str, Any]) -> dict[str, Any]:
        assert over.wait(PATIENCE)
        return {}

    server = ControlServer(tmp_path, "p1", handle)
    server.start()
    clients = []
    for _ in range(3):
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(PATIENCE)
        connection.connect(str(server.path))
        clients.append(connection)
    assert clients[2].recv(1) == b""
    over.set()
    for connection in clients[:2]:
        connection.sendall(b"{}\n")
        assert connection.recv(100) == b"{}\n"
    for connection in clients:
        connection.close()
    server.stop()


def test_a_deep_folder_is_no_obstacle(tmp_path: Path) -> None:
    """The kernel takes 108 bytes of a socket's path; the folder may be deeper."""
    folder = tmp_path.joinpath(*["a" * 40] * 5)
    server = ControlServer(folder, "p1", echo)
    server.start()
    assert len(str(server.path)) > 200
    assert ask(folder, "p1", {}) == {"said": {}}
    server.stop()
    assert not server.path.exists()


def test_a_folder_that_can_hold_no_socket_is_one_line(tmp_path: Path) -> None:
    """A file in its place: the store's folder is to blame, not us."""
    (tmp_path / "control").touch()
    with pytest.raises(StoreUnavailable, match="no control socket"):
        ControlServer(tmp_path / "control", "p1", echo).start()


def test_sweeping_removes_sockets_of_the_dead_only(server: ControlServer, tmp_path: Path) -> None:
    """What nobody listens at is removed; a live server's socket and other files stay."""
    folder = tmp_path / "control"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(folder / "dead.sock"))
    (folder / "note.txt").touch()
    assert sweep(folder) == 1
    assert sorted(path.name for path in folder.iterdir()) == ["note.txt", "p1.sock"]
    assert ask(folder, "p1", {}) == {"said": {}}
    assert sweep(tmp_path / "nowhere") == 0


def test_the_end_of_a_process_can_be_waited_for() -> None:
    """The descriptor becomes readable when it ends; of a process that is gone or another one there is none."""
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    began = start_time(process.pid)
    assert began is not None
    assert process_ends(process.pid, began + 1) is None
    watch = process_ends(process.pid, began)
    assert watch is not None
    process.communicate()
    import select

    assert select.select([watch], [], [], PATIENCE)[0] == [watch]
    os.close(watch)
    assert process_ends(process.pid, began) is None


class SweptBeforeItListens(socket.socket):
    """Another process starts at the worst moment."""

    def listen(self, backlog: int = 0, /) -> None:
        swept.append(sweep(Path(str(self.getsockname())).parent))
        super().listen(backlog)


swept: list[int] = []


def test_a_socket_is_not_swept_away_before_its_process_listens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a hundred processes that started at once, one was left without a socket."""
    monkeypatch.setattr("dagengine.control.socket.socket", SweptBeforeItListens)
    server = ControlServer(tmp_path, "p1", lambda request: {"ok": True})
    server.start()
    try:
        assert swept == [0]
        assert ask(tmp_path, "p1", {"verb": "hello"}) == {"ok": True}
        assert [path.name for path in tmp_path.iterdir()] == ["p1.sock"]
    finally:
        server.stop()


def test_a_socket_that_was_never_finished_is_swept_away_in_time(tmp_path: Path) -> None:
    """Its process died before it listened; not at once, because it may still be about to."""
    left = tmp_path / "p1.sock.new"
    left.touch()
    assert sweep(tmp_path) == 0
    os.utime(left, (1.0, 1.0))
    assert sweep(tmp_path) == 1
    assert not left.exists()
