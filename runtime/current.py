"""What the running task may know of itself. The workflow layer reads it (`dagengine.contexts.context()`).

A module of its own, so that reading it costs no more than a context variable. Imports nothing of ours.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any

context: ContextVar[dict[str, Any] | None] = ContextVar("dagengine_task", default=None)
"""`TaskSpec.context` of the attempt that this code belongs to; None outside of attempts."""
