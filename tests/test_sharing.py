"""What of any recorded graph can be shared, held against the plainest way to say it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from dagengine.model import StepKind, StepRecord, StepState
from dagengine.sharing import Sharing

Graph = tuple[list[StepRecord], list[tuple[int, int]]]


def step(
    seq: int, key: str = "", kind: StepKind = StepKind.TASK, state: StepState = StepState.SUCCEEDED
) -> StepRecord:  # fmt: skip
    return StepRecord(seq, key or f"w/s[{seq}]", kind, "s", 0, state, 1, None, "ab", 1, 0.0, 1.0)


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
    """Steps that read earlier ones; some are calls on an object, some are items of maps, some did not succeed."""
    steps: list[StepRecord] = []
    edges: list[tuple[int, int]] = []
    objects: list[int] = []
    for _ in range(draw(st.integers(1, 8))):
        seq = len(steps)
        what = draw(st.sampled_from(["task", "task", "create", "call", "map"]))
        reads = draw(st.sets(st.integers(0, seq - 1), max_size=2)) if seq else set[int]()
        reads -= set(objects)
        state = StepState.SUCCEEDED if draw(st.integers(0, 5)) else StepState.FAILED
        if what == "create":
            objects.append(seq)
            steps.append(step(seq, kind=StepKind.CREATE))
            reads = set()
        elif what == "call" and objects:
            kind = draw(st.sampled_from([StepKind.METHOD, StepKind.READONLY]))
            steps.append(step(seq, kind=kind, state=state))
            edges.append((seq, draw(st.sampled_from(objects))))
        elif what == "map":
            steps.append(step(seq, f"w/m.map[{seq}]", StepKind.MAP))
            for index in range(draw(st.integers(0, 3))):
                steps.append(step(len(steps), f"w/m.map[{seq}]/m[{index}]"))
        else:
            steps.append(step(seq, state=state))
        edges += [(seq, read) for read in reads]
    return steps, edges


def plainly(graph: Graph, anew: set[int]) -> set[int]:
    """The steps that are not kept: those `anew`, those without success, and whatever follows, until nothing more does."""
    steps, edges = graph
    by_seq = {one.seq: one for one in steps}
    gone = set(anew) | {one.seq for one in steps if one.state is not StepState.SUCCEEDED}
    items = {one.seq: by_seq[other.seq] for other in steps for one in steps if one.key.startswith(f"{other.key}/")}
    objects = {reader: read for reader, read in edges if by_seq[read].kind is StepKind.CREATE}
    whole = set[int]()  # maps that are done anew, and not only collected again
    while True:
        more = {reader for reader, read in edges if read in gone}
        whole |= {seq for seq in (more | anew) if by_seq[seq].kind is StepKind.MAP}
        more |= {items[seq].seq for seq in gone if seq in items}
        more |= {seq for seq, owner in items.items() if owner.seq in whole}
        more |= {
            later
            for later, made in objects.items()
            for seq in gone
            if objects.get(seq) == made and seq < later and by_seq[seq].kind is StepKind.METHOD
        }
        if more <= gone:
            return gone
        gone |= more


@given(graphs(), st.data())
def test_what_is_shared_is_what_nothing_reaches(graph: Graph, data: st.DataObject) -> None:
    """Exactly: no step that a change reaches is kept, and every other one is. Each step is kept, reopened or dropped."""
    steps, edges = graph
    seqs = [one.seq for one in steps]
    anew = data.draw(st.sets(st.sampled_from(seqs), max_size=2))
    found = Sharing(steps, edges).without(anew)
    assert set(found.kept) == set(seqs) - plainly(graph, anew)
    assert sorted((*found.kept, *found.reopened, *found.dropped)) == seqs
    kinds = {one.seq: one.kind for one in steps}
    assert all(
        call in found.kept and made in found.kept and kinds[call] is StepKind.METHOD for made, call in found.chained
    )


@given(graphs(), st.data())
def test_a_value_that_is_set_reaches_what_reads_it(graph: Graph, data: st.DataObject) -> None:
    """As if the step was done anew, but for the step itself."""
    steps, edges = graph
    plain = [one.seq for one in steps if one.kind is StepKind.TASK and "/m[" not in one.key]
    if not plain:
        return
    seq = data.draw(st.sampled_from(plain))
    anew, given_ = (Sharing(steps, edges).without({seq}), Sharing(steps, edges).without((), {seq}))
    reached = {one for one in anew.dropped + anew.reopened if one != seq}
    if steps[seq].state is StepState.SUCCEEDED:
        assert {*given_.dropped, *given_.reopened} == reached
    assert seq not in {*given_.kept, *given_.dropped, *given_.reopened}


@given(graphs(), st.data())
def test_dropping_one_after_the_other_is_dropping_all(graph: Graph, data: st.DataObject) -> None:
    """As a body does that calls steps otherwise than they are recorded."""
    steps, edges = graph
    called = [one.seq for one in steps if "/m[" not in one.key]
    anew = data.draw(st.sets(st.sampled_from(called), max_size=3))
    sharing = Sharing([step(one.seq, one.key, one.kind) for one in steps], edges)
    gone: set[int] = set()
    for seq in sorted(anew):
        if seq not in gone:
            gone |= set(sharing.also(seq, gone).dropped)
    assert gone == set(sharing.without(anew).dropped)
