"""What the workloads run on workers. NumPy is imported where it is needed: starting up must not pay for it."""

from __future__ import annotations

import os
import time
from typing import Any

KEY_BITS = 63
PAGE = 4096 // 8  # items of 8 bytes in a page


def nothing(*_: object) -> None:
    return


def increment(value: int) -> int:
    return value + 1


def total(*values: int) -> int:
    return sum(values)


def kilobyte(number: int) -> bytes:
    return number.to_bytes(4, "big") * 256


def length(data: bytes) -> int:
    return len(data)


def block(size: int) -> Any:
    import numpy as np

    return np.ones(size // 8)


def sum_of(*blocks: Any) -> float:
    return float(sum(each.sum() for each in blocks))


def touch(array: Any) -> float:
    """One item of each page."""
    return float(array[::PAGE].sum())


def random_keys(seed: int, count: int) -> Any:
    import numpy as np

    return np.random.default_rng(seed).integers(0, 2**KEY_BITS, count, dtype=np.int64)


def split_keys(seed: int, count: int, parts: int) -> list[Any]:
    """Sorted keys, cut into equal ranges."""
    import numpy as np

    keys = np.sort(random_keys(seed, count))
    cuts = np.arange(1, parts, dtype=np.int64) * (2**KEY_BITS // parts)
    return np.split(keys, np.searchsorted(keys, cuts))


def merge_keys(part: int, parts: int, *pieces: Any) -> tuple[int, int]:
    """(count, checksum) of one range. Raises if a key does not belong there."""
    import numpy as np

    keys = np.concatenate(pieces)
    width = 2**KEY_BITS // parts
    if keys.min() // width != part or keys.max() // width != part:
        raise ValueError(f"part {part} has keys of another")
    return int(keys.size), int(np.bitwise_xor.reduce(keys))


def marked_sleep(log: str, seconds: float) -> None:
    descriptor = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(descriptor, f"{os.getpid()}\n".encode())
    os.close(descriptor)
    time.sleep(seconds)


class Counter:
    def __init__(self) -> None:
        self.value = 0

    def add(self, amount: int) -> int:
        self.value += amount
        return self.value
