"""The GPUs of this machine: found through NVML, or declared; and how a process is told which of them it may see.

A device's id is its number from 0 as this process sees them: where CUDA_VISIBLE_DEVICES is set already, its position
in that list, else NVML's number (the order on the bus). A worker inherits the controller's environment, so ids mean the
same to it, and `visible` needs no table.

Imports nothing of ours. pynvml (the package nvidia-ml-py) is loaded when somebody asks, and need not be there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

VISIBLE = "CUDA_VISIBLE_DEVICES"
ORDER = "CUDA_DEVICE_ORDER"


class FoundDevice(NamedTuple):
    """`memory` in bytes. Declared ones have neither name nor uuid."""

    id: int
    memory: int
    name: str = ""
    uuid: str = ""


def find_devices(environment: Mapping[str, str]) -> list[FoundDevice]:
    """What a process with this environment may use. Nothing where NVML, its Python module or its devices are missing:
    that is no error."""
    names = _names(environment)
    with _nvml() as nvml:
        if nvml is None:
            return []
        if names is None:
            names = [str(number) for number in range(nvml.nvmlDeviceGetCount())]
        found = []
        for number, name in enumerate(names):
            device = _device(nvml, number, name)
            if device is None:
                break  # As CUDA has it: the first name that is none ends the list.
            found.append(device)
        return found


def declared(count: int, memory: int) -> list[FoundDevice]:
    """`count` devices of `memory` bytes each, because somebody says so."""
    return [FoundDevice(number, memory) for number in range(count)]


def visible(devices: Sequence[int], inherited: Mapping[str, str]) -> dict[str, str]:
    """The environment variables that show a process these devices and no others, none included.

    `inherited`: the environment as the process was started with, before any of this.
    """
    names = _names(inherited)
    if names is None:
        # Ids are NVML's then. CUDA numbers by speed unless it is told to go by the bus, too.
        return {VISIBLE: ",".join(map(str, devices)), ORDER: "PCI_BUS_ID"}
    return {VISIBLE: ",".join(names[device] for device in devices if device < len(names))}


def _names(environment: Mapping[str, str]) -> list[str] | None:
    """What CUDA_VISIBLE_DEVICES lists: numbers, or beginnings of UUIDs. None: it is not set, so all can be seen."""
    text = environment.get(VISIBLE)
    if text is None:
        return None
    names: list[str] = []
    for name in map(str.strip, text.split(",")):
        if not name or name.startswith("-") or name in names:
            break  # CUDA stops there: "-1" is a common way to say none.
        names.append(name)
    return names


@contextmanager
def _nvml() -> Iterator[Any]:
    """The library, ready; None where there is none."""
    try:
        import pynvml
    except ImportError:
        yield None
        return
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        yield None  # No driver.
        return
    try:
        yield pynvml
    finally:
        pynvml.nvmlShutdown()


def _device(nvml: Any, number: int, name: str) -> FoundDevice | None:
    try:
        handle = _by_number(nvml, int(name)) if name.isdecimal() else _by_uuid(nvml, name)
        if handle is None:
            return None
        memory = int(nvml.nvmlDeviceGetMemoryInfo(handle).total)
        return FoundDevice(number, memory, _text(nvml.nvmlDeviceGetName(handle)), _text(nvml.nvmlDeviceGetUUID(handle)))
    except nvml.NVMLError:
        return None


def _by_number(nvml: Any, number: int) -> Any:
    return nvml.nvmlDeviceGetHandleByIndex(number) if number < nvml.nvmlDeviceGetCount() else None


def _by_uuid(nvml: Any, name: str) -> Any:
    """CUDA takes the beginning of a UUID for the whole, where there is one such device only."""
    try:
        return nvml.nvmlDeviceGetHandleByUUID(name.encode())
    except nvml.NVMLError:
        handles = [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(nvml.nvmlDeviceGetCount())]
        found = [handle for handle in handles if _text(nvml.nvmlDeviceGetUUID(handle)).startswith(name)]
        return found[0] if len(found) == 1 else None


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value
