"""dagengine in another environment, for an Airflow whose pins clash with what workflows need.

`CommandClient` has what hooks and triggers use of `dagengine.Client`; `Elsewhere` is an attendant whose try goes on there. Both
speak to `elsewhere` in a process of that environment's interpreter, over pipes. What passes is JSON. Airflow's own environment
then needs this package without any of its dependencies.

Of ours it may import errors and model; nothing that needs a store.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import select
import signal
import subprocess
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from dagengine import errors
from dagengine.airflow_plugin.attending import Attendant, Work
from dagengine.airflow_plugin.elsewhere import PROTOCOL
from dagengine.airflow_plugin.looks import Seen
from dagengine.airflow_plugin.outcomes import Kind, Outcome, outcome_of_error
from dagengine.errors import BadArguments, BadOption, DagengineError, RuntimeStopped
from dagengine.model import RunState

if TYPE_CHECKING:
    from dagengine.airflow_plugin.run_log import Say
    from dagengine.awaited import Awaited
    from dagengine.serving.submission import Submission

TURN = 0.1
"""Seconds between two looks at whether the try is to be ended."""

ENDING_SECONDS = 5.0


class Pipe:
    """A process of another environment, and what is said to it, by one thread at a time. Raises BadOption, RuntimeStopped."""

    def __init__(self, python: str) -> None:
        self.python = python
        try:
            self._process = subprocess.Popen(
                [python, "-m", "dagengine.airflow_plugin.elsewhere"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                process_group=0,  # Airflow's signals are for the task's own process
                env=_environment(),
            )
        except OSError as error:
            raise BadOption(
                f"python={python!r} can't be started: {error.strerror}. Name the interpreter of an environment with dagengine."
            ) from None
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._in, self._out = self._process.stdin, self._process.stdout
        self._left = b""
        hello = self._hello()
        if hello is not None and hello.get("hello") != PROTOCOL:
            self.close()
            raise BadOption(
                f"dagengine of {python} speaks another version than this one ({hello.get('hello')}, not {PROTOCOL})."
                " Install the same version in both environments."
            )

    def _hello(self) -> dict[str, Any] | None:
        try:
            return self.receive()
        except RuntimeStopped as error:
            if self._process.returncode < 0:
                raise
            raise BadOption(str(error)) from None  # it ended by itself, before it could speak: it will again

    def tell(self, what: Mapping[str, Any]) -> None:
        try:
            self._in.write(json.dumps(what).encode() + b"\n")
            self._in.flush()
        except (TypeError, ValueError) as error:
            raise BadArguments(f"what goes to another environment has to be JSON: {error}. Pass plain data.") from None
        except OSError:
            self._gone()

    def receive(self, seconds: float | None = None) -> dict[str, Any] | None:
        """What is said next; None, if that is nothing in that time."""
        while b"\n" not in self._left:
            if not select.select([self._out], [], [], seconds)[0]:
                return None
            part = os.read(self._out.fileno(), 65536)
            if not part:
                self._gone()
            self._left += part
        line, _, self._left = self._left.partition(b"\n")
        found: dict[str, Any] = json.loads(line)
        return found

    def _gone(self) -> NoReturn:
        with contextlib.suppress(OSError):
            self._in.close()
        self._out.close()
        status = self._process.wait()
        how = f"signal {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"
        raise RuntimeStopped(
            f"{self.python} -m dagengine.airflow_plugin.elsewhere ended ({how}). Its last words are in the log; is dagengine"
            " installed there?"
        )

    def close(self) -> None:
        """Ends the process; it has nothing to say any more."""
        with contextlib.suppress(OSError):
            self._in.close()
        self._out.close()
        try:
            self._process.wait(ENDING_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def _environment() -> dict[str, str]:
    """This process's, but for what leads to its own packages: the other environment has its own."""
    return {name: value for name, value in os.environ.items() if name not in ("VIRTUAL_ENV", "PYTHONHOME")}


class CommandClient:
    """As `dagengine.Client`, through `python`, the interpreter of another environment. Thread-safe.

    Raises the same errors; BadArguments for values that are no JSON; RuntimeStopped if that process ends.
    """

    def __init__(
        self, python: str, *, store: str | Path | None = None, artifacts: str | Path | None = None,
        home: str | Path | None = None,
    ) -> None:  # fmt: skip
        self._python = python
        given = {"store": store, "artifacts": artifacts, "home": home}
        self._place = {name: str(value) for name, value in given.items() if value is not None}
        self._pipe: Pipe | None = None
        self._lock = threading.Lock()

    def __enter__(self) -> CommandClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        with self._lock:
            pipe, self._pipe = self._pipe, None
            if pipe is not None:
                pipe.close()

    def _ask(self, do: str, **said: Any) -> Any:
        with self._lock:
            if self._pipe is None:
                self._pipe = Pipe(self._python)
            try:
                self._pipe.tell({"do": do, "place": self._place, **said})
                answer = self._pipe.receive()
            except RuntimeStopped:
                self._pipe = None
                raise
        assert answer is not None
        if "error" in answer:
            raise error_of(answer["error"])
        return answer["answer"]

    def submit(
        self, workflow: str, args: Iterable[Any] = (), kwargs: Mapping[str, Any] | None = None, *, how: Submission | None = None
    ) -> str:  # fmt: skip
        asked = {} if how is None else dataclasses.asdict(how)
        return str(self._ask("submit", workflow=workflow, args=list(args), kwargs=dict(kwargs or {}), how=asked))

    def state(self, run_id: str) -> RunState:
        return RunState(self._ask("state", id=run_id))

    def states(self, ids: Iterable[str]) -> dict[str, RunState]:
        return {run_id: RunState(state) for run_id, state in self._ask("states", ids=list(ids)).items()}

    def ends(self, asked: Iterable[Awaited]) -> dict[Awaited, str | None]:
        asked = list(asked)
        found = self._ask("ends", awaited=[[each.run_id, each.step, each.count] for each in asked])
        return dict(zip(asked, found, strict=True))

    def look(self, asked: Awaited, begun: bool) -> Seen:
        """As `looks.look_at`."""
        said = self._ask("look", awaited=[asked.run_id, asked.step, asked.count], begun=begun)
        outcome = said.pop("outcome")
        return Seen(**said, outcome=None if outcome is None else Outcome(Kind(outcome["kind"]), outcome["text"]))

    def result(self, run_id: str) -> Any:
        return self._ask("result", id=run_id)

    def cancel(self, run_id: str, compensate: bool = False) -> RunState:
        return RunState(self._ask("cancel", id=run_id, compensate=compensate))

    def resume(self, run_id: str, queue: str = "default", priority: int = 0) -> bool:
        return bool(self._ask("resume", id=run_id, queue=queue, priority=priority))


def error_of(said: Mapping[str, str]) -> DagengineError:
    """The error that was raised there, by its name."""
    kind = getattr(errors, said["type"], None)
    kind = kind if isinstance(kind, type) and issubclass(kind, DagengineError) else DagengineError
    error = kind.__new__(kind, said["text"])
    error.args = (said["text"],)
    return error


class OtherTraceback(Exception):
    """The cause of an outcome from elsewhere: where it was raised there."""

    def __str__(self) -> str:
        return f"\n{self.args[0]}"


class Elsewhere(Attendant):
    """A try that goes on in another environment: in a process there, or left to a server by it.

    collect: the run whose end is to be heard of, instead of beginning one
    """

    def __init__(self, python: str, work: Work, say: Say, collect: str | None = None) -> None:
        super().__init__(work, say)
        self._python = python
        self._collect = collect

    def _main(self) -> None:
        try:
            pipe = Pipe(self._python)
            try:
                self._outcome = self._converse(pipe)
            finally:
                pipe.close()
        except DagengineError as error:
            self._outcome, self.cause = outcome_of_error(error, self.run_id or ""), error
        except BaseException as error:
            self._error = error

    def _converse(self, pipe: Pipe) -> Outcome:
        pipe.tell({"do": "attend", "work": self._said()})
        told = 0
        while True:
            said = pipe.receive(TURN)
            if self._times_asked > told:
                told += 1
                pipe.tell({"stop": self._asked})
            if said is None:
                continue
            self.run_id = said.get("run_id") or self.run_id
            if "say" in said:
                self._say(*said["say"])
            elif "error" in said:
                raise error_of(said["error"])
            elif "outcome" in said:
                self.left_waiting = said["left_waiting"]
                self.cause = OtherTraceback(said["trace"]) if said["trace"] else None
                outcome = said["outcome"]
                return Outcome(Kind(outcome["kind"]), outcome["text"], outcome["value"])

    def _said(self) -> dict[str, Any]:
        if not isinstance(self.work.workflow, str):
            raise BadArguments(
                "a workflow of another environment is named: workflow='package.module:NAME' or 'FILE.py:NAME'."
            )
        work = {field.name: getattr(self.work, field.name) for field in dataclasses.fields(self.work)}
        return {
            **work,
            "key": dataclasses.asdict(self.work.key),
            "args": list(self.work.args),
            "collect": self._collect,
        }
