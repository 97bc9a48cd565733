"""What every store promises of many runs at once: they are found, and claimed, as if each had been by itself."""

from __future__ import annotations

import threading
from functools import partial

from dagengine.errors import RunExists, RunNotFound, RunOwned
from dagengine.model import Claim, ProcessRecord, RunState
from dagengine.storage.due import Due, due
from dagengine.storage.interface import Store
from dagengine.storage.queues import Entry, put
from dagengine.storage.writes import FinishRun
from tests.storage.kit import ME, NOW, PATIENCE, begin, event, new_run, process, recorded

OTHER = process("other", pid=200)


def _dead(run_id: str, owner: ProcessRecord) -> bool:
    return False


def _alive(run_id: str, owner: ProcessRecord) -> bool:
    return True


def _queued(store: Store, entry: Entry, connection: object) -> None:
    put(store, connection, entry)


def test_many_runs_are_found_by_their_whole_ids(store: Store) -> None:
    """Each as `find_run` finds it; those that are not there are left out, also where their beginning is known."""
    for run_id in ("a", "ab", "c"):
        store.create_run(new_run(run_id), None)
    assert store.find_runs(["ab", "a", "gone", "c1"]) == {run_id: store.find_run(run_id) for run_id in ("a", "ab")}
    assert store.find_runs([]) == {}


def test_many_runs_are_claimed_together_and_each_refusal_is_its_own(store: Store) -> None:
    """Waiting, dead and ended runs have the claims that `claim` gives; a living, a succeeded, an unknown one say why not.
    The runs are owned as by `claim`, and what is written under the claims is taken."""
    store.create_run(new_run("waits"), None)
    begin(store, "dead")
    lives = begin(store, "lives")
    done = begin(store, "done")
    recorded(store, done, FinishRun(RunState.SUCCEEDED, NOW))
    claims = store.claim_all(
        ["waits", "dead", "lives", "done", "gone"], OTHER, lambda run_id, owner: owner == ME and run_id == "lives"
    )
    assert {run_id: type(claim) for run_id, claim in claims.items()} == {
        "waits": Claim,
        "dead": Claim,
        "lives": RunOwned,
        "done": RunExists,
        "gone": RunNotFound,
    }
    for run_id, token in (("waits", 1), ("dead", 2)):
        claim, run = claims[run_id], store.find_run(run_id)
        assert isinstance(claim, Claim)
        assert (claim.token, run.token, run.state, run.owner, run.started_at) == (
            *(token, token, RunState.RUNNING, OTHER),
            NOW,
        )
        recorded(store, claim, event("run.resumed"))
    recorded(store, lives, event("run.started"))


def test_of_two_that_claim_the_same_runs_at_once_each_run_has_one(store: Store) -> None:
    """Both have seen that nobody owns them; no run is claimed twice, and the other one is told by whom it is."""
    ids = [f"run-{number}" for number in range(8)]
    for run_id in ids:
        begin(store, run_id)
    both_have_looked = threading.Barrier(2)
    found: dict[str, dict[str, object]] = {}

    def claim(name: str, order: list[str]) -> None:
        waited: list[str] = []

        def lives(run_id: str, owner: ProcessRecord) -> bool:
            if not waited:
                waited.append(run_id)
                both_have_looked.wait(PATIENCE)
            return owner.id != "me"

        found[name] = dict(store.claim_all(order, process(name), lives))

    threads = [threading.Thread(target=claim, args=("a", ids)), threading.Thread(target=claim, args=("b", ids[::-1]))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    for run_id in ids:
        assert {type(found[name][run_id]) for name in "ab"} == {Claim, RunOwned}
        assert store.find_run(run_id).token == 2


def test_a_claim_of_many_hears_of_a_cancel_and_keeps_failures(store: Store) -> None:
    """Nobody has asked for the run to go on: a request to cancel it stays, as with `claim(reopen=False)`."""
    begin(store, "asked")
    store.request_cancel("asked", NOW + 1)
    assert isinstance(store.claim_all(["asked"], OTHER, _dead)["asked"], Claim)
    assert store.find_run("asked").cancel_requested_at == NOW + 1
    assert isinstance(store.claim_all(["asked"], ME, _alive)["asked"], RunOwned)


def test_one_question_says_what_a_server_has_to_do(store: Store) -> None:
    """Queues in which somebody waits who may begin, and when the next one may; where nothing is, nothing is said."""
    assert due(store, 10.0) == Due()
    for entry in (Entry("now"), Entry("later", not_before=50.0), Entry("last", not_before=70.0)):
        store.create_run(new_run(entry.id), None, also=partial(_queued, store, entry))
    assert due(store, 10.0) == Due(("default",), queued=50.0)
    assert due(store, 60.0) == Due(("default",), queued=70.0)
    assert due(store, 80.0) == Due(("default",))


def test_of_many_that_record_the_same_run_at_once_one_does(store: Store) -> None:
    """The others hear that there is one, and what they would have written with it is not there."""
    ready = threading.Barrier(4)
    told: list[object] = []

    def create(number: int) -> None:
        ready.wait(PATIENCE)
        try:
            entry = Entry("twin", priority=number)
            told.append(store.create_run(new_run("twin"), None, also=partial(_queued, store, entry)))
        except RunExists as error:
            told.append(error)

    threads = [threading.Thread(target=create, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert sorted(map(str, map(type, told))) == sorted(map(str, [type(None), RunExists, RunExists, RunExists]))
    assert due(store, 1.0).queues == ("default",)
