"""The one format of a value: in memory, on disk, on the wire. Used by runtime, storage and workflow layer alike.

    0   magic   b"DGV1"
    4   u32     number of out-of-band buffers, n
    8   u64     length of the pickle stream
    16  n u64   lengths of the buffers
    …   the pickle stream (protocol 5), then each buffer at the next multiple of 64 bytes from the start

All integers are little-endian. A reader maps the bytes read-only and unpickles with the buffers as views on them:
NumPy arrays, pandas frames and Arrow tables are not copied, and can't be written to. Arrow tables and record batches
travel as an Arrow IPC stream in one buffer, because pickling a slice of a table would carry the whole table.

An encoded value may have placeholders: objects of a class derived from `Placeholder` are not written, but numbered,
and `decode(data, inputs)` puts `inputs[number]` in their place. That is how a call's arguments hold the results of
other steps, in any container that pickle can reach.

May import nothing of ours but errors and functions. Unpickling runs code: only workers and the user's own code call `decode`.
"""

from __future__ import annotations

import hashlib
import io
import pickle
import struct
import sys
import threading
from collections.abc import Callable, Sequence
from types import FunctionType
from typing import Any

from dagengine.errors import ArtifactDamaged, Unpicklable
from dagengine.functions import named_by_itself

MAGIC = b"DGV1"
ALIGNMENT = 64  # bytes: a cache line, and what Arrow wants of its buffers
_HEADER = struct.Struct("<4sIQ")
_SCALARS = frozenset({int, float, str, bytes, bool, type(None)})


class _Encoding(threading.local):
    found: list[Placeholder] | None = None


class _Decoding(threading.local):
    inputs: Sequence[Any] = ()


_encoding = _Encoding()
_decoding = _Decoding()


def _input_at(index: int) -> Any:
    """What a placeholder unpickles to."""
    return _decoding.inputs[index]


class Placeholder:
    """A base for objects that stand for a value that is given when the bytes are decoded."""

    __slots__ = ()

    def __reduce__(self) -> tuple[Callable[[int], Any], tuple[int]]:
        found = _encoding.found
        if found is None:
            raise TypeError(f"{self!r} can't be pickled outside of a call; pass it as an argument of a task")
        found.append(self)
        return _input_at, (len(found) - 1,)


class _ByValue(Exception):
    """Something in the value has to travel by value: use cloudpickle."""


def _arrow_reducer(value: Any) -> Any:
    """Arrow data as an IPC stream; NotImplemented for anything else."""
    pyarrow = sys.modules.get("pyarrow")
    if pyarrow is None or not isinstance(value, (pyarrow.Table, pyarrow.RecordBatch)):
        return NotImplemented
    sink = pyarrow.BufferOutputStream()
    with pyarrow.ipc.new_stream(sink, value.schema) as writer:
        writer.write(value)
    return _arrow_read, (pickle.PickleBuffer(sink.getvalue()), isinstance(value, pyarrow.Table))


def _arrow_read(buffer: Any, table: bool) -> Any:
    import pyarrow

    with pyarrow.ipc.open_stream(pyarrow.py_buffer(buffer)) as reader:
        return reader.read_all() if table else reader.read_next_batch()


class _Pickler(pickle.Pickler):
    """The C pickler; `reducer_override` is called for objects without a fast path of their own only."""

    def reducer_override(self, value: Any) -> Any:
        if isinstance(value, (FunctionType, type)) and not named_by_itself(value):
            raise _ByValue
        return _arrow_reducer(value)


def _cloud_pickler(file: io.BytesIO, buffers: Callable[[pickle.PickleBuffer], Any]) -> Any:
    import cloudpickle

    class CloudPickler(cloudpickle.Pickler):  # type: ignore[misc, unused-ignore]
        def reducer_override(self, value: Any) -> Any:
            reduced = _arrow_reducer(value)
            return super().reducer_override(value) if reduced is NotImplemented else reduced

    return CloudPickler(file, protocol=5, buffer_callback=buffers)


class Encoded:
    """An encoded value, not yet copied into one place: `segments` are the bytes in order, padding included."""

    __slots__ = ("placeholders", "segments", "size")

    def __init__(self, segments: list[bytes | memoryview], placeholders: list[Placeholder]) -> None:
        self.segments = segments
        self.placeholders = placeholders
        self.size = sum(len(segment) for segment in segments)

    def to_bytes(self) -> bytes:
        return bytes(self.segments[0]) if len(self.segments) == 1 else b"".join(self.segments)

    def digest(self) -> str:
        """SHA-256 of the bytes, in hex."""
        sha = hashlib.sha256()
        for segment in self.segments:
            sha.update(segment)
        return sha.hexdigest()


def encode(value: Any, what: str = "the value", path: str = "value") -> Encoded:
    """Encode `value`. `what` and `path` name it in the error, e.g. "the result of f" and "result".

    Raises Unpicklable with the path to the part that can't be pickled.
    """
    if type(value) in _SCALARS:
        stream = pickle.dumps(value, 5)
        return Encoded([_HEADER.pack(MAGIC, 0, len(stream)) + stream], [])
    outer, found = _encoding.found, []  # type: tuple[list[Placeholder] | None, list[Placeholder]]
    _encoding.found = found
    try:
        try:
            stream, buffers = _dump(_Pickler, value)
        except Exception:
            # By value where it must be; and a failure gets its second chance, because cloudpickle can do more.
            found.clear()
            stream, buffers = _dump(None, value)
    except (Exception, RecursionError) as error:
        where, reason = _find_unpicklable(value, path, error)
        raise Unpicklable(what, where, reason) from error
    finally:
        _encoding.found = outer
    return Encoded(_lay_out(stream, buffers), found)


def encode_plain(value: Any) -> Encoded:
    """As `encode`, for a value made of nothing but scalars, tuples, dicts and placeholders: no other checks."""
    outer, found = _encoding.found, []  # type: tuple[list[Placeholder] | None, list[Placeholder]]
    _encoding.found = found
    try:
        stream = pickle.dumps(value, 5)
    finally:
        _encoding.found = outer
    return Encoded([_HEADER.pack(MAGIC, 0, len(stream)) + stream], found)


def _dump(pickler: type[_Pickler] | None, value: Any) -> tuple[bytes, list[memoryview]]:
    file = io.BytesIO()
    views: list[pickle.PickleBuffer] = []
    if pickler is None:
        _cloud_pickler(file, views.append).dump(value)
    else:
        pickler(file, protocol=5, buffer_callback=views.append).dump(value)
    return file.getvalue(), [view.raw() for view in views]


def _lay_out(stream: bytes, buffers: list[memoryview]) -> list[bytes | memoryview]:
    lengths = struct.pack(f"<{len(buffers)}Q", *(buffer.nbytes for buffer in buffers))
    head = _HEADER.pack(MAGIC, len(buffers), len(stream)) + lengths + stream
    segments: list[bytes | memoryview] = [head]
    at = len(head)
    for buffer in buffers:
        padding = -at % ALIGNMENT
        segments.append(bytes(padding))
        segments.append(buffer)
        at += padding + buffer.nbytes
    return segments


def decode(data: bytes | bytearray | memoryview, inputs: Sequence[Any] = (), digest: str | None = None) -> Any:
    """The value. Its buffers are views on `data`, which they keep alive.

    `inputs` take the places of the placeholders. With `digest`, the bytes are checked against it first.
    Raises ArtifactDamaged if the bytes are not what they should be; else whatever unpickling raises.
    """
    view = memoryview(data).toreadonly()
    if digest is not None and hashlib.sha256(view).hexdigest() != digest:
        raise damaged(digest)
    try:
        magic, count, length = _HEADER.unpack_from(view)
        if magic != MAGIC:
            raise damaged(digest)
        lengths = struct.unpack_from(f"<{count}Q", view, _HEADER.size)
    except struct.error:
        raise damaged(digest) from None
    at = _HEADER.size + 8 * count
    stream = view[at : at + length]
    at += length
    buffers = []
    for size in lengths:
        at += -at % ALIGNMENT
        buffers.append(view[at : at + size])
        at += size
    if at > len(view):
        raise damaged(digest)
    outer, _decoding.inputs = _decoding.inputs, inputs
    try:
        return pickle.loads(stream, buffers=buffers)
    finally:
        _decoding.inputs = outer


def damaged(digest: str | None) -> ArtifactDamaged:
    name = digest[:12] if digest else "a value"
    return ArtifactDamaged(f"the bytes of {name} are damaged: they are not what was recorded", digest=digest or "")


def _find_unpicklable(value: Any, path: str, error: BaseException, depth: int = 0) -> tuple[str, str]:
    """The path to the smallest part of `value` that can't be pickled, and why."""
    reason = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    if isinstance(error, _ByValue):
        reason = f"{type(value).__name__} can't be pickled"
    if depth < 20 and not isinstance(error, RecursionError):
        for name, part in _parts(value):
            try:
                _encoding.found = []
                _dump(None, part)
            except Exception as inner:
                return _find_unpicklable(part, path + name, inner, depth + 1)
            finally:
                _encoding.found = None
    return f"{path} ({type(value).__qualname__})", reason.splitlines()[0]


def _parts(value: Any) -> list[tuple[str, Any]]:
    if isinstance(value, dict):
        parts = [(f"[{key!r:.40}]", part) for key, part in value.items()]
        return parts + [(f" key {key!r:.40}", key) for key in value]
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return [(f".{name}", part) for name, part in zip(value._fields, value, strict=True)]
    if isinstance(value, (list, tuple)):
        return [(f"[{index}]", part) for index, part in enumerate(value)]
    if isinstance(value, (set, frozenset)):
        return [(f" element {part!r:.40}", part) for part in value]
    if isinstance(value, FunctionType):
        cells = zip(value.__code__.co_freevars, value.__closure__ or (), strict=True)
        return [(f" closure {name}", cell.cell_contents) for name, cell in cells]
    fields = getattr(value, "__dict__", None)
    if isinstance(fields, dict):
        return [(f".{name}", part) for name, part in fields.items()]
    return []
