"""Sizes as people say them: `memory=2 * GiB`. Imports nothing."""

KiB = 1024
MiB = 1024 * KiB
GiB = 1024 * MiB

_UNITS = {
    "": 1,
    "b": 1,
    "k": 10**3,
    "m": 10**6,
    "g": 10**9,
    "t": 10**12,
    "ki": 2**10,
    "mi": 2**20,
    "gi": 2**30,
    "ti": 2**40,
}


def parse_size(text: str) -> int:
    """Bytes, of `512MiB`, `24 GiB`, `2GB`, `1.5g` or a plain number. Raises ValueError.

    KiB, MiB, GiB, TiB are powers of 1,024; kB, MB, GB, TB of 1,000, as IEC 80000-13 has it.
    """
    word = text.strip().lower().replace("_", "").replace(",", "")
    number = word.rstrip("bikmgt ")
    unit = word[len(number) :].strip()
    factor = _UNITS.get(unit if unit == "b" else unit.removesuffix("b"))
    if factor is None or not number.isascii():
        raise ValueError(f"{text!r} is not a size")
    size = float(number) * factor
    if not 0 <= size < 2**60:
        raise ValueError(f"{text!r} is not a size")
    return int(number) * factor if number.isdigit() else int(size)


def show_size(size: int) -> str:
    """`1.5 GiB`, for people."""
    for unit, factor in (("GiB", GiB), ("MiB", MiB), ("KiB", 1024)):
        if size >= factor:
            return f"{size / factor:.1f} {unit}"
    return f"{size} bytes"
