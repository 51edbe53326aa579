"""Device memory through PyTorch, as in most programs: its allocator, streams, graphs, cuBLAS.

Each step uses pinned host memory, an asynchronous copy on a stream, a kernel and an event. It also
replays a captured CUDA graph, which multiplies two matrices whose product is known.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable, Iterator
from typing import Any

from shim.simgpu.guest import pattern
from shim.simgpu.guest.client import DeviceError
from shim.simgpu.guest.driver import Allocation

_DEVICE = "cuda:0"
_SIDE = 256
# Small enough that the product is exact, also on tensor cores.
_LARGEST = 8
# In words of 8 bytes; the mixing needs a few times as much memory in addition.
_CHUNK = 1 << 24


class Torch:
    """PyTorch in this process, on the first GPU."""

    # The real driver reports its state only to cuda-checkpoint.
    state = ""

    def __init__(self, *, on_loss: Callable[[str], None]) -> None:
        # Not a dependency of ours, so it is loaded only where it is used, without its types.
        self._torch: Any = importlib.import_module("torch")
        torch = self._torch
        self.misuse: list[str] = []
        self._on_loss = on_loss
        self._tensors: list[Any] = []
        self._stream = torch.cuda.Stream(_DEVICE)
        self._event = torch.cuda.Event()
        self._pinned = torch.empty(pattern.SLOT, dtype=torch.uint8, pin_memory=True)
        self._staging = torch.empty(pattern.SLOT, dtype=torch.uint8, device=_DEVICE)
        self._capture()

    def _capture(self) -> None:
        """Capture the product of two matrices in a graph, after one run that initializes cuBLAS."""
        numbers = self._torch.arange(_SIDE * _SIDE, dtype=self._torch.float32) % _LARGEST
        one = numbers.reshape(_SIDE, _SIDE)
        self._factors = (one.to(_DEVICE), one.t().contiguous().to(_DEVICE))
        self._wanted = (one.double() @ one.t().double()).float().to(_DEVICE)
        with self._torch.cuda.stream(self._stream):
            self._torch.mm(*self._factors)
        self._stream.synchronize()
        self._graph = self._torch.cuda.CUDAGraph()
        with self._torch.cuda.graph(self._graph, stream=self._stream):
            self._product = self._torch.mm(*self._factors)

    def alloc(self, key: str, data: bytearray) -> Allocation:
        """Allocate device memory and fill it."""
        tensor = self._torch.frombuffer(data, dtype=self._torch.uint8).to(_DEVICE)
        return self._keep(key, tensor)

    def _keep(self, key: str, tensor: Any) -> Allocation:
        self._torch.cuda.synchronize()
        self._tensors.append(tensor)
        size = tensor.numel() * tensor.element_size()
        return Allocation(key, size, 0, handle=len(self._tensors) - 1)

    def launch(self, allocation: Allocation) -> int:
        """Write the next generation; return its number."""
        generation = allocation.generation + 1
        slot = pattern.slot_of(allocation.size, generation)
        data = bytearray(pattern.block(allocation.key, slot, generation))
        self._pinned.copy_(self._torch.frombuffer(data, dtype=self._torch.uint8))
        first = slot * pattern.SLOT
        with self._reported("a step"), self._torch.cuda.stream(self._stream):
            self._staging.copy_(self._pinned, non_blocking=True)
            # A kernel; copy_ would use the copy engine.
            into = self._tensors[allocation.handle][first : first + pattern.SLOT]
            self._torch.bitwise_or(self._staging, 0, out=into)
            self._graph.replay()
            self._event.record()
            self._event.synchronize()
            if not self._torch.equal(self._product, self._wanted):
                self._on_loss("the graph's product of matrices is wrong")
        allocation.generation = generation
        return generation

    def read(self, allocation: Allocation, offset: int, size: int) -> bytearray:
        """Copy device memory out."""
        with self._reported("a copy"):
            tensor = self._tensors[allocation.handle].view(self._torch.uint8)
            return bytearray(tensor[offset : offset + size].cpu().numpy().tobytes())

    def load(self, weights: pattern.Weights) -> Allocation:
        """Allocate device memory and let the device fill it."""
        with self._reported("the weights"):
            tensor = self._torch.empty(weights.words, dtype=self._torch.int64, device=_DEVICE)
            for first in range(0, weights.words, _CHUNK):
                tensor[first : first + _CHUNK] = _mixed(self._torch, weights, first)
            return self._keep(weights.key, tensor)

    def wrong(self, allocation: Allocation, weights: pattern.Weights) -> int:
        """Let the device count the words that differ from the expected ones."""
        tensor = self._tensors[allocation.handle]
        with self._reported("the weights"):
            return sum(
                int((tensor[first : first + _CHUNK] != _mixed(self._torch, weights, first)).sum())
                for first in range(0, weights.words, _CHUNK)
            )

    @contextlib.contextmanager
    def _reported(self, what: str) -> Iterator[None]:
        """Report PyTorch's errors as losses, and raise them as DeviceError."""
        try:
            yield
        except RuntimeError as error:
            message = f"{what}: {str(error).splitlines()[0]}"
            self._on_loss(message)
            raise DeviceError(message) from error


def _mixed(torch: Any, weights: pattern.Weights, first: int) -> Any:
    """Compute a chunk of words on the device; the mask undoes the sign extension of shifts."""
    count = min(_CHUNK, weights.words - first)
    words = torch.arange(first + 1, first + 1 + count, dtype=torch.int64, device=_DEVICE)
    words = words * _signed(weights.STEP) + _signed(weights.seed)
    for shift, factor in zip(weights.SHIFTS, (*weights.FACTORS, 1), strict=True):
        words = (words ^ ((words >> shift) & ((1 << (64 - shift)) - 1))) * _signed(factor)
    return words


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value
