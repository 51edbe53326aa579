"""Programs for the trials on a real GPU; CODE stands for the directory of the guest's code."""

from __future__ import annotations

# A kernel that runs until the file /tmp/stop exists, and memory that is compared afterwards.
SPIN = """
import ctypes, os, sys, time
sys.path.insert(0, CODE)
from shim.simgpu.guest import pattern
from shim.simgpu.guest.libcuda import Cuda

cuda = Cuda(on_loss=print)
weights = pattern.Weights("spin", 1 << 26)
held = cuda.load(weights)
flag = cuda._made("cuMemAllocHost_v2", ctypes.c_size_t(8))
ctypes.memset(flag, 0, 8)
stream = cuda._made("cuStreamCreate", 1)
image = b'''
.version 6.0
.target sm_70
.address_size 64
.visible .entry spin(.param .u64 flag)
{
    .reg .pred %p<2>;
    .reg .b32 %r<2>;
    .reg .b64 %d<3>;
    ld.param.u64 %d1, [flag];
    cvta.to.global.u64 %d2, %d1;
AGAIN:
    ld.volatile.global.u32 %r1, [%d2];
    setp.eq.u32 %p1, %r1, 0;
    @%p1 bra AGAIN;
    ret;
}
'''
module = cuda._made("cuModuleLoadData", ctypes.c_char_p(image))
spin = cuda._made("cuModuleGetFunction", module, ctypes.c_char_p(b"spin"))
argument = ctypes.c_uint64(flag.value)
parameters = (ctypes.c_void_p * 1)(ctypes.cast(ctypes.byref(argument), ctypes.c_void_p))
shape = [ctypes.c_uint(number) for number in (1, 1, 1, 1, 1, 1, 0)]
cuda._call("cuLaunchKernel", spin, *shape, stream, parameters, None)
print("ready", flush=True)
while not os.path.exists("/tmp/stop"):
    time.sleep(0.05)
ctypes.memset(flag, 1, 8)
cuda._call("cuStreamSynchronize", stream)
print("wrong", cuda.wrong(held, weights), flush=True)
time.sleep(1000)
"""
# Managed memory, which the driver migrates between GPU and CPU.
MANAGED = """
import ctypes, os, sys, time
sys.path.insert(0, CODE)
from shim.simgpu.guest.libcuda import Cuda

cuda = Cuda(on_loss=print)
size, address = 1 << 24, ctypes.c_uint64()
cuda._call("cuMemAllocManaged", ctypes.byref(address), ctypes.c_size_t(size), ctypes.c_uint(1))
wanted = bytes(range(256)) * (size // 256)
ctypes.memmove(address.value, wanted, size)
cuda._call("cuMemcpyDtoD_v2", address, address, ctypes.c_size_t(size // 2))
print("ready", flush=True)
while not os.path.exists("/tmp/stop"):
    time.sleep(0.05)
print("wrong", int(ctypes.string_at(address.value, size) != wanted), flush=True)
time.sleep(1000)
"""
# Allocates all device memory except some MiB, outside any sandbox, until its stdin ends.
HOG = """
import ctypes, sys
from shim.simgpu.guest.libcuda import Cuda

cuda = Cuda(on_loss=print)
free, total = ctypes.c_size_t(), ctypes.c_size_t()
cuda._call("cuMemGetInfo_v2", ctypes.byref(free), ctypes.byref(total))
cuda._take(free.value - (int(sys.argv[1]) << 20))
print("ready", flush=True)
sys.stdin.read()
"""
