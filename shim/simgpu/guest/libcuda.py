"""Real device memory by the CUDA driver API, in place of the simulated driver.

Each step of the work goes the way of a real program: pinned host memory, an asynchronous copy on a
stream, a kernel (PTX, which the driver compiles: no toolkit is needed), and an event to wait for.

Tried against a stand-in for libcuda.so.1; not yet on a GPU.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

from shim.simgpu.guest import pattern
from shim.simgpu.guest.client import DeviceError
from shim.simgpu.guest.driver import Allocation

_LIBRARY = "libcuda.so.1"
_WORDS = pattern.SLOT // 8
_BLOCK = 256
_NON_BLOCKING = 1

# Every thread moves one word of eight bytes. The oldest target that present drivers still compile.
PTX = b"""
.version 6.0
.target sm_70
.address_size 64
.visible .entry move(.param .u64 to, .param .u64 from, .param .u32 count)
{
    .reg .pred %p<2>;
    .reg .b32 %r<6>;
    .reg .b64 %d<9>;
    ld.param.u64 %d1, [to];
    ld.param.u64 %d2, [from];
    ld.param.u32 %r1, [count];
    mov.u32 %r2, %ctaid.x;
    mov.u32 %r3, %ntid.x;
    mov.u32 %r4, %tid.x;
    mad.lo.u32 %r5, %r2, %r3, %r4;
    setp.ge.u32 %p1, %r5, %r1;
    @%p1 bra DONE;
    cvta.to.global.u64 %d3, %d1;
    cvta.to.global.u64 %d4, %d2;
    mul.wide.u32 %d5, %r5, 8;
    add.s64 %d6, %d4, %d5;
    add.s64 %d7, %d3, %d5;
    ld.global.u64 %d8, [%d6];
    st.global.u64 [%d7], %d8;
DONE:
    ret;
}
"""


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
        self._stream = self._made("cuStreamCreate", _NON_BLOCKING)
        self._event = self._made("cuEventCreate", 0)
        self._module = self._made("cuModuleLoadData", ctypes.c_char_p(PTX))
        self._kernel = self._made("cuModuleGetFunction", self._module, ctypes.c_char_p(b"move"))
        self._pinned = self._made("cuMemAllocHost_v2", ctypes.c_size_t(pattern.SLOT))
        self._staging = self._take(pattern.SLOT)

    def alloc(self, key: str, data: bytearray) -> Allocation:
        """Take device memory and fill it."""
        address = self._take(len(data))
        size = ctypes.c_size_t(len(data))
        self._call("cuMemcpyHtoD_v2", ctypes.c_uint64(address), bytes(data), size)
        return Allocation(key, len(data), 0, handle=address)

    def launch(self, allocation: Allocation) -> int:
        """Make the next generation of the memory by a kernel; return its number."""
        generation = allocation.generation + 1
        slot = pattern.slot_of(allocation.size, generation)
        data = pattern.block(allocation.key, slot, generation)
        ctypes.memmove(self._pinned, data, len(data))
        staging, size = ctypes.c_uint64(self._staging), ctypes.c_size_t(len(data))
        self._call("cuMemcpyHtoDAsync_v2", staging, self._pinned, size, self._stream)
        self._move(allocation.handle + slot * pattern.SLOT)
        self._call("cuEventRecord", self._event, self._stream)
        self._call("cuEventSynchronize", self._event)
        allocation.generation = generation
        return generation

    def _move(self, to: int) -> None:
        """Launch the kernel that moves one slot from where it was copied to."""
        values = (ctypes.c_uint64(to), ctypes.c_uint64(self._staging), ctypes.c_uint32(_WORDS))
        pointers = [ctypes.cast(ctypes.byref(value), ctypes.c_void_p) for value in values]
        parameters = (ctypes.c_void_p * len(pointers))(*pointers)
        grid, block = (_WORDS // _BLOCK, 1, 1), (_BLOCK, 1, 1)
        shape = [ctypes.c_uint(number) for number in (*grid, *block, 0)]
        self._call("cuLaunchKernel", self._kernel, *shape, self._stream, parameters, None)

    def read(self, allocation: Allocation, offset: int, size: int) -> bytearray:
        """Copy device memory out."""
        data = ctypes.create_string_buffer(size)
        address = ctypes.c_uint64(allocation.handle + offset)
        self._call("cuMemcpyDtoH_v2", data, address, ctypes.c_size_t(size))
        return bytearray(data.raw)

    def _take(self, size: int) -> int:
        address = ctypes.c_uint64()
        self._call("cuMemAlloc_v2", ctypes.byref(address), ctypes.c_size_t(size))
        return address.value

    def _made(self, name: str, *arguments: Any) -> ctypes.c_void_p:
        """Call a function that makes something; return its handle."""
        handle = ctypes.c_void_p()
        self._call(name, ctypes.byref(handle), *arguments)
        return handle

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
