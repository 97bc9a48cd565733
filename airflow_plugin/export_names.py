"""What steps are called in Airflow: ids of tasks and task groups, and the variables of the file that makes them.

    nightly/extract[3]          extract_3         (extract, where there is one only)
    nightly/child[0]/merge[0]   child_0.merge     in the task group child_0

The same steps get the same names. Pure; may import nothing of ours but the reading of keys.
"""

from __future__ import annotations

import keyword
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha256

from dagengine.graph import split_key

ID_MAX = 240
"""Characters of the whole id of a task, with its groups; Airflow takes 250."""

_TAKEN = frozenset({"DAG", "DagengineOperator", "DagengineSensor", "Param", "TaskGroup", "dag", "literal", "WORKFLOW"})


@dataclass(frozen=True, slots=True)
class Named:
    """group: ids of the groups that it is in, each with its variable; task_id: within the group."""

    task_id: str
    variable: str
    group: tuple[tuple[str, str], ...] = ()

    @property
    def whole_id(self) -> str:
        return ".".join([*(name for name, _ in self.group), self.task_id])


class Names:
    """Gives each name once. reserved: variables of the file that are used otherwise."""

    def __init__(self, keys: Iterable[str], reserved: Iterable[str] = ()) -> None:
        self._ids: set[str] = set()
        self._variables = {*_TAKEN, *reserved}
        self._groups: dict[str, tuple[tuple[str, str], ...]] = {}
        self._calls = Counter(split_key(_whole(key))[:2] for key in keys)

    def task(self, task_id: str) -> Named:
        """For a task that is none of the steps."""
        return self._named(task_id, ())

    def step(self, key: str) -> Named:
        """For the step, or for a group of steps, `scope/function[*]` or `scope/workflow[0]/*`."""
        scope, function, ordinal = split_key(_whole(key))
        alone = ordinal in ("0", "*") and self._calls[scope, function] == 1
        base = _plain(function) if alone or ordinal == "*" else _plain(f"{function}_{ordinal}")
        return self._named(base, self._group(scope))

    def _named(self, base: str, group: tuple[tuple[str, str], ...]) -> Named:
        path = [name for name, _ in group]
        if len(".".join([*path, base])) > ID_MAX:
            digest = sha256("/".join([*path, base]).encode()).hexdigest()[:8]
            base, group, path = f"{base[:100]}_{digest}", (), []
        task_id = self._free(path, base)
        return Named(task_id, self._variable([*path, task_id]), group)

    def _group(self, scope: str) -> tuple[tuple[str, str], ...]:
        """Of a scope; the run's own is none."""
        above, child, ordinal = split_key(scope)
        if not above:
            return ()
        if scope not in self._groups:
            outer = self._group(above)
            path = [name for name, _ in outer]
            name = self._free(path, _plain(f"{child}_{ordinal}"))
            self._groups[scope] = (*outer, (name, self._variable([*path, name])))
        return self._groups[scope]

    def _free(self, path: list[str], base: str) -> str:
        for number in range(1, len(self._ids) + 2):
            found = base if number == 1 else f"{base}_{number}"
            whole = ".".join([*path, found])
            if whole not in self._ids:
                self._ids.add(whole)
                return found
        raise AssertionError(base)

    def _variable(self, path: list[str]) -> str:
        base = re.sub(r"\W", "_", "_".join(path), flags=re.ASCII)
        base = f"_{base}" if base[:1].isdigit() or keyword.iskeyword(base) or keyword.issoftkeyword(base) else base
        for number in range(1, len(self._variables) + 2):
            found = base if number == 1 else f"{base}_{number}"
            if found not in self._variables:
                self._variables.add(found)
                return found
        raise AssertionError(base)


def _whole(key: str) -> str:
    return key.removesuffix("/*")


def _plain(name: str) -> str:
    return re.sub(r"[^\w-]", "_", name, flags=re.ASCII).strip("_") or "step"


def dag_id_of(name: str) -> str:
    """An id for the DAG of the workflow of that name."""
    return re.sub(r"[^\w.-]", "_", name, flags=re.ASCII)[:ID_MAX] or "workflow"
