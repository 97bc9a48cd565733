"""The tasks that wait for a worker, in the order of submission.

Tasks that were taken back from a worker are older than all that were never sent; they are kept apart, sorted, and go
first. Dropped tasks stay in place until they come to the front. Tasks of each code stand in a line of their own, because
not every worker can have them: `head` is the oldest of all. May import nothing of ours but dispatch_model.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterator

from dagengine.runtime.dispatch_model import Task, TaskState


class _Line:
    """The tasks of one code."""

    def __init__(self) -> None:
        self.fresh: deque[Task] = deque()
        self.returned: list[tuple[int, Task]] = []

    def head(self) -> Task | None:
        returned, fresh = self.returned, self.fresh
        while returned:
            task = returned[0][1]
            if task.state is TaskState.QUEUED:
                return task
            heapq.heappop(returned)
        while fresh:
            task = fresh[0]
            if task.state is TaskState.QUEUED:
                return task
            fresh.popleft()
        return None


class TaskQueue:
    """`len` counts the tasks that are QUEUED."""

    def __init__(self) -> None:
        self._lines: dict[str, _Line] = {}
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Task]:
        tasks = [task for line in self._lines.values() for _, task in line.returned]
        tasks += [task for line in self._lines.values() for task in line.fresh]
        return iter(sorted((task for task in tasks if task.state is TaskState.QUEUED), key=lambda task: task.order))

    def add(self, task: Task) -> None:
        """A new task: its order is larger than that of all others."""
        self._line(task.code).fresh.append(task)
        self._count += 1

    def give_back(self, task: Task) -> None:
        heapq.heappush(self._line(task.code).returned, (task.order, task))
        self._count += 1

    def _line(self, code: str) -> _Line:
        line = self._lines.get(code)
        if line is None:
            line = self._lines[code] = _Line()
        return line

    def forget(self) -> None:
        """One of the tasks has been dropped."""
        self._count -= 1

    def head(self) -> Task | None:
        if len(self._lines) == 1:
            return next(iter(self._lines.values())).head()
        heads = self.heads()
        return heads[0] if heads else None

    def heads(self) -> list[Task]:
        """The oldest task of each code, the oldest first. Lines that are empty are given up."""
        heads = []
        for code, line in list(self._lines.items()):
            task = line.head()
            if task is not None:
                heads.append(task)
            else:
                del self._lines[code]
        heads.sort(key=lambda task: task.order)
        return heads

    def pop(self, head: Task) -> Task:
        """Remove what `head` or `heads` just returned."""
        self._count -= 1
        line = self._lines[head.code]
        return heapq.heappop(line.returned)[1] if line.returned else line.fresh.popleft()
