"""The clean parent of all workers: single-threaded, warm, and never running a user's code.

Forking a process that has threads is a gamble on the locks they hold; a process started anew imports for a tenth of a
second. So this process, started once, imports what workers need, and forks them on request in a millisecond or two.

It also is what makes sure that nothing is left: workers get SIGKILL when it dies (parent-death signal); and it kills
them, with whatever they started, when the controller is gone, which shows in two ways: the control socket ends, and the
controller's pidfd becomes readable (the socket may live on in a process that the user's program forked).

A process id stays ours until it is reaped, and only this process reaps; so signals to workers are sent from here.

It ignores the signals that a terminal or a supervisor sends to the controller, because it has to outlive the controller's
drain; and it leads a process group of its own, so that SIGKILL to the controller's group leaves it time to clear up. Preloaded modules that start a thread are not preloaded: the process executes itself
again without them.

May import nothing of ours but runtime modules, and `values` to be warm. Linux only.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any, Final, NoReturn

from dagengine.runtime.deaths import FAILED
from dagengine.runtime.frames import Frames, Link
from dagengine.runtime.messages import Exited, Fork, Forked, FromForker, Kill, NotForked, ToForker, ToWorker
from dagengine.runtime.surroundings import THREADS
from dagengine.runtime.worker import run_worker

PRELOAD: Final = ("numpy", "pandas", "pyarrow")
"""Slow to import, and the user's functions surely need them if the user's own process has imported them."""

_ARROW: Final = "JE_ARROW_MALLOC_CONF"

_BOOT: Final = (
    "import json, sys; setup = json.loads(sys.argv.pop()); sys.path[:] = setup['path']; "
    "from dagengine.runtime.forker import run_forker; run_forker(setup)"
)

_PR_SET_PDEATHSIG: Final = 1
_PR_SET_NAME: Final = 15


def start_forker(arena: tuple[int, int] | None = None) -> tuple[subprocess.Popen[bytes], socket.socket]:
    """Start one, with this process's import path and folder. Returns the process and our end of its control socket.

    arena: the descriptor and size of the node's, which all workers inherit; the descriptor stays the caller's
    """
    ours, theirs = socket.socketpair()
    try:
        with theirs:
            threads = [name for name in THREADS if name not in os.environ]
            setup = {
                "control": theirs.fileno(),
                "controller": os.getpid(),
                "path": import_path(),
                "preload": [name for name in PRELOAD if name in sys.modules],
                "arena": arena,
                "threads": threads,
            }
            process = subprocess.Popen(
                [sys.executable, *_interpreter_flags(), "-c", _BOOT, json.dumps(setup)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno(), *(arena[:1] if arena else ())],
                env={**os.environ, **dict.fromkeys(threads, "1")},
                process_group=0,
            )
    except BaseException:
        ours.close()
        raise
    return process, ours


def import_path() -> list[str]:
    """This process's, without relative parts: the folder may change."""
    return [str(Path(folder).absolute()) for folder in sys.path]


def _interpreter_flags() -> list[str]:
    """So that `-O`, `-X dev` and `-W` of the user's process hold in workers, too."""
    flags: list[str] = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]
    return flags


def run_forker(setup: dict[str, Any]) -> NoReturn:
    """The process's whole life. `setup`: what `start_forker` says."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])  # the thread that started us may have blocked some
    _name_process("dag-forker")
    _preload(setup)
    gc.collect()
    gc.freeze()  # what is shared with all workers stays shared: their collectors need not write to it
    arena = (setup["arena"][0], setup["arena"][1]) if setup["arena"] else None
    if arena is not None:
        os.set_inheritable(arena[0], False)  # by workers, which are forked; not by what their tasks start
    Forker(socket.socket(fileno=setup["control"]), setup["controller"], arena, setup["threads"]).loop()
    os._exit(0)


def _preload(setup: dict[str, Any]) -> None:
    importlib.import_module("cloudpickle")
    importlib.import_module("dagengine.values")
    Frames(ToWorker)
    # Arrow's allocator would keep a thread to return memory in the background. It reads this once, when it is loaded.
    users = os.environ.get(_ARROW)
    os.environ[_ARROW] = "background_thread:false"
    for name in setup["preload"]:
        try:
            importlib.import_module(name)
        except Exception:
            continue  # Then the task that needs it says so.
        if _thread_count() > 1:
            setup["preload"] = [other for other in setup["preload"] if other != name]
            os.set_inheritable(setup["control"], True)
            _restore(users)
            arguments = [sys.executable, *_interpreter_flags(), "-c", _BOOT, json.dumps(setup)]
            os.execv(sys.executable, arguments)
    _restore(users)


def _restore(users: str | None) -> None:
    if users is None:
        del os.environ[_ARROW]
    else:
        os.environ[_ARROW] = users


def _thread_count() -> int:
    return len(os.listdir("/proc/self/task"))  # noqa: PTH208 - names only


def _name_process(name: str) -> None:
    """For `ps` and `top`."""
    ctypes.CDLL(None).prctl(_PR_SET_NAME, name.encode(), 0, 0, 0)


class Forker:
    def __init__(
        self, control: socket.socket, controller: int, arena: tuple[int, int] | None, threads: list[str]
    ) -> None:
        self._link: Link[ToForker] = Link(control, ToForker)
        self._arena = arena
        self._threads = threads
        self._pids: dict[int, int] = {}  # worker -> process id, until it is reaped
        self._prctl = ctypes.CDLL(None).prctl
        self._pid = os.getpid()
        self._wake_in, self._wake_out = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.set_wakeup_fd(self._wake_out, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        try:
            self._controller = os.pidfd_open(controller)
            if os.getppid() != controller:
                raise ProcessLookupError
        except ProcessLookupError:
            os._exit(0)

    def loop(self) -> None:
        poll = select.poll()
        for descriptor in (self._link.fileno(), self._wake_in, self._controller):
            poll.register(descriptor, select.POLLIN)
        while True:
            ready = {descriptor for descriptor, _ in poll.poll()}
            if self._wake_in in ready:
                os.read(self._wake_in, 4096)
                self._reap()
            if self._controller in ready or (self._link.fileno() in ready and not self._obey()):
                self._kill_all()
                return

    def _obey(self) -> bool:
        """Carry out what the controller asked for. False if it has closed its end."""
        messages = self._link.receive()
        if messages is None:
            return False
        for message in messages:
            if isinstance(message, Fork):
                self._fork(message.worker)
            elif isinstance(message, Kill):
                self._signal(message.worker, message.signal)
        return True

    def _tell(self, message: FromForker) -> None:
        # That the controller is gone, the loop is about to see.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self._link.send([message])

    def _fork(self, worker: int) -> None:
        descriptors = [self._link.descriptors.popleft() for _ in range(3)]
        try:
            pid = os.fork()
        except OSError as error:
            self._tell(NotForked(worker, f"no process can be started: {error.strerror}"))
        else:
            if pid == 0:
                self._become_worker(*descriptors)
            with contextlib.suppress(OSError):
                os.setpgid(pid, pid)  # Here and there: whoever comes first, it is done when either goes on.
            self._pids[worker] = pid
            self._tell(Forked(worker, pid))
        for descriptor in descriptors:
            os.close(descriptor)

    def _become_worker(self, sock: int, permits: int, output: int) -> NoReturn:
        try:
            os.setpgid(0, 0)
            self._prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            if os.getppid() != self._pid:
                os._exit(0)  # It died before that was in force.
            signal.set_wakeup_fd(-1)
            for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD):
                signal.signal(number, signal.SIG_DFL)
            # SIGINT stays ignored: Ctrl-C is for the controller, which drains.
            self._link.close()
            for descriptor in (self._wake_in, self._wake_out, self._controller):
                os.close(descriptor)
            _name_process("dag-worker")
            with contextlib.suppress(OSError):
                # When memory runs out, the kernel is to take a worker, which is replaced, before the controller.
                Path("/proc/self/oom_score_adj").write_text("500")
        except BaseException:
            os._exit(FAILED)
        run_worker(socket.socket(fileno=sock), permits, output, self._arena, self._threads)

    def _signal(self, worker: int, number: int) -> None:
        pid = self._pids.get(worker)
        if pid is not None:
            _kill_group(pid, number)

    def _reap(self) -> None:
        for worker, pid in list(self._pids.items()):
            # Looked at first and reaped last: while the dead process is not reaped, nobody else's group has its number.
            if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
                continue
            _kill_group(pid, signal.SIGKILL)
            _, status = os.waitpid(pid, 0)
            del self._pids[worker]
            self._tell(Exited(worker, status))

    def _kill_all(self) -> None:
        for pid in self._pids.values():
            _kill_group(pid, signal.SIGKILL)
        for pid in self._pids.values():
            os.waitpid(pid, 0)


def _kill_group(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, number)
