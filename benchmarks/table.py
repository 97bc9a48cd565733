"""Results as a table for people."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.measure import Result

COLUMNS = ("workload", "n", "median", "min to max", "unit", "beside it")


def number(value: float) -> str:
    """Three digits that matter."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def lines(results: Sequence[Result], peers: Sequence[Result] = ()) -> list[str]:
    """A line for each result; below it, indented, each peer's, with how many times better ours is."""
    rows: list[tuple[str, ...]] = [COLUMNS]
    for ours in results:
        rows.append(_row(ours.workload, ours, _facts(ours)))
        same = [peer for peer in peers if peer.workload == ours.workload]
        rows += [_row(f"  {peer.facts[-1]['peer']}", peer, _ratio(ours, peer)) for peer in same]
    widths = [max(len(row[column]) for row in rows) for column in range(len(COLUMNS))]
    left = (0, 4, 5)  # words; the numbers stand under each other on the right
    return [
        "  ".join(
            cell.ljust(width) if column in left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def _row(name: str, result: Result, beside: str) -> tuple[str, ...]:
    spread = f"{number(min(result.runs))} to {number(max(result.runs))}"
    return name, f"{result.n:,}", number(result.median), spread, result.unit, beside


def _facts(result: Result) -> str:
    """What came with the figures, from the least to the most of the runs."""
    spans = []
    for name in result.facts[-1]:
        least, *_, most = sorted([facts[name] for facts in result.facts] * 2)
        spans.append(f"{name} {least:,}" + (f" to {most:,}" if most != least else ""))
    return ", ".join(spans)


def _ratio(ours: Result, peer: Result) -> str:
    if not ours.median or not peer.median:
        return "no ratio: one is 0"
    ratio = peer.median / ours.median if ours.lower_is_better else ours.median / peer.median
    return f"ours is {number(ratio)} times better" if ratio >= 1 else f"ours is {number(1 / ratio)} times worse"
