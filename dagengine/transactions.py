"""A transactional task, as a worker calls it: what it does to a database commits with what it returns, or not at all.

    note found? ──▶ its value is the step's: the task is not called again
    else: call ──▶ context().connection: the transaction begins ──▶ value ──▶ note and commit ──▶ the step's end
                                                   exception, crash ──▶ rolled back

Where the note lies: `storage/outbox`. May import errors, model, values, the runtime's slots and the store's outbox.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from dagengine.errors import BadOption, DefinitionError
from dagengine.model import INLINE_LIMIT, RunRecord, Value
from dagengine.runtime import current, owner
from dagengine.values import decode, encode

if TYPE_CHECKING:
    from dagengine.storage.interface import Store
    from dagengine.storage.outbox import Outbox, TaskConnection

_outbox: ContextVar[Outbox | None] = ContextVar("dagengine_outbox", default=None)


def connection() -> TaskConnection:
    """As Context.connection."""
    outbox = _outbox.get()
    if outbox is None:
        raise DefinitionError(
            "context().connection is of transactional tasks, in a run: say @task(transactional=True), or a database's URL."
        )
    return outbox.connection()


class Transactional:
    """Calls the function of a task. `where`: a URL, or True for the store's own database."""

    def __init__(self, function: Callable[..., Any], where: bool | str) -> None:
        self._function = function
        self._where = where

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        from dagengine.storage.outbox import Taken

        outbox = self._open()
        found = outbox.find()
        if found is not None:
            return _value_of(found)
        token = _outbox.set(outbox)
        try:
            return self._call(outbox, args, kwargs)
        except Taken:
            found = outbox.find()
            if found is None:
                raise DefinitionError(
                    "another attempt at this step is at work in its database: this one ends."
                ) from None
            return _value_of(found)
        finally:
            _outbox.reset(token)
            outbox.roll_back()

    def _call(self, outbox: Outbox, args: Any, kwargs: Any) -> Any:
        value = self._function(*args, **kwargs)
        if outbox.begun:
            outbox.commit(_kept(value))
        return value

    def _open(self) -> Outbox:
        from dagengine.storage import outbox

        facts = current.context.get() or {}
        if isinstance(self._where, str):
            return outbox.elsewhere(self._where, facts["run_id"], facts["key"])
        where = facts["transaction"]
        return outbox.in_store(where["address"], where["run"], where["token"], where["seq"])


def _kept(value: Any) -> Value:
    """What the note says of the value. A large one is durable among the artifacts first."""
    encoded = encode(value, "the result of a transactional task", "result")
    if encoded.size <= INLINE_LIMIT:
        data = encoded.to_bytes()
        return Value(sha256(data).hexdigest(), len(data), data)
    digest, size = owner.ask({"about": "keep"}, encoded)
    return Value(digest, size)


def _value_of(found: Value) -> Any:
    if not found.digest:
        raise DefinitionError(
            "an attempt at this step has committed by itself, without what it returned: nobody knows what it did. Look at "
            "the database, then `dagengine mark` the step."
        )
    if found.inline is not None:
        return decode(bytes(found.inline), digest=found.digest)
    return owner.open_value(owner.ask({"about": "open", "digest": found.digest, "size": found.size}))


def facts_of(store: Store, run: RunRecord, seq: int) -> dict[str, Any]:
    """What the attempt has to know of the store. Raises BadOption for one that has no database of its own."""
    if store.address is None:
        raise BadOption(
            "transactional=True needs a store in SQLite or PostgreSQL, and this one is in memory: open another store, or "
            "give transactional= a database's URL."
        )
    return {"address": store.address, "run": run.number, "token": run.token, "seq": seq}
