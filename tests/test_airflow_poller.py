"""One poller for each store: who watches shares its questions, hears what has changed, and is told once of trouble."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Awaitable, Callable, Mapping, Sequence

import pytest

from dagengine.airflow_plugin import poller
from dagengine.airflow_plugin.poller import LONGEST_PAUSE, Answer, Poller, Watch, pause, watching

LEAST = 0.001
PATIENCE = 300.0


class Told:
    """A source that answers what the test says, and remembers what it was asked, and by which threads."""

    def __init__(self) -> None:
        self.says: dict[str, str] = {}
        self.asked: list[tuple[str, ...]] = []
        self.threads: set[int] = set()
        self.opened = 0
        self.closed = 0
        self.is_open = False
        self.trouble: Exception | None = None
        self.look = threading.Event()
        self.let_go = threading.Event()

    def ask(self, questions: Sequence[str]) -> Mapping[str, str]:
        says = dict(self.says)
        self.threads.add(threading.get_ident())
        self.asked.append(tuple(questions))
        self.look.set()
        self.opened += not self.is_open
        self.is_open = True
        if self.trouble is not None:
            raise self.trouble
        return says

    def close(self) -> None:
        self.threads.add(threading.get_ident())
        self.closed += 1
        self.is_open = False
        self.let_go.set()

    def is_lasting(self, error: Exception) -> bool:
        return isinstance(error, PermissionError)


def played(play: Callable[[Told], Awaitable[None]]) -> Told:
    """What happens in a loop of its own, and the source that was asked."""
    source = Told()

    async def limited() -> None:
        async with asyncio.timeout(PATIENCE):
            await play(source)

    asyncio.run(limited())
    return source


async def looks(source: Told, number: int = 2) -> None:
    """Until the source has been asked so many more times."""
    for _ in range(number):
        source.look.clear()
        await asyncio.to_thread(source.look.wait, PATIENCE)


def test_the_pause_grows_with_quiet_and_with_what_an_answer_costs() -> None:
    """A tenth of the time without a change, up to a bound; never less than is wanted, never over a tenth of the store's time."""
    assert pause(quiet=0, took=0, least=1.0) == 1.0
    assert pause(quiet=60, took=0, least=1.0) == 6.0
    assert pause(quiet=1e6, took=0, least=1.0) == LONGEST_PAUSE
    assert pause(quiet=0, took=2.0, least=1.0) == 20.0
    assert pause(quiet=0, took=0, least=120.0) == 120.0


def test_a_thousand_watchers_of_a_store_are_one_question() -> None:
    """They come in one turn of the loop, are gathered, and asked about together, by one thread."""

    async def play(source: Told) -> None:
        source.says = {f"run {n}": "" for n in range(1000)}
        heard: list[Answer] = []

        async def wait(name: str) -> None:
            async with watching("store", lambda: source, name, LEAST) as watch:
                assert await watch.next() == Answer("")
                heard.append(await watch.next())

        waiting = [asyncio.create_task(wait(name)) for name in source.says]
        await looks(source, 3)
        assert len(source.asked[-1]) == 1000
        source.says = dict.fromkeys(source.says, "succeeded")
        await asyncio.gather(*waiting)
        assert heard == [Answer("succeeded")] * 1000

    source = played(play)
    assert source.opened == 1
    assert len(source.threads) == 1
    assert threading.get_ident() not in source.threads


def test_only_news_is_told_and_what_has_no_answer_is_told_as_none() -> None:
    """The same answer again is no news; a run that has vanished is."""

    async def play(source: Told) -> None:
        source.says = {"run": ""}
        async with watching("store", lambda: source, "run", LEAST) as watch:
            assert await watch.next() == Answer("")
            await looks(source, 3)
            source.says = {}
            assert await watch.next() == Answer(None)

    played(play)


def test_trouble_is_told_once_and_the_end_of_it_too() -> None:
    """The source is closed and opened again for each try, so that it takes a password or address that has changed."""

    async def play(source: Told) -> None:
        source.says = {"run": ""}
        async with watching("store", lambda: source, "run", LEAST) as watch:
            assert await watch.next() == Answer("")
            source.trouble = OSError("the server is away\nand more")
            assert await watch.next() == Answer(trouble="the server is away")
            source.trouble = OSError("still")
            await looks(source, 3)
            source.trouble = None
            assert await watch.next() == Answer("")

    source = played(play)
    assert source.opened > 3


def test_trouble_that_lasts_is_said_to_last_even_after_trouble_that_may_pass() -> None:
    """A server that comes back with another schema won't be waited for."""

    async def play(source: Told) -> None:
        source.trouble = OSError("away")
        async with watching("store", lambda: source, "run", LEAST) as watch:
            assert not (await watch.next()).lasting
            source.trouble = PermissionError("not for you")
            assert await watch.next() == Answer(trouble="not for you", lasting=True)

    played(play)


def test_a_new_watcher_is_answered_without_asking_for_all_the_others_again() -> None:
    """However many wait for hours: of what comes new, only that is asked."""

    async def play(source: Told) -> None:
        source.says = {"old": "", "new": ""}
        async with watching("store", lambda: source, "old", 1e6) as old:
            await old.next()
            async with watching("store", lambda: source, "new", 1e6) as new:
                await new.next()

    assert played(play).asked == [("old",), ("new",)]


def test_stores_have_pollers_of_their_own_and_one_that_hangs_holds_up_no_other() -> None:
    """Each asks in its own thread, and the loop waits for none of them."""

    async def play(source: Told) -> None:
        held = threading.Event()

        class Hangs(Told):
            def ask(self, questions: Sequence[str]) -> Mapping[str, str]:
                held.wait(PATIENCE)
                return super().ask(questions)

        slow = Hangs()
        slow.says = source.says = {"run": ""}
        async with (
            watching("slow", lambda: slow, "run", LEAST) as late,
            watching("fast", lambda: source, "run", LEAST) as early,
        ):
            assert await early.next() == Answer("")
            held.set()
            assert await late.next() == Answer("")

    played(play)


def test_the_store_is_let_go_of_when_nobody_has_watched_for_a_while() -> None:
    """And is opened anew for whoever comes then. In between it stays open: the next task is often there soon."""

    async def play(source: Told) -> None:
        source.says = {"run": ""}
        one = Poller(source, linger=0.0)
        watch = Watch("run", LEAST)
        one.add(watch)
        await watch.next()
        one.remove(watch)
        await asyncio.to_thread(source.let_go.wait, PATIENCE)
        assert one.is_over

    source = played(play)
    assert source.let_go.wait(PATIENCE)
    assert (source.opened, source.closed) == (1, 1)


def test_the_store_is_closed_when_the_loop_ends_although_it_is_watched() -> None:
    """A triggerer that stops leaves no connection behind."""

    async def play(source: Told) -> None:
        source.says = {"run": ""}
        context = watching("store", lambda: source, "run", LEAST)
        await (await context.__aenter__()).next()

    source = played(play)
    assert source.let_go.wait(PATIENCE)  # nobody waits for its thread
    assert source.closed == source.opened == 1


def test_a_poller_does_not_run_in_the_context_of_the_first_to_watch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Airflow sorts log lines to tasks by a context variable: the first task would get everybody's."""
    task: contextvars.ContextVar[str] = contextvars.ContextVar("task")
    seen: list[str] = []

    async def play(source: Told) -> None:
        task.set("the first task")
        look = Poller._look

        async def spying(self: Poller, watches: Sequence[Watch], rest: bool = False) -> None:
            seen.append(task.get("none"))
            await look(self, watches, rest)

        monkeypatch.setattr(poller.Poller, "_look", spying)
        async with watching("store", lambda: source, "run", LEAST) as watch:
            await watch.next()

    played(play)
    assert set(seen) == {"none"}
