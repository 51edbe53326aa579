"""The workload on the CUDA driver API, against a libcuda.so.1 that has no GPU behind it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from shim.simgpu import tools
from tests.builds import excuse
from tests.unit.fakes_native import missing

ROOT = Path(__file__).parents[2]
# In a process of its own: the library is found by its name, when that process begins.
PROGRAM = """
import sys
from shim.simgpu.guest import pattern
from shim.simgpu.guest.client import DeviceError
from shim.simgpu.guest.libcuda import Cuda
from shim.simgpu.guest.worker import Settings, Worker

losses = []
cuda = Cuda(on_loss=losses.append)
size = 3 * pattern.SLOT
memory = cuda.alloc("k", bytearray().join(pattern.expected("k", size, 0)))
for step in range(8):
    assert pattern.digest([cuda.read(memory, 0, size)]) == pattern.expected_digest("k", size, step)
    assert cuda.launch(memory) == step + 1
assert losses == []
weights = pattern.Weights("w", 5 * pattern.SLOT)
held = cuda.load(weights)
assert cuda.read(held, 3 * pattern.SLOT, pattern.SLOT) == weights.slot(3)
assert cuda.wrong(held, weights) == 0
other = pattern.Weights("v", 5 * pattern.SLOT)
assert cuda.wrong(held, other) == other.words
worker = Worker(Settings(real=True, weights_bytes=2 * pattern.SLOT, folder=sys.argv[1]), 0)
found = worker.verify()
wanted = pattern.Weights("k.0.weights", 2 * pattern.SLOT).expected_digest()
assert found["digests"]["weights"] == wanted
assert found["losses"] == [] and set(found["stores"]) == {"cpu", "file", "gpu", "weights"}
worker._driver.read = lambda allocation, offset, size: bytearray(size)
assert worker.verify()["losses"][-1] == "the weights are not what was loaded"
try:
    cuda._check("cuDeviceGet", __import__("ctypes").byref(__import__("ctypes").c_int()), 7)
except DeviceError as error:
    print(error, losses)
"""


def test_every_generation_is_what_the_oracle_says(tmp_path: Path) -> None:
    """Memory, stream, kernels and event lead to the bytes that the patterns have."""
    if reason := missing():
        excuse(reason)
    environment = {
        "LD_LIBRARY_PATH": str(tools.libcuda().parent),
        "CRYO_SIMGPU_NODE": "/dev/null",
        "PYTHONPATH": str(ROOT),
    }
    argv = [sys.executable, "-c", PROGRAM, str(tmp_path)]
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, check=False)

    lost = [line for line in done.stderr.splitlines() if "LOSS" not in line]
    assert lost == [], done.stderr
    assert done.stdout == "cuDeviceGet returned 101 ['cuDeviceGet returned 101']\n"
