"""Cold and warm starts of containers under containerd, and what the annotation adds to a cold one.

A container fills its memory with random bytes and is ready then. A start takes from `ctr run` until
the check for that, an exec in the container, succeeds.
"""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from hack.bench import inside, starts
from hack.bench.effort import Effort
from hack.bench.inside import Given
from hack.bench.row import Rows, added, ms, ratio
from hack.bench.starts import fill
from hack.bench.turns import by_turns, timed
from tests.builds import find_program
from tests.containerd import image
from tests.containerd.builds import find_containerd
from tests.containerd.cryo import RUNTIME, Cryo
from tests.containerd.named import Named
from tests.containerd.place import private_place

LINE = "2.4"
PAIRS = 21
STEP_S = 300.0
READY = "until [ -e /ready ]; do sleep 0.02; done"
WARM = ("io.cryo.warm=never", "io.cryo.warm-when=file:/never")


def measure(runsc: Path, effort: Effort) -> Rows:
    """Start containerd, and measure in its namespace."""
    with private_place() as place, Cryo(find_containerd(LINE), place, runsc) as node:
        archive = node.folder / "image.tar"
        image.write(archive, find_program("busybox"))
        node.import_image(archive)
        node.run("first", "true")
        given = {"ctr": node.ctr_argv(), "images": str(node.folder / "images" / node.namespace)}
        return inside.run(place.remote, node.folder, part, effort, given)


def part(given: Given, effort: Effort) -> Rows:
    """Measure pairs of starts with and without the annotation, and then cold and warm ones."""
    containers = Containers(given)
    ways = {"without": partial(containers.begun, ()), "with": partial(containers.begun, WARM)}
    found = by_turns(ways, effort.rounds(PAIRS, 0.2), warm_up=True)
    rows = {
        "warm-added.start.without": ms(found["without"]),
        "warm-added.start.with": ms(found["with"]),
        "warm-added.start.ratio": ratio(found["with"], found["without"]),
        "warm-added.start.added": added(found["with"], found["without"]),
    }
    return rows | starts.measured("warm", containers, effort)


def boot(mib: int) -> str:
    """Return the script of a container that fills its memory and is ready then."""
    return f"{fill(mib)}; touch /ready; sleep 10000"


class Containers:
    """Starts and ends containers with ctr; each call is a process of its own."""

    def __init__(self, given: Given) -> None:
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
