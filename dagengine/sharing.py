"""Which recorded steps of a run another run can share, if some of them are to be done anew. Pure.

A step is *shared* if nothing that it was made from is done anew: not a step that it reads, not the map or task that called
it, not an earlier call that changed the state of its stateful object. What has not succeeded is always done anew.
One item of a map can be done anew alone: the map is *reopened*, keeps its other items, and collects their values again.

What a body computes from values that it waited for is not seen here. It need not be: the body is called again, and a
shared step that it calls with other arguments is done anew then (`Sharing.also`).

May import nothing of ours but model.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from dagengine.model import StepKind, StepRecord, StepState


@dataclass(frozen=True, slots=True)
class Shares:
    """What is shared of a run, as sorted seqs.

    kept: with their ends
    reopened: items of maps that are done anew, and their maps
    dropped: done anew if they are called again
    chained: (object, call) of kept calls that changed the state of an object whose later calls are dropped
    """

    kept: tuple[int, ...]
    reopened: tuple[int, ...]
    dropped: tuple[int, ...]
    chained: tuple[tuple[int, int], ...]


class Sharing:
    """The recorded graph, as a question about sharing needs it."""

    def __init__(self, steps: Iterable[StepRecord], edges: Iterable[tuple[int, int]]) -> None:
        self.steps = {step.seq: step for step in steps}
        self._by_key = {step.key: step.seq for step in self.steps.values()}
        self._readers: dict[int, list[int]] = defaultdict(list)
        self._object: dict[int, int] = {}  # of a call on one: the step that created it
        self._calls: dict[int, list[int]] = defaultdict(list)  # of an object, in the order of their turns
        for reader, read in edges:
            self._readers[read].append(reader)
            of, made = self.steps.get(reader), self.steps.get(read)
            if of is not None and made is not None and of.kind.is_call and made.kind is StepKind.CREATE:
                self._object[reader] = read  # of several objects that it is given, the one that it is a call on is last
        for call in sorted(self._object):
            self._calls[self._object[call]].append(call)
        self._called: dict[int, list[int]] = defaultdict(list)
        self._caller: dict[int, int] = {}
        for step in self.steps.values():
            caller = self._find_caller(step.key)
            if caller is not None:
                self._caller[step.seq] = caller
                self._called[caller].append(step.seq)

    def _find_caller(self, key: str) -> int | None:
        """The step that called the step of this key: a map its items, a task what it returned. None: the body did.

        Deep in what tasks returned, a key names the number of the caller instead of its key: start/@17/f[0].
        """
        above = key.rpartition("/")[0]
        while above:
            last = above.rpartition("/")[2]
            seq = int(last[1:]) if last[:1] == "@" and last[1:].isdecimal() else self._by_key.get(above)
            if seq in self.steps and self.steps[seq].kind is not StepKind.CREATE:
                return seq
            above = above.rpartition("/")[0]
        return None

    def by_key(self, key: str) -> int | None:
        return self._by_key.get(key)

    def caller(self, seq: int) -> int | None:
        """The map or task that called the step."""
        return self._caller.get(seq)

    def without(self, anew: Iterable[int], given: Iterable[int] = ()) -> Shares:
        """What is shared if the steps `anew` are done anew, and those `given` have another value without being done."""
        spread = _Spread(self, frozenset(given), set())
        for seq in spread.given:
            spread.change(seq)
        for seq, step in self.steps.items():
            if not _shareable(step) and seq not in spread.given:
                spread.again(seq)
        for seq in anew:
            spread.visit(seq)
        spread.finish()
        kept = tuple(sorted(self.steps.keys() - spread.dropped - spread.reopened - spread.given))
        return Shares(kept, *_sorted(spread), self._chained(spread.dropped))

    def also(self, seq: int, gone: set[int]) -> Shares:
        """What more is to be dropped if step `seq` is done anew after all, where those `gone` are dropped already."""
        spread = _Spread(self, frozenset(), set(gone))
        spread.visit(seq)
        spread.finish()
        chained = self._chained(spread.dropped)
        spread.dropped -= gone
        return Shares((), *_sorted(spread), chained)

    def _chained(self, dropped: set[int]) -> tuple[tuple[int, int], ...]:
        cut = {self._object[seq] for seq in dropped if seq in self._object} - dropped
        return tuple(
            (made, call)
            for made in sorted(cut)
            for call in self._calls[made]
            if call not in dropped and self.steps[call].kind is StepKind.METHOD
        )

    # ---- what follows from a step ---------------------------------------------------------

    def readers(self, seq: int) -> Sequence[int]:
        return self._readers.get(seq, ())

    def called(self, seq: int) -> Sequence[int]:
        """The steps that a map or task called."""
        return self._called.get(seq, ())

    def later_calls(self, seq: int) -> Iterable[int]:
        """Of a call that may change the state of its object: the calls on it that come after."""
        made = self._object.get(seq)
        if made is None or self.steps[seq].kind is not StepKind.METHOD:
            return ()
        return (call for call in self._calls[made] if call > seq)


class _Spread:
    """How doing steps anew spreads over the graph."""

    def __init__(self, graph: Sharing, given: frozenset[int], dropped: set[int]) -> None:
        self.given = given
        self.dropped = dropped
        self.reopened: set[int] = set()
        self._graph = graph
        self._todo: list[tuple[int, bool]] = []  # a step, and whether what called it is done anew, too

    def visit(self, seq: int) -> None:
        self._todo.append((seq, False))

    def again(self, seq: int) -> None:
        """A step that has not succeeded. A map whose items are known keeps those that have."""
        if self._graph.steps[seq].kind is StepKind.MAP and self._graph.called(seq):
            self._reopen(seq)
        else:
            self.visit(seq)

    def finish(self) -> None:
        while self._todo:
            seq, surely = self._todo.pop()
            if seq in self.dropped or seq in self.given:
                continue
            caller = self._graph.caller(seq)
            if not surely and caller is not None and self._graph.steps[caller].kind is StepKind.MAP:
                if seq in self.reopened:
                    continue
                self.reopened.add(seq)
            else:
                self.dropped.add(seq)
                self.reopened.discard(seq)
            self.change(seq)

    def change(self, seq: int) -> None:
        """The step's value will be another one, or come again."""
        graph = self._graph
        self._todo += [(reader, False) for reader in graph.readers(seq)]
        self._todo += [(called, True) for called in graph.called(seq)]
        self._todo += [(call, False) for call in graph.later_calls(seq)]
        caller = graph.caller(seq)
        if caller is None:
            return
        if graph.steps[caller].kind is StepKind.MAP:
            self._reopen(caller)
        else:
            self.visit(caller)  # its value is made of what it called

    def _reopen(self, seq: int) -> None:
        """A map is to collect the values of its items again."""
        if seq in self.reopened or seq in self.dropped or seq in self.given:
            return
        self.reopened.add(seq)
        self._todo += [(reader, False) for reader in self._graph.readers(seq)]
        caller = self._graph.caller(seq)
        if caller is not None:
            self.visit(caller)


def _sorted(spread: _Spread) -> tuple[tuple[int, ...], tuple[int, ...]]:
    return tuple(sorted(spread.reopened)), tuple(sorted(spread.dropped))


def _shareable(step: StepRecord) -> bool:
    return step.state is StepState.SUCCEEDED and step.kind is not StepKind.UNDO
