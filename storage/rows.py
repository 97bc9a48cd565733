"""Between the words of the record and what a SQL row holds: JSON, digests as bytes, and back.

The one place that knows how failures, inputs and digests look in a column. Pickles pass through it unopened.
May import nothing of ours but model.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from dagengine.model import (
    AttemptRecord,
    Definition,
    EventRecord,
    Failure,
    Input,
    PayloadInput,
    ProcessRecord,
    RunRecord,
    RunState,
    Standing,
    StepInput,
    Value,
)


def to_json(data: Any) -> str:
    return json.dumps(data, separators=(",", ":"), ensure_ascii=False)


# ---- failures -------------------------------------------------------------------------------


def failure_text(failure: Failure | None) -> str | None:
    """The failure as JSON, without the exception itself."""
    if failure is None:
        return None
    return to_json(
        {
            "kind": failure.kind,
            "type": failure.type,
            "message": failure.message,
            "traceback": failure.traceback,
            "retriable": failure.retriable,
            "facts": failure.facts,
        }
    )


def failure_of(text: str | None, pickled: bytes | None = None) -> Failure | None:
    return None if text is None else Failure(**json.loads(text), pickled=pickled)


# ---- inputs ---------------------------------------------------------------------------------


def inputs_text(inputs: Iterable[Input]) -> str:
    """A step's seq is a number, a payload a pair of digest and size."""
    return to_json([part.seq if isinstance(part, StepInput) else [part.digest, part.size] for part in inputs])


def inputs_of(text: str) -> tuple[Input, ...]:
    return tuple(StepInput(part) if isinstance(part, int) else PayloadInput(*part) for part in json.loads(text))


def edge_row(run: int, child: int, position: int, read: Input) -> tuple[Any, ...]:
    if isinstance(read, StepInput):
        return (run, child, position, read.seq, None, None)
    return (run, child, position, None, bytes.fromhex(read.digest), read.size)


def edge_input(parent: int | None, digest: bytes | None, size: int | None) -> Input:
    if digest is not None and size is not None:
        return PayloadInput(digest.hex(), size)
    assert parent is not None
    return StepInput(parent)


# ---- whole rows -----------------------------------------------------------------------------


def value_of(
    digest: bytes | None, size: int | None, inline: bytes | None, first: int | None, count: int | None
) -> Value | None:
    items = None if first is None or count is None or count < 0 else (first, count)
    if digest is None and items is None:
        return None
    return Value((digest or b"").hex(), size or 0, inline, items)


def process_row(process: ProcessRecord) -> tuple[Any, ...]:
    return (process.id, process.host, process.boot_id, process.pid, process.start_time, process.started_at)


def definition_of(row: tuple[Any, ...]) -> Definition:
    number, name, reference, options, fingerprint = row
    return Definition(number, name, json.loads(reference), json.loads(options), fingerprint or "")


def attempt_of(row: tuple[Any, ...]) -> AttemptRecord:
    seq, number, worker, pid, host, started_at, finished_at, outcome, failure = row
    return AttemptRecord(seq, number, worker, pid, host, started_at, finished_at, outcome, failure_of(failure))


def event_of(row: tuple[Any, ...]) -> EventRecord:
    at, kind, seq, data = row
    return EventRecord(at, kind, seq, json.loads(data))


def _owner_of(columns: Sequence[Any], expired: Any) -> ProcessRecord | None:
    """`expired`: whether its lease is over; None: it has none."""
    id_, host, boot_id, pid, start_time, started_at = columns
    if id_ is None:
        return None
    return ProcessRecord(id_, host, boot_id, pid, start_time, started_at, leased=expired is not None)


def run_of(row: tuple[Any, ...]) -> RunRecord:
    """From the columns of `statements.RUN_COLUMNS`: the run's own, then its owner's, and whether its lease is over."""
    (number, run_id, workflow, state, token, next_seq, body_closed), row = row[:7], row[7:]
    (created_at, started_at, finished_at, cancel_requested_at), row = row[:4], row[4:]
    (entry, facts, inputs, result_inputs, failure, pickled, call, result_call), (*owner, expired) = row[:8], row[8:]
    payloads = tuple(part for part in inputs_of(inputs) if isinstance(part, PayloadInput))
    return RunRecord(
        number=number,
        id=run_id,
        workflow=workflow,
        entry=json.loads(entry),
        state=RunState(state),
        token=token,
        owner=_owner_of(owner, expired),
        lease_expired=bool(expired),
        call=call,
        inputs=payloads,
        body_closed=bool(body_closed),
        result_call=result_call,
        result_inputs=inputs_of(result_inputs),
        failure=failure_of(failure, pickled),
        cancel_requested_at=cancel_requested_at,
        created_at=created_at,
        started_at=started_at,
        finished_at=finished_at,
        steps=next_seq,
        facts=json.loads(facts),
    )


def standing_of(row: tuple[Any, ...]) -> Standing:
    run_id, state, returned, *owner, expired = row
    return Standing(run_id, RunState(state), _owner_of(owner, expired), bool(expired), returned)
