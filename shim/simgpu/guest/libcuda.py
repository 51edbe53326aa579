"""Device memory of a real GPU, through the CUDA driver API, in place of the simulated driver.

Each step works as in a real program: pinned host memory, an asynchronous copy on a stream, a kernel
(PTX, which the driver compiles, so no toolkit is needed), and an event to wait for.

docs/gpu-results.md lists the GPUs on which it has run.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

from shim.simgpu.guest import pattern
from shim.simgpu.guest.client import DeviceError
from shim.simgpu.guest.driver import Allocation

_LIBRARY = "libcuda.so.1"
_WORD = 8
_WORDS = pattern.SLOT // _WORD
_BLOCK = 256
_NON_BLOCKING = 1

# Each thread moves one 8-byte word. The target is the oldest that current drivers compile.
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
.visible .entry fill(.param .u64 to, .param .u64 seed, .param .u64 count)
{
    .reg .pred %p<2>;
    .reg .b32 %r<4>;
    .reg .b64 %d<9>;
    ld.param.u64 %d1, [to];
    ld.param.u64 %d2, [seed];
    ld.param.u64 %d3, [count];
    MIX
    st.global.u64 [%d6], %d4;
DONE:
    ret;
}
.visible .entry wrong(.param .u64 from, .param .u64 seed, .param .u64 count, .param .u64 total)
{
    .reg .pred %p<3>;
    .reg .b32 %r<4>;
    .reg .b64 %d<11>;
    ld.param.u64 %d1, [from];
    ld.param.u64 %d2, [seed];
    ld.param.u64 %d3, [count];
    MIX
    ld.global.u64 %d8, [%d6];
    setp.eq.u64 %p2, %d8, %d4;
    @%p2 bra DONE;
    ld.param.u64 %d9, [total];
    cvta.to.global.u64 %d10, %d9;
    red.global.add.u64 [%d10], 1;
DONE:
    ret;
}
""".replace(
    b"MIX",
    # In: the memory in d1, the seed in d2, the number of words in d3. Out: in d4 the word of this
    # thread as in `pattern.Weights`, in d6 its address. Threads without a word exit.
    b"""
    mov.u32 %r1, %ctaid.x;
    mov.u32 %r2, %ntid.x;
    mov.u32 %r3, %tid.x;
    mul.wide.u32 %d4, %r1, %r2;
    cvt.u64.u32 %d5, %r3;
    add.u64 %d4, %d4, %d5;
    setp.ge.u64 %p1, %d4, %d3;
    @%p1 bra DONE;
    cvta.to.global.u64 %d5, %d1;
    shl.b64 %d6, %d4, 3;
    add.u64 %d6, %d5, %d6;
    add.u64 %d4, %d4, 1;
    mul.lo.u64 %d4, %d4, 0x9E3779B97F4A7C15;
    add.u64 %d4, %d4, %d2;
    shr.u64 %d7, %d4, 30;
    xor.b64 %d4, %d4, %d7;
    mul.lo.u64 %d4, %d4, 0xBF58476D1CE4E5B9;
    shr.u64 %d7, %d4, 27;
    xor.b64 %d4, %d4, %d7;
    mul.lo.u64 %d4, %d4, 0x94D049BB133111EB;
    shr.u64 %d7, %d4, 31;
    xor.b64 %d4, %d4, %d7;
""",
)


class Cuda:
    """The primary context of this process on the first GPU; cuda-checkpoint finds it itself."""

    # The real driver reports its state only to cuda-checkpoint.
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
        self._kernels = {name: self._kernel(name) for name in (b"move", b"fill", b"wrong")}
        self._pinned = self._made("cuMemAllocHost_v2", ctypes.c_size_t(pattern.SLOT))
        self._staging = self._take(pattern.SLOT)
        self._total = self._take(_WORD)

    def _kernel(self, name: bytes) -> ctypes.c_void_p:
        return self._made("cuModuleGetFunction", self._module, ctypes.c_char_p(name))

    def alloc(self, key: str, data: bytearray) -> Allocation:
        """Allocate device memory and fill it."""
        address = self._take(len(data))
        size = ctypes.c_size_t(len(data))
        self._call("cuMemcpyHtoD_v2", ctypes.c_uint64(address), bytes(data), size)
        return Allocation(key, len(data), 0, handle=address)

    def launch(self, allocation: Allocation) -> int:
        """Write the next generation with a kernel; return its number."""
        generation = allocation.generation + 1
        slot = pattern.slot_of(allocation.size, generation)
        data = pattern.block(allocation.key, slot, generation)
        ctypes.memmove(self._pinned, data, len(data))
        staging, size = ctypes.c_uint64(self._staging), ctypes.c_size_t(len(data))
        self._call("cuMemcpyHtoDAsync_v2", staging, self._pinned, size, self._stream)
        to = ctypes.c_uint64(allocation.handle + slot * pattern.SLOT)
        self._run(b"move", _WORDS, to, ctypes.c_uint64(self._staging), ctypes.c_uint32(_WORDS))
        allocation.generation = generation
        return generation

    def load(self, weights: pattern.Weights) -> Allocation:
        """Allocate device memory and let the device fill it."""
        address = self._take(weights.size)
        self._run(b"fill", weights.words, *_arguments(address, weights))
        return Allocation(weights.key, weights.size, 0, handle=address)

    def wrong(self, allocation: Allocation, weights: pattern.Weights) -> int:
        """Let the device count the words that differ from the expected ones."""
        total, size = ctypes.c_uint64(self._total), ctypes.c_size_t(_WORD)
        self._call("cuMemcpyHtoD_v2", total, bytes(_WORD), size)
        self._run(b"wrong", weights.words, *_arguments(allocation.handle, weights), total)
        found = ctypes.c_uint64()
        self._call("cuMemcpyDtoH_v2", ctypes.byref(found), total, size)
        return found.value

    def _run(self, kernel: bytes, words: int, *values: Any) -> None:
        """Run a kernel with a thread for each word, and wait until it has finished."""
        pointers = [ctypes.cast(ctypes.byref(value), ctypes.c_void_p) for value in values]
        parameters = (ctypes.c_void_p * len(pointers))(*pointers)
        grid, block = (-(-words // _BLOCK), 1, 1), (_BLOCK, 1, 1)
        shape = [ctypes.c_uint(number) for number in (*grid, *block, 0)]
        function = self._kernels[kernel]
        self._call("cuLaunchKernel", function, *shape, self._stream, parameters, None)
        self._call("cuEventRecord", self._event, self._stream)
        self._call("cuEventSynchronize", self._event)

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
        """Call a function that creates an object; return the object's handle."""
        handle = ctypes.c_void_p()
        self._call(name, ctypes.byref(handle), *arguments)
        return handle

    def _call(self, name: str, *arguments: Any) -> None:
        # The current context is per thread, and queries are served on another thread.
        self._check("cuCtxSetCurrent", self._context)
        self._check(name, *arguments)

    def _check(self, name: str, *arguments: Any) -> None:
        result = getattr(self._library, name)(*arguments)
        if result != 0:
            message = f"{name} returned {result}"
            self._on_loss(message)
            raise DeviceError(message)


def _arguments(address: int, weights: pattern.Weights) -> tuple[Any, ...]:
    return tuple(ctypes.c_uint64(value) for value in (address, weights.seed, weights.words))
