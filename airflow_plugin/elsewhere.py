"""The other side of `commands`: dagengine in an environment of its own, spoken to by an Airflow that does not have it.

    python -m dagengine.airflow_plugin.elsewhere        one JSON object a line, on stdin and stdout

    ◀── {"hello": 1}
    ──▶ {"do": "states", "place": {"store": …}, "ids": […]}      ◀── {"answer": {…}} or {"error": {"type": …, "text": …}}
    ──▶ {"do": "attend", "work": {…}}                            ◀── {"say": [20, "…"]} … {"run_id": "…"} … {"outcome": {…}}
    ──▶ {"stop": "cancel"}                                       while it attends

It ends when its stdin does: whoever asked is gone, and a run that it works on is then as one whose process was killed. What
a workflow's own code prints goes to stderr, which is the task's. Knows nothing of Airflow, which need not be installed here.

Of ours it may import the workflow layer.
"""

from __future__ import annotations

import dataclasses
import json
import os
import select
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Mapping
from typing import IO, TYPE_CHECKING, Any

from dagengine.airflow_plugin.identity import TaskKey
from dagengine.airflow_plugin.outcomes import for_xcom, is_reference
from dagengine.errors import BadArguments, DagengineError

if TYPE_CHECKING:
    from dagengine.client import Client

PROTOCOL = 1
READ_KEY = "__dagengine_read__"
"""In arguments: the result of a run, with how its store is reached. Airflow's side has looked the connection up."""

TURN = 0.1


def main() -> None:
    """Answer until stdin ends."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # meant for the task's process, which says what is to be done
    said = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    Side(Lines(0), said).serve()


class Side:
    """Answers what comes in, one after the other."""

    def __init__(self, asked: Lines, said: IO[str]) -> None:
        self._asked = asked
        self._said = said
        self._lock = threading.Lock()
        self._clients: dict[str, Client] = {}

    def serve(self) -> None:
        self._tell({"hello": PROTOCOL})
        while (line := self._asked.next()) is not None:
            request = json.loads(line)
            try:
                if request["do"] == "attend":
                    self._attend(request["work"])
                else:
                    client = self._client(request["place"], request["do"] in _MAKES)
                    self._tell({"answer": _ANSWERS[request["do"]](client, request)})
            except DagengineError as error:
                self._tell({"error": {"type": type(error).__name__, "text": str(error)}})
            except ImportError as error:  # of ours: what a workflow can't import is a LoadError
                said = f"python={sys.executable!r} has not all that dagengine needs: {error}"
                what = f"{said}. Install dagengine there, with its dependencies."
                self._tell({"error": {"type": "BadOption", "text": what}})
            except Exception as error:
                traceback.print_exc()
                self._tell({"error": {"type": "", "text": f"{type(error).__name__}: {error}".splitlines()[0]}})
        for client in self._clients.values():
            client.close()

    def _client(self, place: Mapping[str, Any], make: bool) -> Client:
        from dagengine.client import Client

        name = json.dumps([place, make], sort_keys=True)
        if name not in self._clients:
            self._clients[name] = Client(**place, make=make)
        return self._clients[name]

    def _tell(self, what: Mapping[str, Any]) -> None:
        with self._lock:
            self._said.write(json.dumps(what) + "\n")
            self._said.flush()

    def _attend(self, said: dict[str, Any]) -> None:
        from dagengine.airflow_plugin.attending import Work
        from dagengine.airflow_plugin.here import Here
        from dagengine.airflow_plugin.served import Collecting, Served

        collect = said.pop("collect", None)
        kwargs = {name: _read(value) for name, value in said.pop("kwargs").items()}
        work = Work(key=TaskKey(**said.pop("key")), kwargs=kwargs, **said)

        def say(level: int, text: str) -> None:
            self._tell({"say": [level, text]})

        if collect is not None:
            attendant: Here | Served = Collecting(work, say, collect)
        else:
            attendant = (Here if work.where == "here" else Served)(work, say)
        attendant.start()
        told = False
        while not attendant.wait(TURN):
            if attendant.run_id is not None and not told:
                told = True
                self._tell({"run_id": attendant.run_id})
            for line in self._asked.at_hand():
                attendant.stop(json.loads(line)["stop"])
        outcome = attendant.outcome()
        cause = attendant.cause if attendant.cause is None else attendant.cause.__cause__ or attendant.cause
        trace = "" if cause is None else "".join(traceback.format_exception(cause))
        self._tell(
            {
                "outcome": {"kind": str(outcome.kind), "text": outcome.text, "value": outcome.value},
                "run_id": attendant.run_id,
                "left_waiting": attendant.left_waiting,
                "trace": trace,
            }
        )


class Lines:
    """Of a pipe."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._left = b""

    def next(self) -> bytes | None:
        """The next one, waited for; None at the end."""
        while b"\n" not in self._left:
            if not self._more():
                return None
        line, _, self._left = self._left.partition(b"\n")
        return line

    def at_hand(self) -> list[bytes]:
        """Those that have come. Ends the process where nobody is left to say anything: it works for nobody."""
        while select.select([self._descriptor], [], [], 0)[0]:
            if not self._more():
                os.kill(os.getpid(), signal.SIGKILL)
        *whole, self._left = self._left.split(b"\n")
        return whole

    def _more(self) -> bool:
        part = os.read(self._descriptor, 65536)
        self._left += part
        return bool(part)


def _read(value: Any) -> Any:
    """The value, with the results of other runs in their places."""
    from dagengine.client import Client

    if isinstance(value, dict):
        if READ_KEY in value:
            with Client(**value[READ_KEY]["place"], make=False) as client:
                return client.result(value[READ_KEY]["run"])
        return {key: _read(part) for key, part in value.items()}
    return [_read(part) for part in value] if isinstance(value, list) else value


def _result(client: Client, request: dict[str, Any]) -> Any:
    value = for_xcom(client.result(request["id"]), request["id"], store="", limit=sys.maxsize)
    if is_reference(value):
        raise BadArguments(
            f"the result of run {request['id'][:12]} is a {value.get('type')}, which JSON can't carry to another environment."
            " Read it in a task of the workflow's."
        )
    return value


def _submit(client: Client, request: dict[str, Any]) -> str:
    from dagengine.serving.submission import Submission

    kwargs = {name: _read(value) for name, value in request["kwargs"].items()}
    return client.submit(request["workflow"], request["args"], kwargs, how=Submission(**request["how"]))


def _ends(client: Client, request: dict[str, Any]) -> list[str | None]:
    from dagengine.awaited import Awaited

    asked = [Awaited(*each) for each in request["awaited"]]
    found = client.ends(asked)
    return [found.get(each) for each in asked]


def _look(client: Client, request: dict[str, Any]) -> dict[str, Any]:
    from dagengine.airflow_plugin.looks import look_at
    from dagengine.awaited import Awaited

    return dataclasses.asdict(look_at(client, Awaited(*request["awaited"]), request["begun"]))


_ANSWERS: dict[str, Callable[[Client, dict[str, Any]], Any]] = {
    "states": lambda client, request: client.states(request["ids"]),
    "state": lambda client, request: client.state(request["id"]),
    "result": _result,
    "cancel": lambda client, request: client.cancel(request["id"], request["compensate"]),
    "resume": lambda client, request: client.resume(request["id"], request["queue"], request["priority"]),
    "submit": _submit,
    "ends": _ends,
    "look": _look,
}

_MAKES = frozenset({"states", "submit"})
"""What is asked of a store that need not be there yet."""

if __name__ == "__main__":
    main()
