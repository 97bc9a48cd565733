"""The worker's loop: take a permit, run the task, send its result at once, clean up; wait when there is nothing.

No result is ever held back: it is sent before the next permit is taken. So when this process dies, at most one attempt
has a permit taken and no result, and that is the one that ran (docs/design.md, section 6).

The loop has one thread. What a task leaves behind (another folder, closed streams, threads) is undone where it would
show in the next task; a worker that can't go on ends, and is replaced.

May import nothing of ours but runtime modules.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections import deque
from typing import NoReturn

from dagengine.runtime.deaths import FAILED
from dagengine.runtime.execution import Executor
from dagengine.runtime.frames import Link
from dagengine.runtime.messages import Acknowledge, Define, FromWorker, Hello, Revoke, Run, ToWorker
from dagengine.runtime.output import Capture
from dagengine.runtime.permits import Permits
from dagengine.runtime.shared import SharedFile


def run_worker(sock: socket.socket, permits: int, output: int) -> NoReturn:
    """The whole life of a worker in a process that was just forked. Never returns."""
    status = FAILED
    try:
        _work(sock, permits, output)
        status = 0
    except (BrokenPipeError, ConnectionResetError):
        status = 0  # The controller is gone: there is nobody to work for.
    except BaseException:
        sys.excepthook(*sys.exc_info())
        sys.stderr.flush()
    finally:
        # Whatever else goes wrong: what is above this on the stack belongs to the parent.
        os._exit(status)


def _work(sock: socket.socket, permits: int, output: int) -> None:
    link: Link[ToWorker] = Link(sock, ToWorker)
    try:
        worker = Worker(link, Permits(permits), output)
    except BaseException as error:
        link.send([Hello(f"{type(error).__name__}: {error}")])
        raise
    link.send([Hello()])
    worker.loop()
    sys.stdout.flush()


class Worker:
    def __init__(self, link: Link[ToWorker], permits: Permits, output: int) -> None:
        self._link = link
        self._permits = permits
        self._capture = Capture(output)
        self._executor = Executor()
        self._tasks: deque[Run] = deque()
        self._pid = os.getpid()
        self._folder = os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        numpy_random = sys.modules.get("numpy.random")
        if numpy_random is not None:
            # Python's own generator reseeds itself in a new process; NumPy's would repeat its siblings' numbers.
            numpy_random.seed()

    def loop(self) -> None:
        """Until the controller closes its end and all that was sent has been run."""
        while True:
            while self._tasks and self._permits.take():
                self._run(self._tasks.popleft())
            # Without a permit, what is left has been revoked, and the message that says so is on its way.
            messages = self._link.receive()
            if messages is None:
                return
            for message in messages:
                if isinstance(message, Run):
                    self._tasks.append(message)
                elif isinstance(message, Define):
                    self._executor.define(message)
                elif isinstance(message, Revoke):
                    for _ in range(message.count):
                        self._tasks.pop()
                    self._link.send([Acknowledge()])

    def _run(self, run: Run) -> None:
        result: FromWorker
        result, shared = self._executor.execute(run)
        if os.getpid() != self._pid:
            os._exit(0)  # The task forked, and this is its child, which came back with the result.
        # Before the result: when the attempt is over for the engine, its log is complete.
        self._capture.finish(run.log)
        self._send(result, shared)
        os.fchdir(self._folder)
        if signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)

    def _send(self, result: FromWorker, shared: SharedFile | None) -> None:
        if shared is None:
            self._link.send([result])
        else:
            self._link.send([result], [os.dup(shared.fileno())])
            shared.close()
