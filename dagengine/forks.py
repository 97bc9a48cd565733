"""Forks: a new run that shares the results of a recorded one, and does anew only what a change reaches.

`record_fork` decides what is shared and records the new run, PENDING, in one transaction; whoever then resumes it calls its
body, whose calls find the shared steps by their keys (`shared_steps`). The donor is only read. What was asked for stands in
the new run's facts:

    forked_from   the donor's id
    fork          below: seqs below it were shared when the fork was made; order: so are places in the order of completion
                  given: seqs of the steps that were given a value; from, set, params, code: as they were asked for

May import everything of the workflow layer but the engine and the command line.
"""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from dagengine.calls import encode_call
from dagengine.code.packing import Shelf
from dagengine.code.pinning import CURRENT, PINNED, code_of, pin
from dagengine.errors import BadArguments, RunConflict
from dagengine.functions import Reference, resolve, today
from dagengine.identity import new_id
from dagengine.model import (
    INLINE_LIMIT,
    NewRun,
    PayloadInput,
    RunRecord,
    RunState,
    Share,
    StepKind,
    StepRecord,
    StepState,
    Value,
)
from dagengine.reading import Reader
from dagengine.shared_steps import fork_facts
from dagengine.sharing import Sharing
from dagengine.storage.interface import ArtifactStore, Store
from dagengine.validation import did_you_mean
from dagengine.values import encode
from dagengine.views import find_step

if TYPE_CHECKING:
    from dagengine.workflows import Workflow

_SETTABLE = frozenset(StepKind) - {StepKind.CREATE, StepKind.METHOD, StepKind.UNDO}


class Place(NamedTuple):
    """Where runs are recorded, large values lie, and code is kept as files."""

    store: Store
    artifacts: ArtifactStore
    shelf: Shelf


def record_fork(
    place: Place,
    donor: RunRecord,
    *,
    from_: Iterable[str] = (),
    params: Mapping[str, Any] | None = None,
    set_: Mapping[str, Any] | None = None,
    code: str | None = None,
    run_id: str | None = None,
    facts: Mapping[str, Any] | None = None,
    also: Callable[[Any], None] | None = None,
) -> str:
    """Record a run that shares what it can of `donor`, and return its id. The arguments are those of `Engine.fork`.

    facts: further ones of the caller's (JSON); also: as of `Store.create_run`.
    Raises RunNotFound for a step that there is not, with the nearest; RunConflict for a run or step that can't be forked
    so; BadArguments.
    """
    store, artifacts, _ = place
    if not donor.steps and donor.state is RunState.PENDING:
        raise RunConflict(
            f"run {donor.id[:12]} was never begun: there is nothing to fork. Begin it with: dagengine resume"
            f" {donor.id[:12]}",
            run_id=donor.id,
        )
    if donor.number in store.expired_runs():
        raise RunConflict(
            f"the values of run {donor.id[:12]} have expired: there is nothing to share. Begin it anew with: dagengine"
            f" rerun {donor.id[:12]}",
            run_id=donor.id,
        )
    anew = [find_step(store, donor, name) for name in from_]
    given = {find_step(store, donor, name).seq: value for name, value in (set_ or {}).items()}
    graph = Sharing(store.steps(donor.number), store.edges(donor.number))
    for seq in given:
        _check_settable(donor, graph.steps[seq])
    if code == CURRENT:
        donor = replace(donor, entry=today(Reference.from_json(donor.entry)).to_json())
        anew += changed_steps(store, donor, graph.steps.values())
    values = {seq: keep_value(artifacts, value, graph.steps[seq].key) for seq, value in given.items()}
    unchanged = {seq for seq, value in values.items() if _is_value(graph.steps[seq], value)}
    for seq in unchanged:
        del values[seq]
    shares = graph.without((step.seq for step in anew if step.seq not in values), values)
    for seq in values:
        _check_reached(donor, graph, seq, set(shares.dropped))
    share = Share(
        donor=donor.number,
        kept=shares.kept,
        reopened=shares.reopened,
        values=tuple(sorted(values.items())),
        chained=shares.chained,
        next_seq=max(graph.steps, default=-1) + 1,
        token=donor.token,
        no_call=encode(((), {})).to_bytes(),
    )
    asked = {
        "from": [step.key for step in anew],
        "set": [graph.steps[seq].key for seq in sorted(given)],
        "params": sorted(params or ()),
        **({"code": code} if code else {}),
        "below": share.next_seq,
        "order": (donor.token + 1) << 32,
        "given": sorted({*values, *((fork_facts(donor) or {}).get("given", ()))} & {*values, *shares.kept}),
    }
    changed = _Changed(place, donor, params, code)
    new = _new_run(donor, changed, run_id, {"fork": asked, **(facts or {})})
    store.create_run(new, None, share, also)
    return new.id


def record_rerun(
    place: Place,
    donor: RunRecord,
    *,
    params: Mapping[str, Any] | None = None,
    code: str | None = None,
    run_id: str | None = None,
) -> str:
    """Record a run with the donor's arguments, which shares nothing of it."""
    asked = {"rerun": {"params": sorted(params or ())}}
    new = _new_run(donor, _Changed(place, donor, params, code), run_id, asked)
    place.store.create_run(new, None)
    return new.id


class _Changed:
    """The arguments and the code of a new run: the donor's, but for what was changed. Its workflow is loaded if it must be.

    Raises LoadError, BadArguments.
    """

    def __init__(
        self, place: Place, donor: RunRecord, params: Mapping[str, Any] | None, code: str | None
    ) -> None:  # fmt: skip
        self.call, self.inputs = donor.call, donor.inputs
        self.code = code_of(place.store, donor)
        if not params and code != CURRENT:
            return
        loaded = pin(place.store, donor, code or PINNED, place.shelf)
        workflow = loaded.workflow()
        self.code = loaded.digest
        if params:
            self.call, self.inputs = _call(place, donor, params, workflow)


def _new_run(donor: RunRecord, changed: _Changed, run_id: str | None, facts: dict[str, Any]) -> NewRun:
    kept = {name: fact for name, fact in donor.facts.items() if name in _INHERITED}
    here = {"python": platform.python_version(), "host": platform.node(), "pid": os.getpid(), "cwd": str(Path.cwd())}
    code = {} if changed.code is None else {"code": changed.code}
    facts = {**here, **kept, **code, "forked_from": donor.id, **facts}
    return NewRun(run_id or new_id(), donor.workflow, donor.entry, changed.call, changed.inputs, time.time(), facts)


_INHERITED = ("cwd", "timeout", "compensate", "logical_time", "tags")


def _call(
    place: Place, donor: RunRecord, params: Mapping[str, Any], workflow: Workflow[..., Any]
) -> tuple[bytes, tuple[PayloadInput, ...]]:
    """The donor's arguments, those in `params` changed, as a call."""
    args, kwargs = Reader(place.store, place.artifacts, donor.number).call(donor.call, donor.inputs)
    bound = workflow.signature.bind(*args, **kwargs)
    names = [name for name, parameter in workflow.signature.parameters.items() if parameter.kind.value in (0, 1, 3)]
    for name, value in params.items():
        if name not in names:
            hint = did_you_mean(name, names, f"It has: {', '.join(names) or 'none'}.", closeness=0.5)
            raise BadArguments(f"{workflow.name} has no parameter {name!r}.{hint}")
        bound.arguments[name] = value
    workflow.check_arguments(bound.args, bound.kwargs)

    def keep(encoded: Any) -> None:
        place.artifacts.put(encoded.digest(), encoded.size, encoded.to_bytes())

    call, inputs = encode_call(bound.args, bound.kwargs, f"the call {workflow.name}", keep)
    return call, tuple(part for part in inputs if isinstance(part, PayloadInput))


def changed_steps(store: Store, run: RunRecord, steps: Iterable[StepRecord]) -> list[StepRecord]:
    """The steps whose function has another code now, or is gone; those of which that is not known stay."""
    from dagengine.code.fingerprints import fingerprint

    changed = set()
    for definition in store.definitions(run.number):
        if not definition.fingerprint:
            continue
        try:
            found: Any = resolve(Reference.from_json(definition.reference))
            if fingerprint(found) != definition.fingerprint:
                changed.add(definition.number)
        except Exception:  # whatever its import raises: code that can't be had is not the same
            changed.add(definition.number)
    return [step for step in steps if step.definition in changed]


def _check_settable(donor: RunRecord, step: StepRecord) -> None:
    if step.kind not in _SETTABLE:
        raise RunConflict(
            f"{step.key} makes or changes a stateful object: its value can't be set. Set a step that reads it.",
            run_id=donor.id,
        )


def _check_reached(donor: RunRecord, graph: Sharing, seq: int, dropped: set[int]) -> None:
    caller = graph.caller(seq)
    if caller is not None and caller in dropped:
        raise RunConflict(
            f"{graph.steps[seq].key} can't be set, because {graph.steps[caller].key}, which calls it, runs again."
            f" Set {graph.steps[caller].key} instead.",
            run_id=donor.id,
        )


def keep_value(artifacts: ArtifactStore, value: Any, key: str) -> Value:
    """The value, encoded, and durable if it is large."""
    encoded = encode(value, f"the value of {key}")
    if encoded.placeholders:
        raise BadArguments(f"the value of {key} can't have refs in it.")
    digest = encoded.digest()
    if encoded.size <= INLINE_LIMIT:
        return Value(digest, encoded.size, encoded.to_bytes())
    artifacts.put(digest, encoded.size, encoded.to_bytes())
    return Value(digest, encoded.size)


def _is_value(step: StepRecord, value: Value) -> bool:
    return step.state is StepState.SUCCEEDED and step.value_digest == value.digest


def parse_values(words: Sequence[str]) -> dict[str, Any]:
    """STEP=JSON and STEP=@FILE, as `set_` takes them. The key of a step may have = in its brackets."""
    found: dict[str, Any] = {}
    for word in words:
        key, text = _split(word)
        if key in found:
            raise BadArguments(f"{key} is set twice. Set it once.")
        found[key] = parse_text(text, f"the value of {key}")
    return found


def parse_text(text: str, where: str) -> Any:
    """JSON, or the JSON in @FILE. Raises BadArguments."""
    if text.startswith("@"):
        where = f"{where} in {text[1:]}"
        try:
            text = Path(text[1:]).read_text()
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not text"
            raise BadArguments(f"{where} can't be read: {reason}.") from None
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        reason = error.msg if isinstance(error, json.JSONDecodeError) else "it is nested too deeply"
        raise BadArguments(f"{where} is not JSON ({reason}): {text[:60]!r}. A text needs quotes: '\"text\"'.") from None


def _split(word: str) -> tuple[str, str]:
    depth = 0
    for index, character in enumerate(word):
        depth += (character == "[") - (character == "]")
        if character == "=" and depth <= 0 and index:
            return word[:index], word[index + 1 :]
    raise BadArguments(f"{word!r} sets nothing. Say STEP=VALUE, with the value as JSON, or STEP=@FILE.")
