"""What a store promises of writing: who may, in which order, all or nothing. Every store runs these."""

from __future__ import annotations

import threading

import pytest

from dagengine.errors import Fenced, InternalError, RunExists, RunNotFound, RunOwned, StoreUnavailable
from dagengine.model import (
    Claim,
    PendingStep,
    ProcessRecord,
    RunState,
    StepInput,
    StepKind,
    StepState,
    Value,
)
from dagengine.storage.interface import Store
from dagengine.storage.writes import CloseBody, ExpandStep, FinishRun, HandleFailures, RenameSteps, Write
from tests.storage.kit import (
    DEFINITION,
    ME,
    NOW,
    PATIENCE,
    Outcome,
    alive,
    attempt,
    begin,
    dead,
    event,
    fail,
    failure,
    large,
    new_run,
    process,
    record,
    recorded,
    step,
    succeed,
    value,
    write,
)


def states_of(store: Store, claim: Claim) -> dict[int, StepState]:
    return {found.seq: found.state for found in store.steps(claim.run_number)}


# ---- beginning ------------------------------------------------------------------------------


def test_a_run_begun_by_a_process_is_running_and_owned(store: Store) -> None:
    """create_run with a process gives the claim at once: token 1, RUNNING, started when it was created."""
    claim = begin(store)
    run = store.find_run("7f3a")
    assert claim == Claim(run.number, "7f3a", 1)
    assert (run.state, run.token, run.owner) == (RunState.RUNNING, 1, ME)
    assert (run.created_at, run.started_at, run.finished_at) == (NOW, NOW, None)
    assert (run.workflow, run.call, run.facts) == ("nightly", b"call", {"cwd": "/work"})
    assert (run.steps, run.body_closed, run.result_call, run.failure) == (0, False, None, None)


def test_a_run_without_a_process_waits_for_one(store: Store) -> None:
    """create_run without a process records a PENDING run that nobody has a claim on."""
    assert store.create_run(new_run(), None) is None
    run = store.find_run("7f3a")
    assert (run.state, run.owner, run.started_at) == (RunState.PENDING, None, None)
    claim = store.claim("7f3a", ME, alive)
    run = store.find_run("7f3a")
    assert (run.state, run.owner, run.started_at, run.token) == (RunState.RUNNING, ME, NOW, claim.token)
    recorded(store, claim, event("run.started"))


def test_an_id_is_given_once(store: Store) -> None:
    """A second run of the same id is refused, and leaves the first one as it is."""
    claim = begin(store)
    with pytest.raises(RunExists, match="7f3a"):
        store.create_run(new_run(workflow="other"), process("other"))
    assert store.find_run("7f3a").workflow == "nightly"
    recorded(store, claim, event("run.started"))


# ---- owning ---------------------------------------------------------------------------------


def test_a_live_owner_keeps_the_run_and_is_named(store: Store) -> None:
    """claim refuses a run whose owner lives, and says which process that is."""
    claim = begin(store)
    asked: list[ProcessRecord] = []

    def lives(owner: ProcessRecord) -> bool:
        asked.append(owner)
        return True

    with pytest.raises(RunOwned, match="process 100 on host-a"):
        store.claim("7f3a", process("other", pid=200), lives)
    assert asked == [ME]
    recorded(store, claim, event("run.started"))


def test_a_dead_owner_is_replaced_at_once(store: Store) -> None:
    """claim takes the run over from an owner that is proved dead, with the next token."""
    begin(store)
    other = process("other", pid=200)
    claim = store.claim("7f3a", other, dead)
    assert claim.token == 2
    assert store.find_run("7f3a").owner == other


def test_of_two_claimants_of_a_dead_owner_one_wins(store: Store) -> None:
    """Two processes that claim at once get one claim between them: the loser meets the winner as a live owner."""
    begin(store)
    both_have_looked = threading.Barrier(2)
    results: list[Claim | RunOwned] = []

    def claim(name: str) -> None:
        waited: list[ProcessRecord] = []

        def lives(owner: ProcessRecord) -> bool:
            if not waited:
                waited.append(owner)
                both_have_looked.wait(PATIENCE)
            return owner.id != "me"

        try:
            results.append(store.claim("7f3a", process(name), lives))
        except RunOwned as error:
            results.append(error)

    threads = [threading.Thread(target=claim, args=(name,)) for name in ("a", "b")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert sorted(type(result).__name__ for result in results) == ["Claim", "RunOwned"]
    assert store.find_run("7f3a").token == 2


def test_a_replaced_owner_writes_nothing_more(store: Store) -> None:
    """A batch with an old token changes nothing and is answered with Fenced, which names who has the run now."""
    old = begin(store)
    recorded(store, old, record(step(0), definitions=(DEFINITION,)))
    new = store.claim("7f3a", process("other", pid=200), dead)
    error = write(store, old, succeed(0, 0), FinishRun(RunState.SUCCEEDED, NOW))
    assert isinstance(error, Fenced)
    assert "process 200 on host-a" in str(error)
    assert states_of(store, old) == {0: StepState.WAITING}
    assert store.find_run("7f3a").state is RunState.RUNNING
    recorded(store, new, succeed(0, 0))


def test_a_replaced_owner_is_told_how_the_run_has_ended_since(store: Store) -> None:
    """Nobody owns it any more, so nobody is named as if he did."""
    old = begin(store)
    new = store.claim("7f3a", process("other", pid=200), dead)
    recorded(store, new, FinishRun(RunState.FAILED, NOW))
    error = write(store, old, event("late"))
    assert isinstance(error, Fenced)
    assert "taken over by another process, and has ended since (failed)" in str(error)


def test_a_fenced_batch_takes_nobody_with_it(store: Store) -> None:
    """Batches of other runs that share the commit with a fenced one are recorded."""
    lost = begin(store, "lost")
    kept = begin(store, "kept")
    store.claim("lost", process("other"), dead)
    outcomes = [Outcome() for _ in range(3)]
    store.write(kept, [record(step(0), definitions=(DEFINITION,))], outcomes[0])
    store.write(lost, [record(step(0), definitions=(DEFINITION,))], outcomes[1])
    store.write(kept, [succeed(0, 0)], outcomes[2])
    assert [type(outcome.wait()) for outcome in outcomes] == [type(None), Fenced, type(None)]
    assert states_of(store, kept) == {0: StepState.SUCCEEDED}
    assert states_of(store, lost) == {}


def test_a_claim_on_another_store_s_run_is_fenced(store: Store) -> None:
    """A claim fits one run: neither an unknown number nor another run's id under a known number may write."""
    claim = begin(store)
    assert isinstance(write(store, Claim(99, "7f3a", 1), event("x")), Fenced)
    assert isinstance(write(store, Claim(claim.run_number, "another", 1), event("x")), Fenced)
    assert store.events(claim.run_number) == []


def test_a_released_run_still_counts_its_token(store: Store) -> None:
    """FinishRun lets go of the run, and whoever claims it next gets the next token."""
    claim = begin(store)
    recorded(store, claim, FinishRun(RunState.INTERRUPTED, NOW + 5))
    run = store.find_run("7f3a")
    assert (run.state, run.owner, run.finished_at, run.token) == (RunState.INTERRUPTED, None, NOW + 5, 1)
    again = store.claim("7f3a", ME, alive)
    assert again.token == 2
    assert isinstance(write(store, claim, event("late")), Fenced)


def test_a_succeeded_run_is_claimed_by_nobody(store: Store) -> None:
    """claim leaves a SUCCEEDED run as it is, and says that there is nothing left to do."""
    claim = begin(store)
    recorded(store, claim, FinishRun(RunState.SUCCEEDED, NOW))
    before = store.find_run("7f3a")
    with pytest.raises(RunExists, match="succeeded"):
        store.claim("7f3a", process("other"), dead)
    assert store.find_run("7f3a") == before


def test_claiming_what_is_not_there_says_so(store: Store) -> None:
    """claim wants a whole id: an unknown one, and a prefix, are not found."""
    begin(store)
    for unknown in ("none", "7f"):
        with pytest.raises(RunNotFound):
            store.claim(unknown, ME, dead)


# ---- opening again --------------------------------------------------------------------------


def _a_run_of_every_end(store: Store) -> Claim:
    claim = begin(store)
    steps = [step(seq) for seq in range(6)]
    recorded(
        store,
        claim,
        record(*steps, definitions=(DEFINITION,)),
        succeed(0, 0),
        fail(1, 1, attempts=3),
        fail(2, 2, StepState.SKIPPED, attempts=0),
        fail(3, 3, StepState.CANCELLED),
        fail(4, 4),
        HandleFailures((4,)),
        FinishRun(RunState.FAILED, NOW + 9, failure("the run failed")),
    )
    return claim


def test_a_failed_run_says_why_until_it_is_claimed(store: Store) -> None:
    """FinishRun's failure is there with its exception; a claim makes the run RUNNING and forgets it."""
    _a_run_of_every_end(store)
    run = store.find_run("7f3a")
    assert (run.state, run.failure) == (RunState.FAILED, failure("the run failed"))
    store.claim("7f3a", ME, dead)
    run = store.find_run("7f3a")
    assert (run.state, run.failure, run.finished_at, run.started_at) == (RunState.RUNNING, None, None, NOW)


def test_reopening_gives_unsuccessful_steps_another_chance(store: Store) -> None:
    """What failed, was skipped or cancelled is WAITING again, with no trace of its end; what succeeded stays."""
    claim = _a_run_of_every_end(store)
    store.claim("7f3a", ME, dead)
    number = claim.run_number
    assert [pending.seq for pending in store.frontier(number).steps] == [1, 2, 3, 5]
    assert store.failures(number, range(6)).keys() == {4}
    assert store.finish_order(number, range(6)) == {0: 0, 4: 4}
    assert [found.finished_at is None for found in store.steps(number)] == [False, True, True, True, False, True]


def test_steps_of_a_state_are_read_a_page_at_a_time(store: Store) -> None:
    """After the last one of the page before, so that a million of them need not be in memory at once."""
    claim = begin(store)
    recorded(store, claim, record(*(step(seq) for seq in range(7)), definitions=(DEFINITION,)))
    recorded(store, claim, *(fail(seq, seq) for seq in (1, 2, 4, 5)))

    def page(after: int, limit: int) -> list[int]:
        found = store.steps(claim.run_number, states=[StepState.FAILED], after=after, limit=limit)
        return [each.seq for each in found]

    assert (page(-1, 2), page(2, 2), page(5, 2), page(2, 9)) == ([1, 2], [4, 5], [], [4, 5])
    assert [each.seq for each in store.steps(claim.run_number, after=4)] == [5, 6]


def test_a_handled_failure_is_a_fact(store: Store) -> None:
    """A failure that the body was given stays on resume, also of a step that was skipped."""
    claim = begin(store)
    steps = record(step(0), step(1), definitions=(DEFINITION,))
    recorded(store, claim, steps, fail(0, 0), fail(1, 1, StepState.SKIPPED), HandleFailures((0, 1)))
    recorded(store, claim, FinishRun(RunState.INTERRUPTED, NOW))
    store.claim("7f3a", ME, dead)
    assert states_of(store, claim) == {0: StepState.FAILED, 1: StepState.SKIPPED}
    assert [call.handled for call in store.recorded_calls(claim.run_number)] == [True, True]


def test_a_claim_need_not_reopen(store: Store) -> None:
    """Without `reopen` ends and a request to cancel stay as they are."""
    claim = _a_run_of_every_end(store)
    store.claim("7f3a", ME, dead, reopen=False)
    store.request_cancel("7f3a", NOW + 20)
    before = states_of(store, claim)
    store.claim("7f3a", ME, dead, reopen=False)
    assert states_of(store, claim) == before
    assert store.find_run("7f3a").cancel_requested_at == NOW + 20


def test_an_opened_step_can_end_once_more(store: Store) -> None:
    """After a reopen the step is ended as if for the first time, and its attempts are numbered on."""
    claim = _a_run_of_every_end(store)
    again = store.claim("7f3a", ME, dead)
    [pending] = [pending for pending in store.frontier(claim.run_number).steps if pending.seq == 1]
    assert pending.attempts == 3
    recorded(store, again, succeed(1, 5, attempts=4))
    assert store.values(claim.run_number, [1]) == {1: value()}
    assert store.finish_order(claim.run_number, [1]) == {1: 5}
    assert [found.attempts for found in store.steps(claim.run_number, key="nightly/extract[1]")] == [4]


def test_a_map_that_failed_keeps_its_items(store: Store) -> None:
    """An expanded map that ended without a value is opened with its items, so that it only waits for them."""
    claim = begin(store)
    recorded(
        store,
        claim,
        record(step(0, kind=StepKind.MAP), definitions=(DEFINITION,)),
        record(step(1), step(2)),
        ExpandStep(0, 1, 2),
        succeed(1, 0),
        fail(2, 1),
        fail(0, 2, StepState.SKIPPED),
        FinishRun(RunState.FAILED, NOW),
    )
    store.claim("7f3a", ME, dead)
    frontier = store.frontier(claim.run_number)
    assert [(pending.seq, pending.items) for pending in frontier.steps] == [(0, (1, 2)), (2, None)]
    assert frontier.ended_inputs == {1: StepState.SUCCEEDED}


# ---- writing --------------------------------------------------------------------------------


def test_what_is_written_is_there_when_the_callback_comes(store: Store) -> None:
    """A callback with None means recorded: the next question finds it."""
    claim = begin(store)
    recorded(store, claim, record(step(0), step(1, 0, large()), definitions=(DEFINITION,)))
    frontier = store.frontier(claim.run_number)
    assert frontier.steps == (
        PendingStep(0, "nightly/extract[0]", StepKind.TASK, 0, b"call 0", (), 0, None),
        PendingStep(1, "nightly/extract[1]", StepKind.TASK, 0, b"call 1", (StepInput(0), large()), 0, None),
    )
    assert frontier.definitions == (DEFINITION,)


def test_a_batch_is_all_or_nothing(store: Store) -> None:
    """One write of a batch that does not fit, and none of the batch is recorded."""
    claim = begin(store)
    error = write(
        store,
        claim,
        record(step(0), step(1), definitions=(DEFINITION,)),
        attempt(0),
        succeed(0, 0),
        event("step.succeeded", 0),
        CloseBody(b"result", (StepInput(0),)),
        FinishRun(RunState.SUCCEEDED, NOW),
        succeed(7, 1),
    )
    assert isinstance(error, InternalError)
    number = claim.run_number
    run = store.find_run("7f3a")
    assert (run.state, run.owner, run.steps, run.body_closed) == (RunState.RUNNING, ME, 0, False)
    assert (store.steps(number), store.events(number), store.attempts(number)) == ([], [], [])
    frontier = store.frontier(number)
    assert (frontier.next_seq, frontier.definitions) == (0, ())


MISFITS: dict[str, list[Write]] = {
    "a result that is recorded": [succeed(0, 2, value(b"another"))],
    "the failure of a step that is recorded": [fail(0, 2)],
    "a step that is not there": [succeed(9, 2)],
    "a step that is recorded later": [succeed(2, 2), record(step(2))],
    "two ends of one step": [succeed(1, 2), fail(1, 3)],
    "a seq that is taken": [record(step(1))],
    "a definition that is there": [record(definitions=(DEFINITION,))],
    "items of what is no map or task": [record(step(2, kind=StepKind.CREATE)), ExpandStep(2, 3, 0)],
    "items of a map that has ended": [record(step(2, kind=StepKind.MAP)), succeed(2, 2), ExpandStep(2, 3, 0)],
    "a failure to handle before it is there": [HandleFailures((1,)), fail(1, 2)],
    "a failure to handle where there is a value": [HandleFailures((0,))],
    "a digest that is none": [succeed(1, 2, Value("not hex", 1, b"x"))],
}


@pytest.mark.parametrize("misfit", MISFITS)
def test_a_write_that_does_not_fit_is_refused(store: Store, misfit: str) -> None:
    """What contradicts the record is our own bug: InternalError, and the record is as it was."""
    claim = begin(store)
    recorded(store, claim, record(step(0), step(1), definitions=(DEFINITION,)), succeed(0, 0))
    before = (store.steps(claim.run_number), store.frontier(claim.run_number))
    error = write(store, claim, *MISFITS[misfit])
    assert isinstance(error, InternalError), error
    assert (store.steps(claim.run_number), store.frontier(claim.run_number)) == before
    assert store.values(claim.run_number, [0]) == {0: value()}


def test_a_refused_batch_takes_no_other_run_with_it(store: Store) -> None:
    """Batches of other runs around a refused one are recorded, in their order."""
    broken, sound = begin(store, "broken"), begin(store, "sound")
    outcomes = [Outcome() for _ in range(4)]
    store.write(sound, [record(step(0), step(1), definitions=(DEFINITION,))], outcomes[0])
    store.write(sound, [succeed(0, 0)], outcomes[1])
    store.write(broken, [succeed(0, 0)], outcomes[2])
    store.write(sound, [succeed(1, 1), event("run.done")], outcomes[3])
    assert [type(outcome.wait()) for outcome in outcomes] == [type(None), type(None), InternalError, type(None)]
    assert states_of(store, sound) == {0: StepState.SUCCEEDED, 1: StepState.SUCCEEDED}
    assert store.finish_order(sound.run_number, [0, 1]) == {0: 0, 1: 1}


def test_what_is_recorded_is_a_prefix_of_what_was_handed_over(store: Store) -> None:
    """After a refused batch nothing more is recorded under its claim; a new claim starts afresh."""
    claim = begin(store)
    outcomes = [Outcome() for _ in range(4)]
    store.write(claim, [record(step(0), definitions=(DEFINITION,))], outcomes[0])
    store.write(claim, [succeed(5, 0)], outcomes[1])
    store.write(claim, [succeed(0, 0)], outcomes[2])
    assert [type(outcome.wait()) for outcome in outcomes[:3]] == [type(None), InternalError, InternalError]
    store.write(claim, [event("later")], outcomes[3])
    assert isinstance(outcomes[3].wait(), InternalError)
    assert states_of(store, claim) == {0: StepState.WAITING}
    again = store.claim("7f3a", ME, dead)
    recorded(store, again, succeed(0, 0))


def test_callbacks_come_in_order_on_a_thread_of_the_store(store: Store) -> None:
    """However the batches are grouped, callbacks come in the order of the writes, all on one other thread."""
    claims = [begin(store, f"run-{index}") for index in range(3)]
    order: list[tuple[int, int]] = []
    last = Outcome()
    for number in range(100):
        for index, claim in enumerate(claims):

            def done(error: object, which: tuple[int, int] = (number, index)) -> None:
                assert error is None
                order.append(which)

            store.write(claim, [event(f"{number}")], done)
    store.write(claims[0], [event("last")], last)
    assert last.wait() is None
    assert order == [(number, index) for number in range(100) for index in range(3)]
    assert last.thread is not threading.current_thread()
    assert [found.kind for found in store.events(claims[1].run_number)] == [f"{number}" for number in range(100)]


def test_a_callback_may_ask_and_write(store: Store) -> None:
    """A callback may read, write on, and request: none of it waits for the thread that it runs on."""
    claim = begin(store)
    outcome = Outcome()
    seen: list[object] = []

    def done(error: object) -> None:
        seen.append(error)
        seen.append(store.find_run("7f3a").steps)
        seen.append(store.request_cancel("7f3a", NOW))
        store.write(claim, [succeed(0, 0)], outcome)

    store.write(claim, [record(step(0), definitions=(DEFINITION,))], done)
    # What the callback hands over comes after this one, so it is waited for through its own outcome.
    assert outcome.wait() is None
    assert seen == [None, 1, RunState.RUNNING]


def test_a_failing_callback_harms_nobody(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    """An exception in a callback is logged, and the callbacks after it come."""
    claim = begin(store)

    def done(error: object) -> None:
        raise RuntimeError("a bug of the caller's")

    store.write(claim, [event("one")], done)
    recorded(store, claim, event("two"))
    assert [found.kind for found in store.events(claim.run_number)] == ["one", "two"]
    assert "a callback of a write failed" in caplog.text


def test_an_attempt_is_replaced_by_its_end(store: Store) -> None:
    """Recorded again under the same number, an attempt has its outcome; written at once or one after the other."""
    claim = begin(store)
    recorded(store, claim, record(step(0), step(1), definitions=(DEFINITION,)), attempt(0), attempt(1))
    recorded(store, claim, attempt(0, outcome="succeeded"), attempt(1, 2), attempt(1, 2, "failed"))
    found = store.attempts(claim.run_number)
    assert [(one.seq, one.number, one.outcome) for one in found] == [
        (0, 1, "succeeded"),
        (1, 1, None),
        (1, 2, "failed"),
    ]
    assert store.attempts(claim.run_number, open_only=True) == [attempt(1).attempt]


def test_a_closed_body_says_what_it_returned(store: Store) -> None:
    """CloseBody keeps the encoded call and its inputs, in the order of the placeholders."""
    claim = begin(store)
    inputs = (StepInput(1), large(), StepInput(0))
    recorded(store, claim, CloseBody(b"result", inputs))
    run = store.find_run("7f3a")
    assert (run.body_closed, run.result_call, run.result_inputs) == (True, b"result", inputs)


def test_a_closed_store_refuses(store: Store) -> None:
    """After close, whatever is asked of the store says that it is closed; closing again is harmless."""
    claim = begin(store)
    store.close()
    store.close()
    with pytest.raises(StoreUnavailable, match="closed"):
        store.write(claim, [event("late")], Outcome())
    with pytest.raises(StoreUnavailable, match="closed"):
        store.find_run("7f3a")
    with pytest.raises(StoreUnavailable, match="closed"):
        store.create_run(new_run("other"), ME)


def test_closing_waits_for_what_was_handed_over(store: Store) -> None:
    """close returns when every callback has come."""
    claim = begin(store)
    outcomes = [Outcome() for _ in range(50)]
    for outcome in outcomes:
        store.write(claim, [event("x")], outcome)
    store.close()
    assert [outcome.error for outcome in outcomes] == [None] * 50
    assert all(outcome.thread is not None for outcome in outcomes)


# ---- cancelling -----------------------------------------------------------------------------


def test_a_running_run_is_asked_to_stop(store: Store) -> None:
    """request_cancel notes when, once, and leaves the rest to the owner; a new claim forgets it."""
    begin(store)
    assert store.request_cancel("7f3a", NOW + 1) is RunState.RUNNING
    assert store.request_cancel("7f3a", NOW + 2) is RunState.RUNNING
    assert store.find_run("7f3a").cancel_requested_at == NOW + 1
    store.claim("7f3a", ME, dead)
    assert store.find_run("7f3a").cancel_requested_at is None


@pytest.mark.parametrize("state", [RunState.PENDING, RunState.INTERRUPTED, RunState.MISMATCH])
def test_a_run_that_nobody_works_on_is_cancelled_at_once(store: Store, state: RunState) -> None:
    """Where nobody has to be asked, the run is CANCELLED when request_cancel returns, and can be resumed."""
    if state is RunState.PENDING:
        store.create_run(new_run(), None)
    else:
        recorded(store, begin(store), FinishRun(state, NOW))
    assert store.request_cancel("7f3a", NOW + 1) is RunState.CANCELLED
    run = store.find_run("7f3a")
    assert (run.state, run.finished_at) == (RunState.CANCELLED, NOW + 1)
    store.claim("7f3a", ME, alive)
    assert store.find_run("7f3a").state is RunState.RUNNING


@pytest.mark.parametrize("state", [RunState.SUCCEEDED, RunState.FAILED, RunState.CANCELLED])
def test_an_ended_run_is_not_cancelled(store: Store, state: RunState) -> None:
    """A run that has ended stays as it ended."""
    recorded(store, begin(store), FinishRun(state, NOW))
    before = store.find_run("7f3a")
    assert store.request_cancel("7f3a", NOW + 1) is state
    assert store.find_run("7f3a") == before


def test_cancelling_what_is_not_there_says_so(store: Store) -> None:
    """request_cancel of an unknown run raises RunNotFound."""
    with pytest.raises(RunNotFound, match="none"):
        store.request_cancel("none", NOW)


def test_a_step_may_be_given_another_key(store: Store) -> None:
    """Its old one is free then; a key that is taken is refused."""
    claim = begin(store)
    recorded(store, claim, record(step(0), step(1), definitions=(DEFINITION,)), succeed(0, 0))
    recorded(store, claim, RenameSteps(((0, "nightly/extract[0]~1"),)))
    recorded(store, claim, record(step(2)._replace(key="nightly/extract[0]")))
    assert [found.key for found in store.steps(claim.run_number)] == [
        "nightly/extract[0]~1",
        "nightly/extract[1]",
        "nightly/extract[0]",
    ]
    assert isinstance(write(store, claim, RenameSteps(((1, "nightly/extract[0]"),))), InternalError)
