"""Compares pushes and pulls of an image with copies of the same bytes, and seal and verify with dd.

    make bench                                          # with the other benchmarks
    python -m hack.bench.transfer --rounds 5 --mib 1024

An image of random bytes is pushed to an OCI layout, an archive, a real registry and a real S3
server on loopback, and pulled from there. "Single stream" sends pages.img as one blob over one
connection and gets it again, as clients of registries do with a layer, with its digest. All ratios
are to `cp` of the image to the same disk, and fsync. The ways alternate; the page cache is warm.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import os
import secrets
import shutil
import statistics
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path

from hack.bench.checkpoints import timed, turned
from hack.bench.starts import conditions
from shim.distribution import copies, reference
from shim.distribution.blob import Descriptor, FileSlice
from shim.distribution.media import CHUNK
from shim.distribution.opening import open_place
from shim.distribution.place import Place
from shim.distribution.settings import TransferSettings
from shim.distribution.transfer import PullTarget
from shim.image import verify
from shim.image.directory import open_image_dir
from shim.image.seal import seal
from shim.image.verify_cache import VerifyCache
from shim.model import Progress, Verify
from tests.registry_server import RegistryServer
from tests.s3_server import BUCKET, S3Server
from tests.unit.image_helpers import manifest

_MIB = 1 << 20
PAGES = "pages.img"
REGISTRY = "registry-3"
COPY, SINGLE = "cp and fsync", "single stream"


def main() -> None:
    """Measure, and print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", default=5, type=int)
    parser.add_argument("--mib", default=1024, type=int)
    given = parser.parse_args()
    print(f"\n{conditions()}\n{given.mib} MiB, medians of {given.rounds}")
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        files = Files(Path(name), given.mib)
        show("read", measured(files.reads, given.rounds), "dd", given.mib)
        remote = Remote(files, stack)
        pushes, pulls = remote.measure(given.rounds)
        show("push", pushes, COPY, given.mib)
        show("pull", pulls, COPY, given.mib)


def measured(ways: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Time each way in each round, in turned order."""
    found: dict[str, list[float]] = {way: [] for way in ways}
    for number in range(rounds):
        for way in turned(tuple(ways), number):
            found[way].append(timed(ways[way]))
    return found


def show(title: str, found: Mapping[str, list[float]], base: str, mib: int) -> None:
    """Print a table of times, throughputs and ratios."""
    print(f"\n{title:16}      ms     GB/s    ratio to {base}")
    usual = statistics.median(found[base])
    for way, seconds in found.items():
        median = statistics.median(seconds)
        speed = mib * _MIB / 1e9 / median
        print(f"{way:16}  {median * 1000:6.0f}   {speed:6.2f}    {median / usual:5.2f}", flush=True)


def ignore(_progress: Progress) -> None:
    """Take progress."""


class Files:
    """A sealed image of random bytes, and a folder for copies of it."""

    def __init__(self, folder: Path, mib: int) -> None:
        self.folder = folder
        self.image = folder / "image"
        self.size_bytes = mib * _MIB
        self._cache = VerifyCache(folder / "verified")
        self.image.mkdir()
        with (self.image / PAGES).open("wb") as file:
            for _ in range(mib):
                file.write(secrets.token_bytes(_MIB))
        (self.image / "checkpoint.img").write_bytes(secrets.token_bytes(200_000))
        self.seal()

    @property
    def reads(self) -> dict[str, Callable[[], object]]:
        """Return the ways to read the image."""
        return {"dd": self.dd, "seal": self.seal, "verify": self.verify}

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


class Remote:
    """Servers and folders that the image is copied to, and from."""

    def __init__(self, files: Files, stack: contextlib.ExitStack) -> None:
        self._files = files
        self._registry = RegistryServer(REGISTRY, files.folder / "registry")
        self._registry.start()
        stack.callback(self._registry.kill)
        self._store = S3Server(files.folder / "s3")
        stack.callback(self._store.stop)
        self._settings = TransferSettings(plain_http=True, object_store=self._store.settings)
        self._blob = Descriptor(media_type=CHUNK, digest="sha256:" + "0" * 64, size=0)
        self._tag = 0

    def measure(self, rounds: int) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
        """Push to and pull from each place, in turned order; each round is a new repository."""
        ways = (COPY, SINGLE, "OCI layout", "archive", "registry", "S3")
        pushes: dict[str, list[float]] = {way: [] for way in ways}
        pulls: dict[str, list[float]] = {way: [] for way in ways}
        for number in range(rounds):
            for way in turned(ways, number):
                self._tag += 1
                push, pull = self._both(way)
                pushes[way].append(timed(push))
                pulls[way].append(timed(pull))
                self._remove()
        return pushes, pulls

    def _both(self, way: str) -> tuple[Callable[[], object], Callable[[], object]]:
        if way == COPY:
            return self._files.copy, self._files.copy
        if way == SINGLE:
            return self._send_single, self._get_single
        place = {
            "OCI layout": f"oci:{self._folder / 'layout'}",
            "archive": f"oci-archive:{self._folder / 'image.tar'}",
            "registry": f"{self._registry.host}/snap/llama-{self._tag}",
            "S3": f"s3://{BUCKET}/snap/{self._tag}",
        }[way]
        self._folder.mkdir()
        return partial(self._push, place), partial(self._pull, place)

    @property
    def _folder(self) -> Path:
        return self._files.folder / f"places-{self._tag}"

    def _remove(self) -> None:
        """Remove what a round has written, except from the registry, which keeps content once."""
        for path in (self._folder, self._store.data / "snap"):
            shutil.rmtree(path, ignore_errors=True)

    def _push(self, place: str) -> None:
        copies.send(self._files.image, reference.parse(place), self._settings, ignore)

    def _pull(self, place: str) -> None:
        with self._files.target() as path:
            target = PullTarget(path_for=lambda _offer: path)
            copies.fetch(reference.parse(place), target, self._settings, ignore)

    def _send_single(self) -> None:
        with (self._files.image / PAGES).open("rb") as file, self._single() as place:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            self._blob = Descriptor(
                media_type=CHUNK, digest=f"sha256:{digest}", size=self._files.size_bytes
            )
            content = io.BufferedReader(FileSlice(file.fileno(), 0, self._files.size_bytes))
            place.put_blob(self._blob, content)

    def _get_single(self) -> None:
        with self._files.target() as path, self._single() as place:
            with path.open("wb") as file:
                for piece in place.get_blob(self._blob):
                    file.write(piece)
            sync(path)

    @contextlib.contextmanager
    def _single(self) -> Iterator[Place]:
        where = reference.parse(f"{self._registry.host}/single/llama-{self._tag}")
        with contextlib.closing(open_place(where, self._settings, to_write=True)) as place:
            yield place


if __name__ == "__main__":
    main()
