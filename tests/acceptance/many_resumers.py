"""Many processes that resume one run at once, after its owner was killed.

    python many_resumers.py FOLDER COUNT

They are forked from this one, which has imported everything, and do their tasks themselves: so a hundred cost seconds.
The run's middle step waits until all but one have ended. Prints how many ended with which status.
"""

from __future__ import annotations

import os
import signal
import sys
from collections import Counter
from pathlib import Path

from dagengine import Engine
from dagengine.errors import DagengineError
from dagengine.runtime.inline import InlineRuntime
from tests.acceptance.crash_flow import place_of
from tests.acceptance.held_flow import held


def work(folder: Path, verb: str) -> int:
    try:
        with Engine(place_of(folder), home=folder, runtime=InlineRuntime()) as engine:
            return 0 if (engine.start(held) if verb == "begin" else engine.resume("")).result() == 42 else 1
    except DagengineError as error:
        print(error, file=sys.stderr)
        return error.exit_status


def forked(folder: Path, verb: str, together: tuple[int, int] | None = None) -> int:
    """The pid of a child that begins when we close our end of the pipe `together`."""
    pid = os.fork()
    if pid == 0:
        status = 70
        try:
            if together is not None:
                os.close(together[1])
                os.read(together[0], 1)
            status = work(folder, verb)
        finally:
            os._exit(status)
    return pid


def main(folder: Path, count: int) -> int:
    for pipe in ("started", "go"):
        os.mkfifo(folder / pipe)
    owner = forked(folder, "begin")
    (folder / "started").read_text()
    os.kill(owner, signal.SIGKILL)
    os.waitpid(owner, 0)
    together = os.pipe()
    for _ in range(count):
        forked(folder, "resume", together)
    os.close(together[1])
    (folder / "started").read_text()
    statuses = [os.waitstatus_to_exitcode(os.wait()[1]) for _ in range(count - 1)]
    (folder / "go").write_text("go\n")
    statuses.append(os.waitstatus_to_exitcode(os.wait()[1]))
    print(dict(Counter(statuses)))
    return 0


if __name__ == "__main__":
    from tests.acceptance import many_resumers

    sys.exit(many_resumers.main(Path(sys.argv[1]), int(sys.argv[2])))
