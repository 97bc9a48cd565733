"""Which run belongs to an Airflow task: an id that follows from what Airflow knows of the task, and from nothing else.

An Airflow retry, a restarted worker and a restarted triggerer compute the same id and so find the same run; a cleared task
computes another one, because Airflow grants it more tries. The id is a digest of an unambiguous encoding: no odd character
in a DAG's, run's or task's id can make two tasks one.

Pure. Imports nothing of ours, and no Airflow.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any

FACT = "airflow"
"""The name under which a run's facts say to which task it belongs."""

NOT_MAPPED = -1
"""Airflow's map index of a task that is not mapped."""

LOOKED_BACK = 500
"""Generations and restarts that are looked through for the last run of a task: more tries than anybody grants."""

EDITIONS = 20
"""Times that a DAG run of one id can be deleted and made again, and its tasks still have runs of their own."""

_DOMAIN = "dagengine/airflow/1"
_BARE = frozenset("-_.~:+@=, ")


@dataclass(frozen=True, slots=True)
class TaskKey:
    """A task instance of Airflow, as one whole of tries.

    generation: how many tries Airflow has granted in all. It stays the same from try to try, also when somebody edits
        `retries=` in the DAG meanwhile, and grows each time that the task is cleared
    restart: the number of the try that began it from the start (`on_retry="restart"`); 0: the first of its generation
    edition: counts DAG runs that were deleted and made again under the same id
    """

    dag_id: str
    run_id: str
    task_id: str
    map_index: int = NOT_MAPPED
    generation: int = 0
    restart: int = 0
    edition: int = 0

    @classmethod
    def of(cls, ti: Any) -> TaskKey:
        """Of Airflow's task instance `ti`, as a task's context has it."""
        index = ti.map_index
        return cls(ti.dag_id, ti.run_id, ti.task_id, NOT_MAPPED if index is None else int(index), int(ti.max_tries))

    @property
    def text(self) -> str:
        """For people. Odd characters are escaped, so that it says exactly one task, too."""
        names = "/".join(_escaped(name) for name in (self.dag_id, self.run_id, self.task_id))
        more = (f".r{self.restart}" if self.restart else "") + (f".e{self.edition}" if self.edition else "")
        return f"airflow/{names}/{self.map_index}/{self.generation}{more}"

    @property
    def engine_id(self) -> str:
        """The run's id: 128 bits in hex, as the engine's own are."""
        names = [_DOMAIN, self.dag_id, self.run_id, self.task_id]
        parts = [*names, self.map_index, self.generation, self.restart, self.edition]
        return sha256(json.dumps(parts, ensure_ascii=True).encode("ascii")).hexdigest()[:32]

    def restarted(self, try_number: int) -> TaskKey:
        return replace(self, restart=try_number)

    def same_generation(self, try_number: int) -> Iterator[TaskKey]:
        """The keys that runs of this generation may have up to this try, the latest first."""
        for edition in range(EDITIONS - 1, -1, -1):
            key = replace(self, edition=edition)
            for number in range(try_number, max(0, try_number - LOOKED_BACK), -1):
                yield key.restarted(number)
            yield key.restarted(0)

    def next_edition(self) -> TaskKey:
        return replace(self, edition=self.edition + 1, restart=0)

    def earlier_generations(self) -> Iterator[TaskKey]:
        """The keys of the runs that the task may have had before it was cleared, the latest first; without restarts."""
        for generation in range(self.generation - 1, max(-1, self.generation - 1 - LOOKED_BACK), -1):
            yield replace(self, generation=generation, restart=0, edition=0)

    def facts(self, try_number: int, **more: Any) -> dict[str, Any]:
        """What the run's record says of the task. JSON."""
        said = {
            "dag_id": self.dag_id,
            "run_id": self.run_id,
            "task_id": self.task_id,
            "map_index": self.map_index,
            "generation": self.generation,
            "try": try_number,
            "key": self.text,
        }
        return {FACT: {**said, **more}}


def _escaped(name: str) -> str:
    return "".join(each if each.isalnum() or each in _BARE else _percent(each) for each in name)


def _percent(character: str) -> str:
    return "".join(f"%{byte:02X}" for byte in character.encode("utf-8", "surrogatepass"))
