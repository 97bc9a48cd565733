"""What was measured on: a figure without its machine says nothing."""

from __future__ import annotations

import os
import platform
import sqlite3
import subprocess
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent


def facts() -> dict[str, Any]:
    return {
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "kernel": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        "filesystem": _filesystem(tempfile.gettempdir()),
        "commit": _commit(),
    }


def sentence(known: dict[str, Any]) -> str:
    return (
        f"{known['cores']} × {known['cpu']}, {known['memory_gb']} GB, {known['kernel']}, {known['filesystem']},"
        f" Python {known['python']}, SQLite {known['sqlite']}, commit {known['commit']}"
    )


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _filesystem(folder: str) -> str:
    """The type of the file system that holds the folder: of all mounts above it, the nearest."""
    path = Path(folder).resolve()
    kinds = {}
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, mounted, kind, *_ = line.split()
        if path.is_relative_to(mounted):
            kinds[len(mounted)] = kind
    return kinds[max(kinds)] if kinds else "unknown file system"


def _commit() -> str:
    asked = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return asked.stdout.strip() or "unknown"
