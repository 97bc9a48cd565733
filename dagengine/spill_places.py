"""Whether the places that runs are told to spill to can be written, found out before a run has to.

May import nothing of ours but runtime.spilling, when it is asked.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence


def tried(urls: Sequence[str]) -> Iterator[tuple[bool, str]]:
    """Of each place, whether it can be written to, and in one line what it is, or what is wrong with it."""
    from dagengine.runtime.spilling import probe

    for url in urls:
        try:
            yield True, probe(url)
        except OSError as error:
            yield False, error.strerror or str(error)
