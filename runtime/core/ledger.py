"""What of a node, or of a bundle of a group, is free: cpus, memory, named resources, devices.

Integers only, so that what is given back is exactly what was taken. Nothing is ever below 0 but the cpus, for which
tasks that go on after waiting inside themselves are not made to wait again.

Devices: a share (below UNIT) comes from one device, the fullest that has it, so that whole ones stay whole. Whole
devices come from the untouched ones. `gpu_memory` is taken on each device, never across.

May import nothing of ours but the core's words.
"""

from __future__ import annotations

from dagengine.runtime.core.events import UNIT, Capacity, Need


class Ledger:
    """devices: by id [share that is free, bytes that are free, bytes there are]."""

    __slots__ = ("cpus", "custom", "devices", "memory")

    def __init__(self) -> None:
        self.cpus = 0
        self.memory = 0
        self.custom: dict[str, int] = {}
        self.devices: dict[int, list[int]] = {}

    @staticmethod
    def of(capacity: Capacity) -> Ledger:
        ledger = Ledger()
        ledger.cpus = capacity.cpus
        ledger.memory = capacity.memory
        ledger.custom = dict(capacity.custom)
        ledger.devices = {device.id: [UNIT, device.memory, device.memory] for device in capacity.devices}
        return ledger

    def copy(self) -> Ledger:
        ledger = Ledger()
        ledger.cpus = self.cpus
        ledger.memory = self.memory
        ledger.custom = dict(self.custom)
        ledger.devices = {device: list(free) for device, free in self.devices.items()}
        return ledger

    def fits(self, need: Need, memory: int) -> tuple[int, ...] | None:
        """The devices that it would get; None if something is missing."""
        if (need.cpus and need.cpus > self.cpus) or (memory and memory > self.memory):
            return None
        for name, amount in need.custom:
            if amount > self.custom.get(name, 0):
                return None
        if not need.gpus and not need.gpu_memory:
            return ()
        return self._devices(need)

    def _devices(self, need: Need) -> tuple[int, ...] | None:
        if need.gpus < UNIT:
            best: tuple[int, int, int] | None = None
            for device, (share, memory, _) in self.devices.items():
                if (
                    need.gpus <= share
                    and need.gpu_memory <= memory
                    and (best is None or (share, memory, device) < best)
                ):
                    best = (share, memory, device)
            return None if best is None else (best[2],)
        count = -(-need.gpus // UNIT)
        whole = [
            device
            for device, (share, memory, there_are) in self.devices.items()
            if share == UNIT and memory == there_are and need.gpu_memory <= memory
        ]
        return tuple(whole[:count]) if len(whole) >= count else None

    def take(self, need: Need, memory: int, devices: tuple[int, ...]) -> None:
        self.cpus -= need.cpus
        self.memory -= memory
        for name, amount in need.custom:
            self.custom[name] -= amount
        for device in devices:
            free = self.devices[device]
            if need.gpus < UNIT:
                free[0] -= need.gpus
                free[1] -= need.gpu_memory
            else:
                free[0] = free[1] = 0

    def give(self, need: Need, memory: int, devices: tuple[int, ...]) -> None:
        """What `take` took."""
        self.cpus += need.cpus
        self.memory += memory
        for name, amount in need.custom:
            self.custom[name] += amount
        for device in devices:
            free = self.devices[device]
            if need.gpus < UNIT:
                free[0] += need.gpus
                free[1] += need.gpu_memory
            else:
                free[0] = UNIT
                free[1] = free[2]

    def portion(self, need: Need, memory: int, devices: tuple[int, ...]) -> Ledger:
        """What was taken, as a ledger of its own: a bundle's."""
        ledger = Ledger()
        ledger.cpus = need.cpus
        ledger.memory = memory
        ledger.custom = dict(need.custom)
        for device in devices:
            if need.gpus < UNIT:
                ledger.devices[device] = [need.gpus, need.gpu_memory, need.gpu_memory]
            else:
                there_are = self.devices[device][2]
                ledger.devices[device] = [UNIT, there_are, there_are]
        return ledger
