"""Images and an OCI layout to push to and pull from, and places that fail."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from shim.distribution.blob import Descriptor
from shim.distribution.layout import Layout
from shim.distribution.place import Place
from shim.distribution.pull import pull
from shim.distribution.push import push
from shim.distribution.transfer import PullOptions, PullTarget, PushOptions, Transfer
from shim.image.manifest import Manifest
from shim.image.verify import verify
from shim.image.verify_cache import VerifyCache
from shim.model import Report, Verify
from tests.unit.image_helpers import ProgressLog, fill, manifest, seal_at

MIB = 1 << 20
TAG = "v1"


def pages(seed: int, mib: int) -> bytes:
    """Return bytes that do not repeat."""
    return random.Random(seed).randbytes(mib * MIB)


class Machine:
    """Images below a folder, and a layout beside them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.images = root / "images"
        self.layout = root / "layout"
        self.cache = VerifyCache(root / "verified")

    def image(self, name: str, data: bytes) -> Path:
        """Make a sealed image with these pages."""
        folder = fill(self.images / name)
        (folder / "pages.img").write_bytes(data)
        seal_at(folder, manifest())
        return folder

    def push(
        self,
        image: Path,
        tag: str = TAG,
        place: Place | None = None,
        report: Report | None = None,
        **options: Any,
    ) -> Transfer:
        """Push an image, to the layout if no other place is given."""
        chosen = msgspec.structs.replace(PushOptions(), **options)
        return push(image, place or Layout(self.layout), tag, chosen, report or ProgressLog())

    def pull(
        self,
        name: str,
        tag: str = TAG,
        place: Place | None = None,
        report: Report | None = None,
        jobs: int = 2,
        **target: Any,
    ) -> Transfer:
        """Pull an image, from the layout if no other place is given."""
        where = PullTarget(path_for=lambda _offer: self.images / name, verified=self.cache)
        where = msgspec.structs.replace(where, **target)
        options = PullOptions(jobs=jobs)
        source = place or Layout(self.layout)
        return pull(source, "oci:layout", tag, where, options, report or ProgressLog())

    def verified(self, name: str) -> Manifest:
        """Read a whole image, and compare it with its manifest."""
        return verify(self.images / name, Verify.FULL, self.cache, ProgressLog())

    def partial_pulls(self) -> list[Path]:
        """List the folders that interrupted pulls have left."""
        return list(self.images.glob(".cryo-pull-*"))


class Watched(Layout):
    """A layout that counts what is fetched, and calls something before each blob."""

    def __init__(self, folder: Path, before: Callable[[int], None] = lambda _number: None) -> None:
        super().__init__(folder)
        self.fetched: list[Descriptor] = []
        self.closed = threading.Event()
        self._before = before

    def get_blob(self, descriptor: Descriptor) -> Iterator[bytes]:
        """Count it."""
        self.fetched.append(descriptor)
        self._before(len(self.fetched))
        return super().get_blob(descriptor)

    def close(self) -> None:
        """Record it."""
        self.closed.set()


_SCRIPT = """
import os, signal, sys
from pathlib import Path
from shim import failpoints
from tests.unit.transfer_helpers import Machine
root, what, name, tag, point, count = sys.argv[1:]
left = [int(count)]
def hook(reached):
    if reached == point:
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
failpoints.arm(hook)
machine = Machine(Path(root))
if what == "push":
    machine.push(machine.images / name, tag)
else:
    machine.pull(name, tag, images=machine.images)
"""


def killed(machine: Machine, what: str, name: str, point: str, count: int = 1) -> bool:
    """Push or pull in a process that is killed at a failpoint; whether it got there."""
    argv = [sys.executable, "-c", _SCRIPT, str(machine.root), what, name, TAG, point, str(count)]
    root = Path(__file__).parents[2]
    ran = subprocess.run(argv, cwd=root, check=False, capture_output=True, timeout=120)
    assert ran.returncode in {0, -signal.SIGKILL}, ran.stderr.decode()
    return ran.returncode != 0
