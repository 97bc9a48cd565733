"""Devices, found in a machine that a small stand-in for NVML describes, and shown to processes."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from types import ModuleType

import pytest

from dagengine.runtime.devices import FoundDevice, declared, find_devices, visible

GiB = 1 << 30


class Nvml(ModuleType):
    """Three devices, of which the last two have UUIDs that begin alike. Counts how often it is opened and closed."""

    class NVMLError(Exception):
        pass

    class Memory:
        def __init__(self, total: int) -> None:
            self.total = total

    uuids = ("GPU-aaaa1111", "GPU-bbbb1111", "GPU-bbbb2222")
    broken = False
    opened = 0

    def nvmlInit(self) -> None:
        if self.broken:
            raise self.NVMLError("driver not loaded")
        self.opened += 1

    def nvmlShutdown(self) -> None:
        self.opened -= 1

    def nvmlDeviceGetCount(self) -> int:
        return len(self.uuids)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        return index

    def nvmlDeviceGetHandleByUUID(self, uuid: bytes) -> int:
        if uuid.decode() not in self.uuids:
            raise self.NVMLError("not found")
        return self.uuids.index(uuid.decode())

    def nvmlDeviceGetMemoryInfo(self, handle: int) -> Memory:
        return self.Memory((handle + 1) * 8 * GiB)

    def nvmlDeviceGetName(self, handle: int) -> bytes:
        return f"Model {handle}".encode()  # bytes in older versions

    def nvmlDeviceGetUUID(self, handle: int) -> str:
        return self.uuids[handle]


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> Nvml:
    """The library is there."""
    found = Nvml("pynvml")
    monkeypatch.setitem(sys.modules, "pynvml", found)
    return found


def test_all_devices_are_found_with_their_facts(nvml: Nvml) -> None:
    """Numbered as NVML does; and the library is closed again."""
    assert find_devices({}) == [
        FoundDevice(0, 8 * GiB, "Model 0", "GPU-aaaa1111"),
        FoundDevice(1, 16 * GiB, "Model 1", "GPU-bbbb1111"),
        FoundDevice(2, 24 * GiB, "Model 2", "GPU-bbbb2222"),
    ]
    assert nvml.opened == 0


@pytest.mark.parametrize(
    ("setting", "names"),
    [
        ("2,0", ["Model 2", "Model 0"]),
        (" 1 , 2 ", ["Model 1", "Model 2"]),
        ("GPU-bbbb2222,0", ["Model 2", "Model 0"]),
        ("GPU-a", ["Model 0"]),
        ("GPU-b", []),  # two begin so
        ("1,7,0", ["Model 1"]),  # the first that is none ends the list
        ("1,1,0", ["Model 1"]),
        ("-1", []),
        ("NoDevFiles", []),
        ("", []),
    ],
)
def test_only_what_this_process_may_see_is_found(nvml: Nvml, setting: str, names: list[str]) -> None:
    """CUDA_VISIBLE_DEVICES is read as CUDA reads it; ids are positions in it."""
    found = find_devices({"CUDA_VISIBLE_DEVICES": setting})
    assert [device.name for device in found] == names
    assert [device.id for device in found] == list(range(len(names)))


def test_a_machine_without_the_library_has_no_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    """The extra is not installed: that is how most machines are, and no error."""
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert find_devices({}) == []


def test_a_machine_without_a_driver_has_no_devices(nvml: Nvml) -> None:
    """The library is there, and can't be used."""
    nvml.broken = True
    assert find_devices({}) == []


def test_devices_can_be_declared() -> None:
    """For tests, and for machines whose devices NVML does not know."""
    assert declared(2, 24 * GiB) == [FoundDevice(0, 24 * GiB), FoundDevice(1, 24 * GiB)]
    assert declared(0, 0) == []


@pytest.mark.parametrize(
    ("devices", "inherited", "shown"),
    [
        ((), {}, {"CUDA_VISIBLE_DEVICES": "", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}),
        ((1, 0), {}, {"CUDA_VISIBLE_DEVICES": "1,0", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}),
        ((), {"CUDA_VISIBLE_DEVICES": "3,5"}, {"CUDA_VISIBLE_DEVICES": ""}),
        ((1,), {"CUDA_VISIBLE_DEVICES": "3,5"}, {"CUDA_VISIBLE_DEVICES": "5"}),
        ((0, 1), {"CUDA_VISIBLE_DEVICES": "MIG-x,GPU-y"}, {"CUDA_VISIBLE_DEVICES": "MIG-x,GPU-y"}),
        ((0,), {"CUDA_VISIBLE_DEVICES": ""}, {"CUDA_VISIBLE_DEVICES": ""}),
    ],
)
def test_a_process_is_shown_its_devices_and_no_others(
    devices: tuple[int, ...], inherited: Mapping[str, str], shown: dict[str, str]
) -> None:
    """Always set, empty for none; what is inherited is mapped through, never widened."""
    assert visible(devices, inherited) == shown


def test_what_is_found_is_what_is_shown(nvml: Nvml) -> None:
    """The id of a found device leads back to it, in a process that inherits the same environment."""
    inherited = {"CUDA_VISIBLE_DEVICES": "2,GPU-aaaa1111"}
    for device in find_devices(inherited):
        [again] = find_devices(visible([device.id], inherited))
        assert again.uuid == device.uuid
