"""The images of one name on disk, which a test waits for and counts."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shim.simgpu.waiting import wait_until
from tests.containerd.cryo import Cryo

WAIT_S = 90


@dataclass(frozen=True)
class Named:
    """A name of images in one containerd namespace; `folder` is its directory."""

    folder: Path

    def images(self) -> list[Path]:
        """List the complete images, oldest first."""
        found = (path.parent for path in self.folder.glob("*/[0-9]*/cryo.json"))
        return sorted(found, key=lambda path: path.name)

    def use(self) -> dict[str, Any]:
        """Return the counters."""
        found: dict[str, Any] = json.loads((self.folder / ".use.json").read_text("utf-8"))
        return found

    def until_saved(self, *besides: Path) -> Path:
        """Wait for an image, and for the end of its checkpoint; return it.

        Until then an exec is refused. Each of `besides` is an image that was saved before.
        """

        def new() -> list[Path]:
            return [path for path in self.images() if path not in besides]

        wait_until(lambda: bool(new()) and self.use()["saves"] > len(besides), "the save", WAIT_S)
        return new()[-1]

    def until_hit(self) -> None:
        """Wait until one start is counted as a restore, after one that was cold and saved."""

        def counted() -> tuple[int, int, int]:
            use = self.use()
            return use["misses"], use["saves"], use["hits"]

        wait_until(lambda: counted() == (1, 1, 1), "the count of a restore", WAIT_S)


def named(cryo: Cryo, name: str) -> Named:
    """Return the images of a name in a containerd's namespace."""
    return Named(cryo.folder / "images" / cryo.namespace / name)


def annotated(*annotations: str) -> tuple[str, ...]:
    """Return the flags of ctr for annotations."""
    pairs = ("io.cryo.warm-period=0.1", *annotations)
    return tuple(word for pair in pairs for word in ("--annotation", pair))


@contextlib.contextmanager
def damaged(path: Path) -> Iterator[None]:
    """Change one byte of a file for the duration of the context."""
    good = path.read_bytes()
    path.write_bytes(bytes([good[0] ^ 1]) + good[1:])
    try:
        yield
    finally:
        path.write_bytes(good)
