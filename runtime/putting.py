"""Writing what is put, on the caller's thread: to its room in the arena, or to a new file of the spill space.

May import nothing of ours but values and runtime modules.
"""

from __future__ import annotations

import zlib
from typing import Final

from dagengine.runtime.arena import Arena
from dagengine.runtime.rooms import Room
from dagengine.values import Encoded

_CHUNK: Final = 1 << 20


def write_put(writer: Arena, room: Room, value: Encoded) -> int:
    """The CRC-32 of what was written to a file; 0 for the arena. Raises OSError."""
    if room.offset >= 0:
        writer.write(room.offset, value.segments)
        return 0
    checksum = 0
    with open(room.path, "xb", buffering=0) as file:
        for segment in value.segments:
            view = memoryview(segment).cast("B")
            for start in range(0, len(view), _CHUNK):
                chunk = view[start : start + _CHUNK]
                checksum = zlib.crc32(chunk, checksum)
                while chunk:
                    chunk = chunk[file.write(chunk) :]
    return checksum
