"""What somebody has said, held against what can be said: numbers within limits, flags, words that are known.

For options, settings and arguments alike: each error names what was said and what would fit. May import nothing of ours
but errors.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from dagengine.errors import BadOption

INTEGER_MAX = 2**63 - 1
"""The greatest whole number that a store keeps."""


def check_integer(name: str, value: object, least: int, most: int = INTEGER_MAX) -> None:
    """Raises BadOption if `name=` is not a whole number from `least` to `most`."""
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        limit = f" and at most {most}" if most < INTEGER_MAX else ""
        raise BadOption(f"{name}={value!r} has to be a whole number of at least {least}{limit}.")


def check_number(name: str, value: object, least: float, most: float = math.inf, *, above: bool = False) -> None:
    """Raises BadOption if `name=` is not a finite number from `least` to `most`; with `above`, greater than `least`."""
    if not _is_number(value) or not least <= value <= most or (above and value == least):  # type: ignore[operator]
        limits = f"above {least:g}" if above else f"of at least {least:g}"
        limits += f" and at most {most:g}" if most < math.inf else ""
        raise BadOption(f"{name}={value!r} has to be a number {limits}.")


def _is_number(value: object) -> bool:
    try:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:  # a whole number that no float can hold
        return False


def check_flag(name: str, value: object) -> None:
    """Raises BadOption if `name=` is neither True nor False."""
    if not isinstance(value, bool):
        raise BadOption(f"{name}={value!r} has to be True or False.")


def check_known(names: Iterable[str], known: Iterable[str]) -> None:
    """Raises BadOption for the first option that is not known, with the nearest one."""
    known = list(known)
    for name in names:
        if name not in known:
            raise BadOption(f"there is no option {name}.{did_you_mean(name, known, many=len(known))}")


def nearest(word: str, known: Iterable[str], closeness: float = 0.6) -> str | None:
    """The known word that is most like this one; None if none is. closeness: 1 is the word itself, 0 any word."""
    import difflib  # only who mistypes pays for it

    return next(iter(difflib.get_close_matches(word, list(known), 1, closeness)), None)


def did_you_mean(
    word: str, known: Iterable[str], otherwise: str | None = None, *, closeness: float = 0.6, many: int = 12
) -> str:
    """`" Did you mean x?"`, to be put behind an error. If nothing is like the word: `otherwise`, or what there is.

    many: of what there is, so many are shown. Begins with a space, or is empty
    """
    known = list(known)
    close = nearest(word, known, closeness)
    if close is not None:
        return f" Did you mean {close}?"
    if otherwise is not None:
        return f" {otherwise}"
    return f" There is: {', '.join(known[:many])}{', …' if len(known) > many else ''}." if known else ""
