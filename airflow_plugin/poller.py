"""One poller for each store that a triggerer watches, however many tasks wait there.

A thousand deferred tasks that each look for themselves are a thousand connections and a thousand queries a tick. Here they
share one: whoever waits *watches* one question (a run, or a step of it), the poller asks all open questions at once, in a
thread of its own, and tells each watcher what has changed. It never blocks the loop.

    watch ──▶ Poller: questions ── ask(all of them) ──▶ thread ──▶ store
      ◀── Answer, when it is another one than before ──┘

How long it waits between two looks (`pause`) grows while nothing changes, so a wait of hours costs little; what changes, or
comes new, is seen soon. While the store can't be asked, it tries on, and each watcher is told once.

Nothing here outlives the process: a triggerer that starts anew asks anew.

Imports nothing of ours and nothing of Airflow: what is asked, and what an answer means, is the trigger's.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import weakref
from collections.abc import AsyncIterator, Callable, Hashable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

SHARE = 0.1
"""What a wait may cost: the answer is at most this part of the time that nothing has changed late, and the store works on
our questions for at most this part of the time."""

LONGEST_PAUSE = 30.0
"""Seconds between two looks, at most, unless the store takes longer than three to answer."""

GATHER = 0.05
"""Seconds for which a new watcher waits for others: a triggerer begins many at once."""

LINGER = 20.0
"""Seconds for which the store is kept open when nobody watches: the next task is often there soon."""


class Question(Protocol):
    """What a poller asks: hashable."""

    def __hash__(self) -> int: ...


class Source(Protocol):
    """Where answers come from. Used by one thread at a time; `close` is called by the same one."""

    def ask(self, questions: Sequence[Any]) -> Mapping[Any, Any]:
        """The answers, in one go; what has none is left out. What it raises is trouble: it is closed, and asked again."""
        ...

    def close(self) -> None:
        """Let go of everything; `ask` opens it again. Raises nothing."""

    def is_lasting(self, error: Exception) -> bool:
        """Whether asking again is of no use."""
        ...


@dataclass(frozen=True, slots=True)
class Answer:
    """To a watcher's question. `value` None: there is none. `trouble`: the store can't be asked, and why, in one line;
    `lasting`: nor will it ever, as far as anybody can tell."""

    value: Any = None
    trouble: str | None = None
    lasting: bool = False


def pause(quiet: float, took: float, least: float) -> float:
    """Seconds until the next look, after `quiet` seconds without a change, when the last look took `took` seconds.

    least: what the most impatient watcher wants
    """
    return max(least, min(quiet * SHARE, LONGEST_PAUSE), took / SHARE)


def one_line(error: BaseException) -> str:
    """The exception's text, or its type if it has none."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


class Watch:
    """What one watcher is told. `answers` is asked by the watcher alone."""

    def __init__(self, question: Hashable, least: float) -> None:
        self.question = question
        self.least = least
        self._told: asyncio.Queue[Answer] = asyncio.Queue()
        self._last: Answer | None = None

    @property
    def is_new(self) -> bool:
        return self._last is None

    async def next(self) -> Answer:
        """The answer, when there is another one than the last."""
        return await self._told.get()

    def tell(self, answer: Answer) -> bool:
        """Whether that is news. Trouble is the same trouble, whatever it says."""
        last = self._last
        if last is not None and (answer == last or (answer.trouble and last.trouble and not answer.lasting)):
            return False
        self._last = answer
        self._told.put_nowait(answer)
        return True


class Poller:
    """Asks one source for all its watchers. On one event loop."""

    def __init__(self, source: Source, linger: float = LINGER) -> None:
        self._source = source
        self._linger = linger
        self._watches: set[Watch] = set()
        self._news = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, "dagengine-poller")
        self._next = 0.0  # when all questions are asked again
        self._changed = 0.0  # when an answer changed last
        # Not in the context of whoever happens to be first: what is logged here would stand in that task's log.
        loop = asyncio.get_running_loop()
        self._task = loop.create_task(self._run(), name="dagengine-poller", context=contextvars.Context())

    @property
    def is_over(self) -> bool:
        return self._task.done()

    def add(self, watch: Watch) -> None:
        self._watches.add(watch)
        self._news.set()

    def remove(self, watch: Watch) -> None:
        self._watches.discard(watch)

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        self._changed = loop.time()
        try:
            while self._watches or await self._hear(self._linger):
                new = [watch for watch in self._watches if watch.is_new]
                if new:
                    self._changed = loop.time()
                if loop.time() >= self._next:
                    await self._look(list(self._watches))
                elif new:
                    await self._look(new, rest=True)
                if await self._hear(self._next - loop.time()):
                    await asyncio.sleep(GATHER)
        finally:
            # In its own thread, after what is being asked; nobody waits for that.
            self._thread.submit(self._source.close)
            self._thread.shutdown(wait=False)

    async def _hear(self, seconds: float) -> bool:
        """Whether somebody began or stopped to watch in that time."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, seconds)):
                await self._news.wait()
        heard = self._news.is_set()
        self._news.clear()
        return heard

    async def _look(self, watches: Sequence[Watch], rest: bool = False) -> None:
        """Ask for these, and tell them. `rest`: the others are asked when they would have been, or sooner."""
        if not watches:
            self._next = 0.0
            return
        loop = asyncio.get_running_loop()
        began = loop.time()
        questions = list(dict.fromkeys(watch.question for watch in watches))
        try:
            answers = await loop.run_in_executor(self._thread, self._source.ask, questions)
        except Exception as error:  # the store's, the network's, the driver's: whatever it is, the answer is not there
            trouble = Answer(trouble=one_line(error), lasting=self._source.is_lasting(error))
            for watch in watches:
                watch.tell(trouble)
            await loop.run_in_executor(self._thread, self._source.close)
        else:
            told = [watch.tell(Answer(answers.get(watch.question))) for watch in watches]
            if any(told):
                self._changed = loop.time()
        now = loop.time()
        least = min(watch.least for watch in (self._watches or watches))
        following = now + pause(now - self._changed, now - began, least)
        self._next = min(self._next, following) if rest else following


_pollers: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, dict[Hashable, Poller]] = weakref.WeakKeyDictionary()


@contextlib.asynccontextmanager
async def watching(
    key: Hashable, open_source: Callable[[], Source], question: Hashable, least: float
) -> AsyncIterator[Watch]:
    """Watch a question at the poller `key` of this loop, which is made if there is none.

    open_source: what makes its source; does nothing that takes time
    least: seconds between two looks, at least
    """
    pollers = _pollers.setdefault(asyncio.get_running_loop(), {})
    poller = pollers.get(key)
    if poller is None or poller.is_over:
        poller = pollers[key] = Poller(open_source())
    watch = Watch(question, least)
    poller.add(watch)
    try:
        yield watch
    finally:
        poller.remove(watch)
