"""A sealed image of random bytes, for the cases that read or copy one."""

from __future__ import annotations

import contextlib
import os
import secrets
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from shim.image import verify
from shim.image.directory import open_image_dir
from shim.image.seal import seal
from shim.image.verify_cache import VerifyCache
from shim.model import Progress, Verify
from tests.unit.image_helpers import manifest

MIB = 1024
PAGES = "pages.img"
_MIB_BYTES = 1 << 20


def ignore(_progress: Progress) -> None:
    """Take progress."""


class Files:
    """A sealed image of random bytes, and a folder for copies of it."""

    def __init__(self, folder: Path, mib: int = MIB) -> None:
        self.folder = folder
        self.image = folder / "image"
        self.size_bytes = mib * _MIB_BYTES
        self._cache = VerifyCache(folder / "verified")
        self.image.mkdir()
        with (self.image / PAGES).open("wb") as file:
            for _ in range(mib):
                file.write(secrets.token_bytes(_MIB_BYTES))
        (self.image / "checkpoint.img").write_bytes(secrets.token_bytes(200_000))
        self.seal()

    def dd(self) -> None:
        """Read pages.img."""
        source = f"if={self.image / PAGES}"
        subprocess.run(["dd", source, "of=/dev/null", "bs=4M", "status=none"], check=True)

    def seal(self) -> None:
        """Seal the image again."""
        (self.image / "cryo.json").unlink(missing_ok=True)
        with open_image_dir(self.image) as folder:
            seal(folder, manifest())

    def verify(self) -> None:
        """Verify all of the image."""
        verify.verify(self.image, Verify.FULL, self._cache, ignore)

    def copy(self) -> None:
        """Copy the image with cp, and write it to the disk."""
        with self.target() as target:
            subprocess.run(["cp", "-r", "--reflink=never", self.image, target], check=True)
            for path in target.iterdir():
                sync(path)

    @contextlib.contextmanager
    def target(self) -> Iterator[Path]:
        """Give an unused path, and remove what is there afterwards."""
        with tempfile.TemporaryDirectory(dir=self.folder) as name:
            yield Path(name) / "copy"


def sync(path: Path) -> None:
    """Write a file to the disk."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
