"""What a running task says to whoever submitted it: a question that is answered, or news. Opaque to the runtime.

    task ─ ask ─▶ worker's socket ─▶ event `Asked` ─▶ whoever submitted ─ Runtime.reply ─▶ the task goes on

The engine answers when what it was told is durable (dagengine/questions.py). A large value that goes along is written to
the arena, like a result. On threads that a task has started by itself nobody can be asked, as outside of tasks: `within` is False there.

May import nothing of ours but errors, model, values and runtime modules.
"""

from __future__ import annotations

from typing import Any, Final

from dagengine.runtime import current
from dagengine.runtime.messages import Answer
from dagengine.runtime.raising import exception_of
from dagengine.values import Encoded

VERB: Final = "owner"


def within() -> bool:
    """Whether this code belongs to an attempt that can ask."""
    return current.task.get() is not None and (current.link is not None or current.inline.get() is not None)


def ask(question: dict[str, Any], value: Encoded | None = None) -> Any:
    """The answer. Raises what it is answered with; RuntimeStopped if there is nobody to answer."""
    inline = current.inline.get()
    if inline is not None:
        answer = inline(question, value, True)
    else:
        assert current.link is not None
        answer = current.link.ask(VERB, [question, _handed_over(value)])
    return _unpacked(answer)


def tell(question: dict[str, Any]) -> None:
    """The same for what needs no answer. It arrives before the attempt's end."""
    inline = current.inline.get()
    if inline is not None:
        inline(question, None, False)
    elif current.link is not None:
        current.link.tell(VERB, [question, None])


def open_value(packed: Any) -> Any:
    """The value of an input as an answer has it: its bytes, or a file's path, size and digest, and whether to verify."""
    if current.link is not None:
        return current.link.open(packed)
    from dagengine.runtime.inputs import Inputs

    return Inputs().open(packed)


def _handed_over(value: Encoded | None) -> Any:
    if value is None:
        return None
    assert current.link is not None
    written = current.link.keep(value)
    if written.data is not None:
        return written.data
    return [written.digest, written.size, written.request, written.checksum]


def _unpacked(answer: Answer) -> Any:
    if answer.failure is not None:
        raise exception_of(answer.failure)
    return answer.body
