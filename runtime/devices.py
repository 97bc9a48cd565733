"""The GPUs of this machine: found through NVML, or declared; and how a process is told which of them it may see.

A device's id is its number from 0 as this process sees them: where CUDA_VISIBLE_DEVICES is set already, its position
in that list, else NVML's (PCI order). A worker inherits the controller's environment, so ids mean the same to it.

Imports nothing of ours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple


class FoundDevice(NamedTuple):
    """`memory` in bytes. Declared ones have neither name nor uuid."""

    id: int
    memory: int
    name: str = ""
    uuid: str = ""


def find_devices() -> list[FoundDevice]:
    """What there is; none where NVML or its Python module is missing, which is no error."""
    raise NotImplementedError


def declared(count: int, memory: int) -> list[FoundDevice]:
    """`count` devices of `memory` bytes each, because somebody says so."""
    raise NotImplementedError


def visible(devices: Sequence[int], inherited: Mapping[str, str]) -> dict[str, str]:
    """The environment variables that show a process these devices, and no others; of none, too.

    `inherited`: the environment as the process was started with, before any of this.
    """
    raise NotImplementedError
