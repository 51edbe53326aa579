"""Real device memory by the CUDA driver API, in place of the simulated driver.

Not tried yet: no GPU was at hand when this was written.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

from shim.simgpu.guest import pattern
from shim.simgpu.guest.client import DeviceError
from shim.simgpu.guest.driver import Allocation

_LIBRARY = "libcuda.so.1"


class Cuda:
    """One process's primary context on the first GPU; cuda-checkpoint finds it by itself."""

    # The real driver tells its state to cuda-checkpoint alone.
    state = ""

    def __init__(self, *, on_loss: Callable[[str], None]) -> None:
        self.misuse: list[str] = []
        self._on_loss = on_loss
        self._library = ctypes.CDLL(_LIBRARY)
        self._context = ctypes.c_void_p()
        device = ctypes.c_int()
        self._check("cuInit", 0)
        self._check("cuDeviceGet", ctypes.byref(device), 0)
        self._check("cuDevicePrimaryCtxRetain", ctypes.byref(self._context), device)

    def alloc(self, key: str, data: bytearray) -> Allocation:
        """Take device memory and fill it."""
        address = ctypes.c_uint64()
        self._call("cuMemAlloc_v2", ctypes.byref(address), ctypes.c_size_t(len(data)))
        self._copy_in(address.value, bytes(data))
        return Allocation(key, len(data), 0, handle=address.value)

    def launch(self, allocation: Allocation) -> int:
        """Make the next generation of the memory; return its number."""
        generation = allocation.generation + 1
        slot = pattern.slot_of(allocation.size, generation)
        data = pattern.block(allocation.key, slot, generation)
        self._copy_in(allocation.handle + slot * pattern.SLOT, data)
        allocation.generation = generation
        return generation

    def read(self, allocation: Allocation, offset: int, size: int) -> bytearray:
        """Copy device memory out."""
        data = ctypes.create_string_buffer(size)
        address = ctypes.c_uint64(allocation.handle + offset)
        self._call("cuMemcpyDtoH_v2", data, address, ctypes.c_size_t(size))
        return bytearray(data.raw)

    def _copy_in(self, address: int, data: bytes) -> None:
        size = ctypes.c_size_t(len(data))
        self._call("cuMemcpyHtoD_v2", ctypes.c_uint64(address), data, size)

    def _call(self, name: str, *arguments: Any) -> None:
        # The context is current per thread, and questions come on a thread of their own.
        self._check("cuCtxSetCurrent", self._context)
        self._check(name, *arguments)

    def _check(self, name: str, *arguments: Any) -> None:
        result = getattr(self._library, name)(*arguments)
        if result != 0:
            message = f"{name} returned {result}"
            self._on_loss(message)
            raise DeviceError(message)
