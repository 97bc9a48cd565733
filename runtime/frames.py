"""The wire: length-prefixed batches of messages over a stream, with file descriptors beside them.

    frame    u32 length (little-endian) | msgpack array of messages

A message that owns a descriptor travels in a frame of its own, and the descriptor with the frame's first byte: the
kernel keeps both in order, so the n-th descriptor that arrives belongs to the n-th message that wants one.

A frame above PACK_LIMIT goes through shared memory: a frame with the one message `Packed`, whose descriptor holds it.
So the stream itself carries small frames only, and a length above FRAME_LIMIT means that the stream is damaged.

May import nothing of ours but errors and runtime.{messages,shared}.
"""

from __future__ import annotations

import array
import errno
import functools
import os
import socket
import struct
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final, Generic, TypeVar

import msgspec

from dagengine.errors import InternalError
from dagengine.runtime.messages import Packed, descriptors_of
from dagengine.runtime.shared import mapped, share

PACK_LIMIT: Final = 256 * 1024
"""Bytes. Above it, one more system call or two are nothing beside the copies through a socket that they save."""

FRAME_LIMIT: Final = 64 * 1024 * 1024

DESCRIPTORS: Final = 4
"""Most descriptors of one message (a new worker's: socket, permits, output)."""

_LENGTH = struct.Struct("<I")
_READ = 256 * 1024
# As plain numbers: an enumeration's own arithmetic is slow.
_CLOSE_ON_EXEC = int(socket.MSG_CMSG_CLOEXEC)
_TRUNCATED = int(socket.MSG_CTRUNC)
_SPACE = socket.CMSG_SPACE(DESCRIPTORS * array.array("i").itemsize)

M = TypeVar("M")

_encode = msgspec.msgpack.Encoder().encode


def frame(body: bytes) -> bytes:
    return _LENGTH.pack(len(body)) + body


@functools.cache
def _decoder(kind: Any) -> Callable[[Any], list[Any]]:
    # Made from the types in a millisecond: the forker does it once for all workers.
    return msgspec.msgpack.Decoder(list[kind]).decode


class Frames(Generic[M]):
    """Bytes in, messages out. `kind`: the type of one message, or a union."""

    def __init__(self, kind: Any) -> None:
        self._decode: Callable[[Any], list[M]] = _decoder(kind)
        self._rest = bytearray()

    def feed(self, data: bytes | memoryview) -> list[M]:
        """The messages that `data` completes. Nothing of it is kept."""
        if self._rest:
            self._rest += data
            whole = memoryview(self._rest)
        else:
            whole = memoryview(data)
        messages: list[M] = []
        at, end = 0, len(whole)
        while end - at >= 4:
            (length,) = _LENGTH.unpack_from(whole, at)
            if length > FRAME_LIMIT:
                raise InternalError(f"a frame of {length:,} bytes: the stream is damaged")
            if end - at - 4 < length:
                break
            messages += self.unpack(whole[at + 4 : at + 4 + length])
            at += 4 + length
        if at or not self._rest:
            self._rest = bytearray(whole[at:])
        return messages

    def unpack(self, body: bytes | memoryview) -> list[M]:
        try:
            return self._decode(body)
        except msgspec.MsgspecError as error:
            raise InternalError(f"a message can't be read: {error}") from error


class Link(Generic[M]):
    """One end of a socket. Blocking or not as the socket is; a blocking one has sent everything when `send` returns.

    `kind` must include Packed. Descriptors that arrive wait in `descriptors`; who handles a message that owns one
    takes it from the left. `exhausted`: the last `receive` found nothing more to read.
    """

    def __init__(self, sock: socket.socket, kind: Any) -> None:
        self.socket = sock
        self.descriptors: deque[int] = deque()
        self.exhausted = False
        self._frames: Frames[M] = Frames(kind)
        # Kept: to allocate so much anew for each read took several times as long as the read.
        self._buffer = memoryview(bytearray(_READ))
        self._buffers = [self._buffer]
        self._out: deque[tuple[memoryview, list[int]]] = deque()

    def fileno(self) -> int:
        return self.socket.fileno()

    def close(self) -> None:
        self.socket.close()
        for _, descriptors in self._out:
            _close_all(descriptors)
        self._out.clear()
        _close_all(self.descriptors)
        self.descriptors.clear()

    # ---- out ----------------------------------------------------------------------------------

    def send(self, messages: Sequence[Any], descriptors: Sequence[int] = ()) -> bool:
        """Send, or on a non-blocking socket queue, the messages. Descriptors are given away: closed once they are out.

        False if some is left for `flush`. Raises OSError if the other end is gone.
        """
        body = _encode(messages)
        if len(body) > PACK_LIMIT:
            if descriptors:
                raise InternalError("a message with a descriptor is too large for a frame")
            packed = share([body])
            body, descriptors = _encode([Packed(len(body))]), [packed]
        data = frame(body)
        if self._out:
            self._out.append((memoryview(data), list(descriptors)))
            return False
        if descriptors:
            self._out.append((memoryview(data), list(descriptors)))
            return self.flush()
        try:
            sent = self.socket.send(data)
        except BlockingIOError:
            sent = 0
        if sent == len(data):
            return True
        self._out.append((memoryview(data)[sent:], []))
        return self.flush()

    def flush(self) -> bool:
        """Send what is queued. False if some is left."""
        while self._out:
            data, descriptors = self._out[0]
            try:
                sent = socket.send_fds(self.socket, [data], descriptors) if descriptors else self.socket.send(data)
            except BlockingIOError:
                return False
            _close_all(descriptors)
            if sent == len(data):
                self._out.popleft()
            else:
                self._out[0] = (data[sent:], [])
        return True

    # ---- in -----------------------------------------------------------------------------------

    def receive(self) -> list[M] | None:
        """What has arrived, perhaps nothing yet; None when the other end is closed. Waits on a blocking socket."""
        try:
            size, ancillary, flags, _ = self.socket.recvmsg_into(self._buffers, _SPACE, _CLOSE_ON_EXEC)
        except BlockingIOError:
            self.exhausted = True
            return []
        except ConnectionResetError:
            return None
        for level, kind, packed in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                numbers = array.array("i")
                numbers.frombytes(packed[: len(packed) - len(packed) % numbers.itemsize])
                self.descriptors.extend(numbers)
        if flags & _TRUNCATED:
            raise OSError(errno.EMFILE, "too many files are open: allow more (ulimit -n), or use fewer workers")
        if not size:
            return None
        self.exhausted = False
        messages = self._frames.feed(self._buffer[:size])
        if any(type(message) is Packed for message in messages):
            return self._unpack(messages)
        return messages

    def _unpack(self, messages: list[M]) -> list[M]:
        # What is packed owns no descriptors; those of messages before it are still to be taken, and come first.
        unpacked: list[M] = []
        before = 0
        for message in messages:
            if isinstance(message, Packed):
                descriptor = self.descriptors[before]
                del self.descriptors[before]
                with mapped(descriptor, message.size) as view:
                    unpacked += self._frames.unpack(view)
                os.close(descriptor)
            else:
                unpacked.append(message)
                before += descriptors_of(message)
        return unpacked


def _close_all(descriptors: Sequence[int] | deque[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)
