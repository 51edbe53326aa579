"""Compares cold and warm starts of containers under containerd.

    make bench                          # with the other benchmarks
    python -m hack.bench.warm --rounds 3 --pairs 21 --mib 64 1024 --at-once 1 10
    python -m hack.bench.warm --mib     # only what the annotation adds

A container fills its memory with random bytes and is ready then. A start takes from `ctr run` until
the check for that, an exec in the container, succeeds. The first table has what `io.cryo.warm` adds
to a cold start. Everything is in a private mount namespace, with a real containerd 2.4.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from hack.bench.checkpoints import timed
from hack.bench.starts import conditions, fill, parser_for, print_starts
from tests.builds import find_program
from tests.containerd import image
from tests.containerd.builds import find_containerd
from tests.containerd.cryo import RUNTIME, Cryo
from tests.containerd.named import Named
from tests.containerd.place import private_place

LINE = "2.4"
LIMIT_S = 1200.0
STEP_S = 300.0
READY = "until [ -e /ready ]; do sleep 0.02; done"


def boot(mib: int) -> str:
    """Return the script of a container that fills its memory and is ready then."""
    return f"{fill(mib)}; touch /ready; sleep 10000"


class Containers:
    """Starts and ends containers with ctr; each call is a process of its own."""

    def __init__(self, given: dict[str, Any]) -> None:
        self._ctr: list[str] = given["ctr"]
        self._images = Path(given["images"])
        self._number = 0

    def fresh(self, count: int) -> list[str]:
        """Return unused names."""
        self._number += count
        return [f"job-{number}" for number in range(self._number - count, self._number)]

    def begin(self, name: str, script: str, annotations: Sequence[str] = ()) -> None:
        """Run a container that keeps running."""
        how = ["-d", "--runtime", RUNTIME, "--snapshotter", "native"]
        how += [word for one in annotations for word in ("--annotation", one)]
        self._call("run", *how, image.REFERENCE, name, "sh", "-c", script)

    def until_ready(self, name: str) -> None:
        """Wait in the container until it is ready."""
        self._call("tasks", "exec", "--exec-id", "ready", name, "sh", "-c", READY)

    def end(self, names: Sequence[str]) -> None:
        """Remove containers."""
        for name in names:
            self._call("tasks", "rm", "--force", name)
            self._call("containers", "rm", name)

    def save(self, name: str, mib: int) -> None:
        """Run a container until it is saved under a name."""
        when = ("io.cryo.warm-when=file:/ready", "io.cryo.warm-period=0.1")
        (first,) = self.fresh(1)
        self.begin(first, boot(mib), (f"io.cryo.warm={name}", *when))
        Named(self._images / name).until_saved()
        self.end([first])

    def at_once(self, count: int, mib: int, name: str = "") -> float:
        """Start containers at once; return how many seconds it takes until all are ready."""
        names = self.fresh(count)
        annotations = (f"io.cryo.restore={name}",) if name else ()

        def start(job: str) -> None:
            self.begin(job, boot(mib), annotations)
            self.until_ready(job)

        with ThreadPoolExecutor(count) as pool:
            spent = timed(lambda: list(pool.map(start, names)))
        self.end(names)
        return spent

    def begun(self, annotations: Sequence[str]) -> float:
        """Start a container that is never ready; return how many seconds `ctr run` takes."""
        (name,) = self.fresh(1)
        spent = timed(partial(self.begin, name, "sleep 10000", annotations))
        self.end([name])
        return spent

    def _call(self, *arguments: str) -> None:
        ran = subprocess.run(
            [*self._ctr, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            timeout=STEP_S,
        )
        if ran.returncode:
            message = f"ctr {' '.join(arguments)}: status {ran.returncode}: {ran.stderr[-2000:]}"
            raise RuntimeError(message)


def print_overhead(starts: Containers, pairs: int) -> None:
    """Print what the annotation adds to a cold start: the median of the differences of pairs."""
    warm = ("io.cryo.warm=never", "io.cryo.warm-when=file:/never")
    without: list[float] = []
    beside: list[float] = []
    for number in range(pairs + 1):
        # The first of two starts is not always the same one.
        ways = ((without, ()), (beside, warm))
        for found, how in ways if number % 2 else reversed(ways):
            found.append(starts.begun(how))
    del without[0], beside[0]
    added = statistics.median(b - a for a, b in zip(without, beside, strict=True))
    usual, annotated = statistics.median(without), statistics.median(beside)
    print("\ncold start: ctr run    median ms")
    print(f"without io.cryo.warm   {usual * 1000:9.1f}")
    print(f"with it                {annotated * 1000:9.1f}")
    print(f"added, median of pairs {added * 1000:9.1f}   {added / usual:.1%}")


def inside(given: dict[str, Any]) -> None:
    """Measure, in containerd's namespace, and print the tables."""
    starts = Containers(given)
    print_overhead(starts, given["pairs"])
    if given["mib"]:
        print_starts("ctr run until ready", starts, given)


def outside(wanted: dict[str, Any]) -> int:
    """Start containerd, and measure in its namespace."""
    build = find_containerd(LINE)
    with private_place() as place, Cryo(build, place, find_program("runsc-new")) as node:
        archive = node.folder / "image.tar"
        image.write(archive, find_program("busybox"))
        node.import_image(archive)
        node.run("first", "true")
        images = node.folder / "images" / node.namespace
        given = {"ctr": node.ctr_argv(), "images": str(images), **wanted}
        began = time.monotonic()
        print(
            f"{conditions(build.line)}; medians of "
            f"{wanted['rounds']} starts and {wanted['pairs']} pairs",
            flush=True,
        )
        ran = place.python("hack.bench.warm", "--inside", json.dumps(given), timeout_s=LIMIT_S)
        print(ran.out)
        print(f"{time.monotonic() - began:.0f} s, load {os.getloadavg()[0]:.1f}")
        return ran.status


def main() -> int:
    """Run the measurement."""
    parser = parser_for("Compare cold and warm starts of containers.")
    parser.add_argument("--pairs", default=21, type=int)
    parser.add_argument("--inside", type=json.loads, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.inside:
        inside(given.inside)
        return 0
    return outside({key: value for key, value in vars(given).items() if key != "inside"})


if __name__ == "__main__":
    raise SystemExit(main())
