"""A workflow whose middle step waits until a test lets it go, and a program that begins or resumes it.

    python held_flow.py FOLDER begin|resume

The folder holds the store and two named pipes: the step writes its pid into `started`, then waits for a line in `go`.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from dagengine import Engine, task, workflow
from dagengine.errors import DagengineError
from tests.acceptance.crash_flow import LEDGER, mark, place_of


@task
def prepare() -> int:
    mark()
    return 20


@task
def hold(value: int) -> int:
    mark()
    folder = Path(os.environ[LEDGER]).parent
    (folder / "started").write_text(f"{os.getpid()}\n")
    (folder / "go").read_text()
    return value + 1


@task
def finish(value: int) -> int:
    mark()
    return 2 * value


@workflow
def held() -> int:
    return finish(hold(prepare()))


def main(folder: Path, verb: str) -> int:
    try:
        with Engine(place_of(folder), home=folder, workers=2) as engine:
            run = engine.start(held) if verb == "begin" else engine.resume("")
            print(run.result())
    except DagengineError as error:
        print(error, file=sys.stderr)
        return error.exit_status
    return 0


if __name__ == "__main__":
    from tests.acceptance import held_flow

    sys.exit(held_flow.main(Path(sys.argv[1]), *sys.argv[2:]))
