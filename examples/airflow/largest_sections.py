"""Which sections of Debian take most room? A workflow for tasks of Airflow; as a script, it runs without Airflow.

Prints, of the 63,436 packages in ../debian:

    doc: 4,469 packages, 48.4 GB
    devel: 3,541 packages, 42.9 GB
    debug: 189 packages, 32.2 GB
"""

from __future__ import annotations

import csv
import gzip
from collections import defaultdict
from pathlib import Path
from typing import TypedDict

from dagengine import task, workflow

PACKAGES = Path(__file__).resolve().parent.parent / "debian" / "debian-bookworm-main.tsv.gz"


class Section(TypedDict):
    section: str
    packages: int
    gb: float


@task
def sections(packages: str) -> list[tuple[str, list[int]]]:
    """Each with the sizes of its packages, in kB as installed."""
    found: dict[str, list[int]] = defaultdict(list)
    with gzip.open(packages, "rt", encoding="utf-8") as rows:
        for row in csv.DictReader(rows, delimiter="\t"):
            found[row["section"]].append(int(row["installed_kb"]))
    return sorted(found.items())


@task
def measure(section: tuple[str, list[int]]) -> Section:
    name, sizes = section
    return {"section": name, "packages": len(sizes), "gb": round(sum(sizes) / 1e6, 1)}


@task
def largest(measured: list[Section], count: int) -> list[Section]:
    return sorted(measured, key=lambda one: one["gb"], reverse=True)[:count]


@workflow
def largest_sections(count: int = 3, packages: str = str(PACKAGES)) -> list[Section]:
    return largest(measure.map(sections(packages)), count)


if __name__ == "__main__":
    for one in largest_sections.run():
        print(f"{one['section']}: {one['packages']:,} packages, {one['gb']} GB")
