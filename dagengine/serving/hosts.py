"""The hosts of a server: which process works on which run, and what becomes of the runs of one that died.

A host has the runs of one version of the code (`code_of`), so what one of them loads is never in another's way. There are
at most `limit` of them: a run whose code has none waits until one ends that has nothing to do.

**Deaths.** A host that dies takes the bodies of all its runs with it. They are taken up again, each after a while that
doubles; one that was there twice when a host died gets a host to itself; and one that takes that down, too, fails, with how
its host ended as the reason. So a run that kills its process (a crash in native code, out of memory) is found among a
thousand others, and costs them a pause.

**A machine that is unfit.** A host that can't begin (no place for artifacts, no process or memory to be had) says so, and
no run is blamed: all that nobody works on yet are given back, for other servers, and nothing more is to be handed over until
a host without runs, tried again and again after a while that doubles, has begun.

May import nothing of ours but errors, config, model, identity and modules of storage.
"""

from __future__ import annotations

import contextlib
import heapq
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from dagengine.model import RunRecord

if TYPE_CHECKING:
    from dagengine.config import Settings

ALONE_AFTER = 2
"""Deaths of hosts that a run has seen before it gets a host to itself."""

FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0
"""Seconds before the runs of a dead host are taken up again: doubled with each death that one of them has seen."""

LAST_SECONDS = 1.0
"""For a host that has closed its socket to end by itself."""

SAID_AT_ONCE = 64
"""Runs in one message to a host."""

IDLE_SECONDS = 20.0
"""A host without runs is kept so long for the next one, unless its place is wanted."""

Code = tuple[str, str]
"""What a host is for: the digest of a pack, or else where the workflow's module is; and the working folder."""


def code_of(run: RunRecord) -> Code:
    entry = run.entry
    return run.code or str(entry.get("file") or entry.get("module")), str(run.facts.get("cwd", ""))


class Host:
    """A host process as its server sees it."""

    def __init__(self, code: Code, alone: bool, process: subprocess.Popen[bytes], channel: socket.socket) -> None:
        self.code = code
        self.alone = alone
        self.process = process
        self.channel = channel
        self.runs: set[str] = set()
        self.closing = False
        self.unfit: str | None = None  # why it could not begin
        self.idle_since = time.monotonic()
        self._data = b""

    def say(self, **message: Any) -> None:
        with contextlib.suppress(OSError):  # it is dead: the end of the stream says so
            _say(self.channel, **message)

    def received(self) -> Iterator[dict[str, Any]] | None:
        """What it has said; None if it is gone."""
        try:
            data = self.channel.recv(65536)
        except OSError:
            return None
        if not data:
            return None
        *lines, self._data = (self._data + data).split(b"\n")
        return map(json.loads, lines)


class Hosts:
    """Used on one thread. `ended(run, state)`: nobody works on the run any more, as far as its host knows; `gave_up(run,
    why)`: it took down every process that it was in; `gave_back(runs)`: nobody here can work on them.
    """

    def __init__(
        self,
        settings: Settings,
        limit: int,
        selector: selectors.BaseSelector,
        *,
        ended: Callable[[str, str], None],
        gave_up: Callable[[str, str], None],
        gave_back: Callable[[set[str]], None],
        say: Callable[[str], None],
    ) -> None:
        self._settings = settings
        self._limit = limit
        self._selector = selector
        self._ended = ended
        self._gave_up = gave_up
        self._gave_back = gave_back
        self._say = say
        self._hosts: list[Host] = []
        self._waiting: dict[str, Code] = {}  # runs without a host, in the order in which they came
        self._paused: list[tuple[float, str, Code]] = []  # until when they wait after the death of a host
        self._deaths: dict[str, int] = {}
        self._let_go: dict[str, int] = {}  # how often the run was let go of, for want of the store or the artifacts
        self._unfit = 0  # how many hosts could not begin, one after the other
        self._try_at = 0.0  # when the next one is tried, if any could not
        self._tried: Code = ("", "")
        self._probe: Host | None = None  # which is tried
        self._spare: tuple[subprocess.Popen[bytes], socket.socket] | None = None
        self.draining = False

    # ---- asked by the server ------------------------------------------------------------------

    @property
    def runs(self) -> set[str]:
        """All that were handed over, and have not ended."""
        held = {run for host in self._hosts for run in host.runs}
        return held | set(self._waiting) | {run for _, run, _ in self._paused}

    @property
    def count(self) -> int:
        return len(self._hosts)

    @property
    def fit(self) -> bool:
        """Whether hosts can begin on this machine, as far as is known. If not, nothing should be assigned."""
        return not self._unfit

    def assign(self, runs: Iterable[RunRecord]) -> None:
        held = self.runs
        self._waiting.update((run.id, code_of(run)) for run in runs if run.id not in held)
        self._place()

    def hear(self, host: Host) -> None:
        """Something can be read from the host's socket."""
        messages = host.received()
        if messages is None:
            self._gone(host)
            return
        for message in messages:
            if "ready" in message:
                self._unfit = 0
            host.unfit = message.get("unfit")
            run = message.get("ended") or message.get("left") or message.get("again")
            if run is None:
                continue
            host.runs.discard(run)
            if not host.runs:
                host.idle_since = time.monotonic()
            if "ended" in message:
                self._deaths.pop(run, None)
                self._let_go.pop(run, None)
            why = message.get("error") or message.get("why")
            if why and not why.startswith("RunOwned"):
                self._say(f"run {run[:12]}: {why}")
            if "again" in message and not self.draining:
                self._let_go[run] = times = self._let_go.get(run, 0) + 1
                self._pause(run, host.code, times)
                continue
            self._ended(run, str(message.get("state", "left")))
        self._place()

    def tick(self) -> float | None:
        """Do what is due; returns the seconds until the next time."""
        now = time.monotonic()
        while self._paused and self._paused[0][0] <= now:
            _, run, code = heapq.heappop(self._paused)
            self._waiting[run] = code
        if self._unfit and self._try_at <= now and not self.draining:
            self._try_at = float("inf")  # until it has begun, or could not
            self._probe = self._start(self._tried, alone=False)
        self._place()
        for host in self._hosts:
            if not host.runs and not host.closing and now - host.idle_since >= IDLE_SECONDS:
                self._close(host)
        times = [host.idle_since + IDLE_SECONDS for host in self._hosts if not host.runs and not host.closing]
        times += [self._paused[0][0]] if self._paused else []
        times += [self._try_at] if self._unfit and self._try_at != float("inf") else []
        return max(0.0, min(times) - now) if times else None

    def drain(self, force: bool = False) -> None:
        """Nothing more is begun; what runs is waited for, or with `force` ended. Hosts end when they have nothing left."""
        self.draining = True
        self._waiting.clear()
        self._paused.clear()
        self._drop_spare()
        for host in self._hosts:
            host.closing = True
            host.say(verb="force" if force else "drain")

    def has(self, pid: int) -> bool:
        """Whether that process is one of them."""
        return any(host.process.pid == pid for host in self._hosts)

    def keep_spare(self, wanted: bool) -> None:
        """Have a process ready that has loaded what hosts are made of, or none: most of the time to begin one goes there."""
        if self._spare is not None and self._spare[0].poll() is not None:
            self._drop_spare()
        if wanted and self._spare is None and not self.draining and len(self._hosts) < self._limit:
            with contextlib.suppress(OSError):  # it is only for speed
                self._spare = _new_process("")
                _say(self._spare[1], verb="load", store=self._settings.store.value)
        elif not wanted:
            self._drop_spare()

    def _drop_spare(self) -> None:
        """It ends when nobody holds the other end of its socket."""
        spare, self._spare = self._spare, None
        if spare is not None:
            spare[1].close()
            _signal(spare[0], signal.SIGKILL)  # it has nothing to lose
            spare[0].wait()

    def _process(self, folder: str) -> tuple[subprocess.Popen[bytes], socket.socket]:
        """For a host that works in the folder. Raises OSError."""
        spare, self._spare = self._spare, None
        if spare is not None and spare[0].poll() is None:
            return spare
        return _new_process(folder)

    def kill(self) -> None:
        """End them all, now. For when even `force` did not help."""
        self._drop_spare()
        for host in self._hosts:
            _signal(host.process, signal.SIGKILL)

    # ---- who works on what ---------------------------------------------------------------------

    def _place(self) -> None:
        if self.draining:
            return
        placed: dict[Host, list[str]] = {}
        for run, code in list(self._waiting.items()):
            host = self._host_for(run, code)
            if host is not None:
                del self._waiting[run]
                host.runs.add(run)
                placed.setdefault(host, []).append(run)
            elif self._unfit:
                break  # it found that out, and nothing waits any more
        for host, runs in placed.items():
            for first in range(0, len(runs), SAID_AT_ONCE):
                host.say(verb="take", runs=runs[first : first + SAID_AT_ONCE])

    def _host_for(self, run: str, code: Code) -> Host | None:
        alone = self._deaths.get(run, 0) >= ALONE_AFTER
        for host in self._hosts:
            if host.code == code and not host.closing and host.alone == alone and not (alone and host.runs):
                return host
        if self._unfit:
            return None
        if len(self._hosts) < self._limit:
            return self._start(code, alone)
        for host in self._hosts:
            if host.closing:
                return None  # its place is about to be free
        for host in self._hosts:
            if not host.runs:
                self._close(host)
                break
        return None

    def _start(self, code: Code, alone: bool) -> Host | None:
        """A new host; None if none can be had."""
        try:
            host = Host(code, alone, *self._process(code[1]))
        except OSError as error:
            self._is_unfit(code, f"no process can be started: {(error.strerror or str(error)).lower()}")
            return None
        settings = self._settings
        host.say(
            verb="begin",
            folder=code[1],
            store=settings.store.value,
            artifacts=settings.artifacts.value,
            workers=settings.workers.value,
            home=str(settings.home.value),
            machine=settings.of_machine(),
        )
        self._hosts.append(host)
        self._selector.register(host.channel, selectors.EVENT_READ, host)
        return host

    def _close(self, host: Host) -> None:
        host.closing = True
        host.say(verb="close")

    def _gone(self, host: Host) -> None:
        self._selector.unregister(host.channel)
        host.channel.close()
        self._hosts.remove(host)
        try:
            status = host.process.wait(LAST_SECONDS)
        except subprocess.TimeoutExpired:
            _signal(host.process, signal.SIGKILL)  # one that only closed its socket works on nothing we know of
            status = host.process.wait()
        runs, host.runs = host.runs, set()
        if host.unfit is not None:
            if self.draining:
                return
            self._waiting.update(dict.fromkeys(runs, host.code))
            self._is_unfit(host.code, host.unfit)
        elif self._unfit and host is self._probe:
            self._is_unfit(host.code, f"a host ended with exit status {status} before it had begun")
        elif runs:
            how = f"signal {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"
            self._say(f"a host ended with {how}; it had {len(runs)} {'run' if len(runs) == 1 else 'runs'}")
            for run in sorted(runs):
                self._died(run, host, how)
        self._place()

    def _is_unfit(self, code: Code, why: str) -> None:
        """No host can begin here: what nobody works on yet is for others, until one can."""
        pause = min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** min(self._unfit, 10))
        self._unfit += 1
        self._try_at = time.monotonic() + pause
        self._tried = code
        runs = set(self._waiting) | {run for _, run, _ in self._paused}
        self._waiting.clear()
        self._paused.clear()
        given_back = f"; {len(runs)} given back" if runs else ""
        self._say(f"no run can be begun here: {why.rstrip('.')}. Next attempt in {pause:g} s{given_back}")
        self._gave_back(runs)

    def _died(self, run: str, host: Host, how: str) -> None:
        deaths = self._deaths[run] = self._deaths.get(run, 0) + 1
        if self.draining:
            self._ended(run, "left")
        elif host.alone:
            del self._deaths[run]
            self._gave_up(run, f"its process died {deaths} times, the last time alone in it: {how}")
        else:
            self._pause(run, host.code, deaths)

    def _pause(self, run: str, code: Code, times: int) -> None:
        """Have it taken up again, after a while that doubles each time."""
        pause = min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** min(times - 1, 10))
        heapq.heappush(self._paused, (time.monotonic() + pause, run, code))


def _say(channel: socket.socket, **message: Any) -> None:
    channel.sendall(json.dumps(message).encode() + b"\n")


def _new_process(folder: str) -> tuple[subprocess.Popen[bytes], socket.socket]:
    """A host that works in the folder, where it is one that we may enter, and our end of its socket. Raises OSError."""
    ours, theirs = socket.socketpair()
    try:
        process = subprocess.Popen(
            [sys.executable, "-m", "dagengine.serving.host", str(theirs.fileno())],
            stdin=subprocess.DEVNULL,
            stdout=sys.stderr.fileno(),
            pass_fds=[theirs.fileno()],
            cwd=folder if folder and os.path.isdir(folder) and os.access(folder, os.X_OK) else None,  # noqa: PTH112 - Path's raises
            start_new_session=True,  # the terminal's Ctrl-C is for the server, which drains it
        )
    except BaseException:
        ours.close()
        raise
    finally:
        theirs.close()
    return process, ours


def _signal(process: subprocess.Popen[bytes], number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(process.pid, number)
