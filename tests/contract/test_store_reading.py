"""What a store promises of reading: what is left of a run, what replay compares, what people ask. Every store runs these."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dagengine.errors import RunNotFound
from dagengine.model import (
    Claim,
    Definition,
    OutsideStep,
    PayloadInput,
    RecordedCall,
    RunState,
    Standing,
    StepInput,
    StepKind,
    StepRecord,
    StepState,
    Value,
)
from dagengine.storage.interface import RunFilter, Store
from dagengine.storage.writes import CloseBody, ExpandStep, FinishRun, HandleFailures
from tests.storage.kit import (
    DEFINITION,
    ME,
    NOW,
    attempt,
    begin,
    changed,
    digest_of,
    event,
    fail,
    failure,
    large,
    new_run,
    record,
    recorded,
    step,
    succeed,
    value,
    write,
)

LOAD = Definition(1, "load", {"module": "jobs", "qualname": "load"}, {})

# ---- stateful objects -----------------------------------------------------------------------


def chained(store: Store) -> Claim:
    """A run with a stateful object (step 0) and four calls that change it."""
    claim = begin(store)
    calls = [step(seq, 0, kind=StepKind.METHOD) for seq in (1, 2, 3, 4)]
    recorded(store, claim, record(step(0, large(), kind=StepKind.CREATE), *calls, definitions=(DEFINITION,)))
    recorded(store, claim, succeed(0, 0))
    return claim


def test_a_state_is_rebuilt_from_the_creation_and_the_calls_since(store: Store) -> None:
    """Nothing was saved: the creation with its inputs, then the calls in the order of their ends."""
    claim = chained(store)
    recorded(store, claim, changed(2, 1, 0))
    recorded(store, claim, changed(1, 2, 0))
    found = store.saved_state(claim.run_number, 0)
    assert (found.create.kind, found.create.call, found.create.inputs) == (StepKind.CREATE, b"call 0", (large(),))
    assert [(call.seq, call.kind, call.inputs) for call in found.calls] == [
        (2, StepKind.METHOD, (StepInput(0),)),
        (1, StepKind.METHOD, (StepInput(0),)),
    ]
    assert (found.after, found.state) == (None, None)


def test_a_saved_state_replaces_what_was_before_in_the_commit_of_the_result(store: Store) -> None:
    """The state, and the calls after it; those that it has in it need not be called again. Large ones name an artifact."""
    claim = chained(store)
    recorded(store, claim, changed(1, 1, 0))
    recorded(store, claim, changed(2, 2, 0, value(b"first")))
    recorded(store, claim, changed(3, 3, 0))
    found = store.saved_state(claim.run_number, 0)
    assert (found.after, found.state, [call.seq for call in found.calls]) == (2, value(b"first"), [3])
    recorded(store, claim, changed(4, 4, 0, Value("ab" * 32, 1 << 20)))
    found = store.saved_state(claim.run_number, 0)
    assert (found.after, found.state, found.calls) == (4, Value("ab" * 32, 1 << 20), ())


def test_a_refused_batch_leaves_the_saved_state(store: Store) -> None:
    """All or nothing, states included: a batch that ends a step twice saves none."""
    claim = chained(store)
    recorded(store, claim, changed(1, 1, 0, value(b"first")))
    assert write(store, claim, changed(2, 2, 0, value(b"second")), succeed(1, 3)) is not None
    found = store.saved_state(claim.run_number, 0)
    assert (found.after, found.state) == (1, value(b"first"))


def test_the_states_of_two_objects_are_apart(store: Store) -> None:
    """Saving one leaves the other's calls to be replayed; a step that is not there has no state."""
    claim = chained(store)
    recorded(store, claim, record(step(5, kind=StepKind.CREATE), step(6, 5, kind=StepKind.METHOD)))
    recorded(store, claim, changed(1, 1, 0), changed(6, 2, 5, value(b"other")))
    assert [call.seq for call in store.saved_state(claim.run_number, 0).calls] == [1]
    assert store.saved_state(claim.run_number, 5).state == value(b"other")
    with pytest.raises(RunNotFound, match="no step 9"):
        store.saved_state(claim.run_number, 9)


# ---- what is left ---------------------------------------------------------------------------


def test_the_frontier_is_what_is_left_and_what_it_reads(store: Store) -> None:
    """Unfinished steps in the order of seq, and the states of the ended steps that they read; no others."""
    claim = begin(store)
    steps = [step(0), step(1), step(2), step(3, 0, 1, 0), step(4, 3, large()), step(5, 2, 1)]
    recorded(store, claim, record(*steps, definitions=(DEFINITION, LOAD)))
    recorded(store, claim, succeed(0, 0), fail(1, 1), succeed(2, 2))
    recorded(store, claim, fail(5, 3, StepState.SKIPPED))
    frontier = store.frontier(claim.run_number)
    assert [(pending.seq, pending.inputs) for pending in frontier.steps] == [
        (3, (StepInput(0), StepInput(1), StepInput(0))),
        (4, (StepInput(3), large())),
    ]
    assert frontier.ended_inputs == {0: StepState.SUCCEEDED, 1: StepState.FAILED}
    assert frontier.next_seq == 6
    assert frontier.definitions == (DEFINITION, LOAD)


def test_the_frontier_of_a_new_run_is_empty(store: Store) -> None:
    """Nothing is left of a run that has recorded nothing, and its numbers start from 0."""
    frontier = store.frontier(begin(store).run_number)
    assert (frontier.steps, frontier.ended_inputs, frontier.next_seq) == ((), {}, 0)


def test_an_unfinished_map_reads_its_items(store: Store) -> None:
    """An expanded map comes with its items, and the states of those that have ended."""
    claim = begin(store)
    recorded(store, claim, record(step(0), step(1, 0, kind=StepKind.MAP), definitions=(DEFINITION,)), succeed(0, 0))
    recorded(store, claim, record(step(2), step(3), step(4)), ExpandStep(1, 2, 3))
    recorded(store, claim, succeed(2, 1), fail(4, 2))
    frontier = store.frontier(claim.run_number)
    assert [(pending.seq, pending.kind, pending.items) for pending in frontier.steps] == [
        (1, StepKind.MAP, (2, 3)),
        (3, StepKind.TASK, None),
    ]
    assert frontier.ended_inputs == {0: StepState.SUCCEEDED, 2: StepState.SUCCEEDED, 4: StepState.FAILED}


def test_a_step_may_have_the_value_of_one_that_it_has_grown(store: Store) -> None:
    """It waits for that step, and its own end brings the value; what it grew stays on record."""
    claim = begin(store)
    recorded(store, claim, record(step(0), definitions=(DEFINITION,)))
    recorded(store, claim, record(step(1), step(2, 1)), ExpandStep(0, 2, -1))
    recorded(store, claim, succeed(1, 1), succeed(2, 2, value(b"the last")))
    frontier = store.frontier(claim.run_number)
    assert [(pending.seq, pending.items, pending.reads()) for pending in frontier.steps] == [(0, (2, -1), {2})]
    assert frontier.ended_inputs == {2: StepState.SUCCEEDED}
    recorded(store, claim, succeed(0, 3, value(b"the last")))
    found = store.values(claim.run_number, [0, 2])
    assert found[0] == found[2] == value(b"the last")


def test_a_map_over_nothing_is_expanded(store: Store) -> None:
    """A map with no items is told from one that is not expanded yet."""
    claim = begin(store)
    maps = record(step(0, kind=StepKind.MAP), step(1, kind=StepKind.MAP), definitions=(DEFINITION,))
    recorded(store, claim, maps, ExpandStep(0, 2, 0))
    assert [pending.items for pending in store.frontier(claim.run_number).steps] == [(2, 0), None]


def test_an_attempt_that_vanished_keeps_its_number(store: Store) -> None:
    """The next attempt is numbered after all that are known: no record of an earlier one is written over."""
    claim = begin(store)
    recorded(store, claim, record(step(0), step(1), step(2), definitions=(DEFINITION,)))
    recorded(store, claim, attempt(0, 1, "failed"), attempt(0, 2), attempt(1, 1, "lost"))
    assert [pending.attempts for pending in store.frontier(claim.run_number).steps] == [2, 1, 0]


def test_an_unknown_run_has_no_frontier(store: Store) -> None:
    """A number that was never given is not an empty run."""
    with pytest.raises(RunNotFound):
        store.frontier(99)


# ---- values, failures, order ----------------------------------------------------------------


def test_values_are_those_of_succeeded_steps(store: Store) -> None:
    """Inline bytes, digests of artifacts and lists of items come back as they were recorded; nothing else does."""
    claim = begin(store)
    artifact = Value(digest_of(b"large"), 1 << 30)
    items = Value("", 0, items=(5, 3))
    empty = Value(digest_of(b""), 0, b"")
    recorded(store, claim, record(*(step(seq) for seq in range(6)), definitions=(DEFINITION,)))
    recorded(store, claim, succeed(0, 0), succeed(1, 1, artifact), succeed(2, 2, items), succeed(3, 3, empty))
    recorded(store, claim, fail(4, 4))
    assert store.values(claim.run_number, range(9)) == {0: value(), 1: artifact, 2: items, 3: empty}
    assert store.values(claim.run_number, [1]) == {1: artifact}
    assert store.values(claim.run_number, []) == {}


def test_failures_come_with_their_exceptions(store: Store) -> None:
    """How steps ended that did not succeed, the pickled exception included; listings leave that out."""
    claim = begin(store)
    recorded(store, claim, record(step(0), step(1), step(2), definitions=(DEFINITION,)))
    recorded(store, claim, fail(0, 0), fail(1, 1, StepState.SKIPPED), attempt(0, 1, "failed"))
    assert store.failures(claim.run_number, range(3)) == {
        0: (StepState.FAILED, failure()),
        1: (StepState.SKIPPED, failure()),
    }
    shown = replace(failure(), pickled=None)
    assert [found.failure for found in store.steps(claim.run_number)] == [shown, shown, None]
    assert [found.failure for found in store.attempts(claim.run_number)] == [shown]


def test_many_values_are_read_at_once(store: Store) -> None:
    """A question may name more steps than a statement has parameters."""
    claim = begin(store)
    count = 40_000
    recorded(store, claim, record(*(step(seq) for seq in range(count)), definitions=(DEFINITION,)))
    recorded(store, claim, *(succeed(seq, seq) for seq in range(0, count, 2)))
    assert store.values(claim.run_number, range(count)).keys() == set(range(0, count, 2))
    assert store.finish_order(claim.run_number, range(count)) == {seq: seq for seq in range(0, count, 2)}


# ---- replay ---------------------------------------------------------------------------------


def test_replay_reads_all_calls_in_the_order_of_recording(store: Store) -> None:
    """Every step with its call and inputs, by seq, over any number of pages."""
    claim = begin(store)
    count = 2_500
    recorded(
        store,
        claim,
        record(
            step(0), *(step(seq, seq - 1, large(b"%d" % seq)) for seq in range(1, count)), definitions=(DEFINITION,)
        ),
        *(succeed(seq, seq) for seq in range(1_500)),
        fail(1_500, 1_500),
        HandleFailures((1_500,)),
    )
    calls = list(store.recorded_calls(claim.run_number))
    assert [call.seq for call in calls] == list(range(count))
    assert calls[1_500] == RecordedCall(
        seq=1_500,
        key="nightly/extract[1500]",
        kind=StepKind.TASK,
        definition=0,
        call=b"call 1500",
        inputs=(StepInput(1_499), PayloadInput(digest_of(b"1500"), 1 << 20)),
        state=StepState.FAILED,
        handled=True,
    )
    assert [call.seq for call in calls if call.handled] == [1_500]
    assert [call.seq for call in calls if call.state is StepState.WAITING] == list(range(1_501, count))


def test_a_replay_goes_on_while_the_run_does(store: Store) -> None:
    """Reading calls holds nothing up: the run may record between two of them."""
    claim = begin(store)
    recorded(store, claim, record(*(step(seq) for seq in range(1_500)), definitions=(DEFINITION,)))
    calls = store.recorded_calls(claim.run_number)
    first = next(calls)
    recorded(store, claim, succeed(0, 0), succeed(1_499, 1))
    assert (first.seq, sum(1 for _ in calls)) == (0, 1_499)


def test_edges_are_pairs_of_steps_in_order(store: Store) -> None:
    """Each pair of reader and read once, whatever the placeholders; large arguments are no steps."""
    claim = begin(store)
    steps = [step(0), step(1), step(2, 1, 0, 1), step(3, large()), step(4, large(), 2)]
    recorded(store, claim, record(*steps, definitions=(DEFINITION,)))
    assert list(store.edges(claim.run_number)) == [(2, 0), (2, 1), (4, 2)]


# ---- finding runs ---------------------------------------------------------------------------


def test_a_run_is_found_by_a_unique_prefix(store: Store) -> None:
    """The beginning of an id is enough, if it is the beginning of one only."""
    for run_id in ("7f3a01", "7f3b02", "80aa"):
        begin(store, run_id)
    assert store.find_run("7f3b").id == "7f3b02"
    assert store.find_run("8").id == "80aa"
    with pytest.raises(RunNotFound, match=r"7f3a01, 7f3b02\."):
        store.find_run("7f3")
    with pytest.raises(RunNotFound, match="no run 9"):
        store.find_run("9")


def test_a_whole_id_wins_over_longer_ones(store: Store) -> None:
    """An id that is the beginning of another one is still found."""
    for run_id in ("nightly", "nightly-2", "nightly-3"):
        begin(store, run_id)
    assert store.find_run("nightly").id == "nightly"
    assert store.find_run("nightly-2").id == "nightly-2"


def test_many_runs_of_one_prefix_are_not_all_named(store: Store) -> None:
    """The error stays one line, however many runs there are."""
    for index in range(30):
        begin(store, f"run-{index:02}")
    with pytest.raises(RunNotFound, match=r"run-00, run-01, run-02, run-03, run-04, …\. Give more"):
        store.find_run("run")


@pytest.mark.parametrize("strange", ["%", "_", "run'--", 'a"b', "\U0001f600"])
def test_a_prefix_is_text_and_nothing_else(store: Store, strange: str) -> None:
    """Signs that mean something in SQL mean themselves."""
    begin(store, "run-1")
    begin(store, f"{strange}-2")
    assert store.find_run(strange).id == f"{strange}-2"


# ---- listing runs ---------------------------------------------------------------------------


def _some_runs(store: Store) -> None:
    for index, (workflow, state) in enumerate(
        [
            ("nightly", RunState.SUCCEEDED),
            ("nightly", RunState.FAILED),
            ("train", RunState.FAILED),
            ("nightly", RunState.RUNNING),
            ("train", RunState.SUCCEEDED),
        ]
    ):
        claim = store.create_run(new_run(f"run-{index}", workflow, NOW + index), ME)
        assert claim is not None
        if state is not RunState.RUNNING:
            recorded(store, claim, FinishRun(state, NOW + 10))
    store.create_run(new_run("run-5", "train", NOW + 5), None)


@pytest.mark.parametrize(
    ("which", "expected"),
    [
        (RunFilter(), [5, 4, 3, 2, 1, 0]),
        (RunFilter(limit=2), [5, 4]),
        (RunFilter(name="train"), [5, 4, 2]),
        (RunFilter(states=(RunState.FAILED,)), [2, 1]),
        (RunFilter(states=(RunState.FAILED, RunState.SUCCEEDED, RunState.FAILED)), [4, 2, 1, 0]),
        (RunFilter(states=(RunState.FAILED, RunState.PENDING), limit=2), [5, 2]),
        (RunFilter(since=NOW + 3), [5, 4, 3]),
        (RunFilter(name="nightly", states=(RunState.FAILED,), since=NOW + 1), [1]),
        (RunFilter(name="nightly", states=(RunState.FAILED,), since=NOW + 1.5), []),
        (RunFilter(name="nobody"), []),
        (RunFilter(states=(RunState.CRASHED,)), []),
    ],
)
def test_runs_are_listed_newest_first(store: Store, which: RunFilter, expected: list[int]) -> None:
    """All conditions of a filter hold, and the limit keeps the newest."""
    _some_runs(store)
    assert [run.id for run in store.runs(which)] == [f"run-{index}" for index in expected]


def test_runs_of_the_same_moment_are_listed_by_their_number(store: Store) -> None:
    """The order is the same each time, also where the clock did not move."""
    for run_id in ("b", "a", "c"):
        begin(store, run_id)
    assert [run.id for run in store.runs(RunFilter())] == ["c", "a", "b"]


# ---- listing the rest -----------------------------------------------------------------------


def test_steps_are_listed_with_what_people_want_to_know(store: Store) -> None:
    """A step's record has its task's name, its attempts, its value's digest and its times, but no bytes."""
    claim = begin(store)
    recorded(
        store,
        claim,
        record(step(0), step(1, definition=1), definitions=(DEFINITION, LOAD)),
        succeed(0, 0, attempts=2),
        attempt(1, 1, "failed"),
        attempt(1, 2),
    )
    assert store.steps(claim.run_number) == [
        StepRecord(
            seq=0,
            key="nightly/extract[0]",
            kind=StepKind.TASK,
            task="extract",
            definition=0,
            state=StepState.SUCCEEDED,
            attempts=2,
            failure=None,
            value_digest=digest_of(b"value"),
            value_size=5,
            created_at=NOW,
            finished_at=NOW,
        ),
        StepRecord(
            seq=1,
            key="nightly/extract[1]",
            kind=StepKind.TASK,
            task="load",
            definition=1,
            state=StepState.WAITING,
            attempts=1,
            failure=None,
            value_digest=None,
            value_size=None,
            created_at=NOW,
            finished_at=None,
        ),
    ]


def test_steps_are_filtered(store: Store) -> None:
    """By key, by seqs, by states, and by a limit; in the order of seq."""
    claim = begin(store)
    number = claim.run_number
    recorded(store, claim, record(*(step(seq) for seq in range(6)), definitions=(DEFINITION,)))
    recorded(store, claim, succeed(0, 0), fail(4, 1), fail(2, 2), fail(3, 3, StepState.SKIPPED))

    def seqs(found: list[StepRecord]) -> list[int]:
        return [one.seq for one in found]

    assert seqs(store.steps(number, key="nightly/extract[3]")) == [3]
    assert seqs(store.steps(number, key="nightly/extract")) == []
    assert seqs(store.steps(number, seqs=[5, 0, 77, 0])) == [0, 5]
    assert seqs(store.steps(number, seqs=[])) == []
    assert seqs(store.steps(number, states=[StepState.FAILED])) == [2, 4]
    assert seqs(store.steps(number, states=[StepState.SKIPPED, StepState.FAILED])) == [2, 3, 4]
    assert seqs(store.steps(number, states=[StepState.WAITING, StepState.SUCCEEDED])) == [0, 1, 5]
    assert seqs(store.steps(number, states=[StepState.FAILED], limit=1)) == [2]
    assert seqs(store.steps(number, limit=0)) == []
    assert seqs(store.steps(number, seqs=[1, 2, 4], states=[StepState.FAILED], limit=5)) == [2, 4]


def test_counts_are_by_task_and_state(store: Store) -> None:
    """Definitions of one name are one task; states are the stored ones."""
    claim = begin(store)
    again = replace(DEFINITION, number=2, options={"retries": 0})
    steps = [step(0), step(1), step(2, definition=1), step(3, definition=2), step(4, definition=2)]
    recorded(store, claim, record(*steps, definitions=(DEFINITION, LOAD, again)), succeed(0, 0), succeed(3, 1))
    recorded(store, claim, fail(2, 2))
    assert store.counts(claim.run_number) == {
        ("extract", StepState.SUCCEEDED): 2,
        ("extract", StepState.WAITING): 2,
        ("load", StepState.FAILED): 1,
    }


def test_attempts_events_and_definitions_belong_to_their_run(store: Store) -> None:
    """What one run recorded is not seen in another one, and comes in the order of recording."""
    first, second = begin(store, "first"), begin(store, "second")
    for claim in (first, second):
        recorded(store, claim, record(step(0), step(1), definitions=(DEFINITION,)))
    recorded(store, first, attempt(1), attempt(0, 2), attempt(0, 1), event("b", 0), event("a"))
    found = store.attempts(first.run_number)
    assert [(one.seq, one.number) for one in found] == [(0, 1), (0, 2), (1, 1)]
    assert found[0] == attempt(0).attempt
    assert [one.number for one in store.attempts(first.run_number, 0)] == [1, 2]
    assert store.events(first.run_number) == [event("b", 0).event, event("a").event]
    assert store.definitions(first.run_number) == [DEFINITION]
    assert (store.attempts(second.run_number), store.events(second.run_number)) == ([], [])


def test_a_check_says_what_there_is(store: Store) -> None:
    """check names the schema, finds the store sound, and counts."""
    begin(store, "first")
    recorded(store, begin(store, "second"), record(step(0), step(1), definitions=(DEFINITION,)))
    found = store.check()
    assert found.keys() == {"revision", "integrity", "durability", "bytes", "free_bytes", "runs", "steps"}
    assert (found["integrity"], found["runs"], found["steps"]) == ("ok", 2, 2)
    assert store.figures()._asdict().keys() == found.keys() - {"integrity"}


def test_runs_are_counted_by_state_and_by_workflow(store: Store) -> None:
    """Each run once in both."""
    store.create_run(new_run("first"), None)
    store.create_run(new_run("second", workflow="weekly"), None)
    begin(store, "third")
    assert store.census() == ({RunState.PENDING: 2, RunState.RUNNING: 1}, {"nightly": 2, "weekly": 1})


def test_the_standings_of_many_runs_are_read_at_once(store: Store) -> None:
    """State, owner, and what was returned, if it is short; whole ids only, unknown ones and doubles are nothing more."""
    first, second = begin(store, "first"), begin(store, "second")
    recorded(store, first, CloseBody(b"short", ()), FinishRun(RunState.SUCCEEDED, NOW))
    recorded(store, second, CloseBody(b"long" * 100, ()))
    found = {standing.id: standing for standing in store.standings(["first", "second", "first", "fir", "nobody", "'"])}
    assert found == {
        "first": Standing("first", RunState.SUCCEEDED, None, False, b"short"),
        "second": Standing("second", RunState.RUNNING, ME, False, None),
    }
    assert store.standings([]) == []


# ---- many runs at once ------------------------------------------------------------------------


def test_the_steps_of_many_runs_are_counted_by_one_question(store: Store) -> None:
    """Those that have succeeded, and all; a run without any, or one that is not there, is left out."""
    first, second, empty, other = (begin(store, run_id) for run_id in ("aaaa", "bbbb", "cccc", "dddd"))
    for claim in (first, second, other):
        recorded(store, claim, record(*(step(seq) for seq in range(4)), definitions=(DEFINITION,)))
    recorded(store, first, succeed(0, 0), succeed(2, 1), fail(1, 2))
    asked = [first.run_number, second.run_number, empty.run_number, 10**6]
    assert store.steps_done(asked) == {first.run_number: (2, 4), second.run_number: (0, 4)}
    assert store.steps_done([]) == {}


def test_what_many_runs_wait_for_outside_is_asked_once(store: Store) -> None:
    """The first few of each run, in the order in which they were called; neither tasks nor what has ended."""
    kinds = [StepKind.TASK, StepKind.TIMER, StepKind.EVENT, StepKind.CHILD, StepKind.EVENT]
    claims = [begin(store, run_id) for run_id in ("aaaa", "bbbb", "cccc")]
    for claim in claims:
        steps = [step(seq, kind=kind) for seq, kind in enumerate(kinds)]
        recorded(store, claim, record(*steps, definitions=(DEFINITION,)))
    recorded(store, claims[1], succeed(1, 0))
    first, second, _ = (claim.run_number for claim in claims)
    assert store.outside([second, first], 2) == [
        OutsideStep(first, "nightly/extract[1]", StepKind.TIMER),
        OutsideStep(first, "nightly/extract[2]", StepKind.EVENT),
        OutsideStep(second, "nightly/extract[2]", StepKind.EVENT),
        OutsideStep(second, "nightly/extract[3]", StepKind.CHILD),
    ]
    assert store.outside([], 2) == []
