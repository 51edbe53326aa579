"""A guest that writes a byte each millisecond, and the largest gap that the host sees.

Example, with a simulation and its sidecar:

    bundle = beat.bundle(sim, "beat", mib=1024)
    with Beats(sim.folder / "beats") as beats:
        client.create("beat", str(bundle), stdio=Stdio(stdout=str(beats.path)))
        client.start("beat")
        beats.next()                                # the memory is filled
        began = time.perf_counter()
        client.checkpoint("beat")
        frozen_s = beats.largest_gap(began)

The guest's stdout is a FIFO, and the host notes when each byte arrives: its clock is the only one.
"""

from __future__ import annotations

import bisect
import itertools
import json
import os
import select
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from shim.errors import DeadlineExceeded
from shim.simgpu import bundle as bundles
from shim.simgpu import tools
from shim.simgpu.machine import Machine

# A page of zeros is not saved, so that the memory has random bytes.
GUEST = """
import os, sys, time
block = os.urandom(1 << 20)
memory = bytearray(int(sys.argv[1]) << 20)
for at in range(0, len(memory), len(block)):
    memory[at:at + len(block)] = block
while True:
    os.write(1, b".")
    time.sleep(float(sys.argv[2]))
"""
PERIOD_S = 0.001
_READ_BYTES = 1 << 16
_POLL_MS = 200
_NEXT_S = 120.0


def argv(mib: int, period_s: float = PERIOD_S) -> list[str]:
    """Return the command line of the guest that has so much memory."""
    return [tools.interpreter(), "-ISBc", GUEST, str(mib), str(period_s)]


def bundle(machine: Machine, name: str, mib: int, period_s: float = PERIOD_S) -> Path:
    """Write the bundle of a guest without a GPU."""
    folder = machine.bundle(name, bundles.Settings(gpu=False))
    path = folder / "config.json"
    content = json.loads(path.read_text("utf-8"))
    content["process"]["args"] = argv(mib, period_s)
    path.write_text(json.dumps(content), "utf-8")
    return folder


class Beats:
    """The arrivals of a guest's beats at a FIFO; a context manager."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._arrivals: list[float] = []
        self._arrived = threading.Condition()
        self._ended = False
        os.mkfifo(path, 0o600)
        # With both ends open the guest's write never fails, and the read never ends.
        self.fd = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        self._thread = threading.Thread(target=self._read, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._ended = True
        self._thread.join()
        os.close(self.fd)
        self.path.unlink()

    def next(self, since_s: float | None = None, timeout_s: float = _NEXT_S) -> float:
        """Wait for a beat after a moment, now by default; return when it arrived.

        Raises:
            DeadlineExceeded: there was none.
        """
        since = time.perf_counter() if since_s is None else since_s

        def after() -> float | None:
            at = bisect.bisect_right(self._arrivals, since)
            return self._arrivals[at] if at < len(self._arrivals) else None

        with self._arrived:
            if not self._arrived.wait_for(lambda: after() is not None, timeout_s):
                message = f"no beat arrived in {timeout_s:g} s"
                raise DeadlineExceeded(message)
            return after() or since

    def largest_gap(self, began_s: float) -> float:
        """Return the longest time between two beats, from a moment until the next beat from now."""
        self.next()
        with self._arrived:
            at = bisect.bisect_left(self._arrivals, began_s)
            seen = self._arrivals[max(0, at - 1) :]
        return max(later - earlier for earlier, later in itertools.pairwise(seen))

    def clear(self) -> None:
        """Forget the beats so far, such as those of a guest that has ended."""
        with self._arrived:
            self._arrivals.clear()

    def _read(self) -> None:
        poll = select.poll()
        poll.register(self.fd, select.POLLIN)
        while not self._ended:
            if poll.poll(_POLL_MS):
                os.read(self.fd, _READ_BYTES)
                with self._arrived:
                    self._arrivals.append(time.perf_counter())
                    self._arrived.notify_all()
