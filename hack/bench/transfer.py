"""Pushes and pulls of an image beside copies of the same bytes, with servers on loopback.

An image of random bytes is pushed to an OCI layout, an archive, a real registry and a real S3
server, and pulled from there. "Single stream" sends pages.img as one blob over one connection and
gets it again, as clients of registries do with a layer, with its digest. All ratios are to `cp` of
the image to the same disk, and fsync. The page cache is warm.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

from hack.bench.effort import Effort
from hack.bench.image_files import PAGES, Files, ignore, sync
from hack.bench.row import Rows, ms, ratio
from hack.bench.turns import Samples, timed, turned
from shim.distribution import copies, reference
from shim.distribution.blob import Descriptor, FileSlice
from shim.distribution.media import CHUNK
from shim.distribution.opening import open_place
from shim.distribution.place import Place
from shim.distribution.settings import TransferSettings
from shim.distribution.transfer import PullTarget
from tests.registry_server import RegistryServer
from tests.s3_server import BUCKET, S3Server

ROUNDS = 3
REGISTRY = "registry-3"
COPY, SINGLE = "cp", "single-stream"
WAYS = (COPY, SINGLE, "oci-layout", "archive", "registry", "s3")


def measure(runsc: Path, effort: Effort) -> Rows:
    """Push and pull by turns."""
    del runsc
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        remote = Remote(Files(Path(name)), stack)
        pushes, pulls = remote.measure(effort.rounds(ROUNDS))
    return rows_of("push", pushes) | rows_of("pull", pulls)


def rows_of(case: str, found: Samples) -> Rows:
    """Return the rows of one direction."""
    rows: Rows = {}
    for way, spent in found.items():
        rows[f"{case}.{way}.duration"] = ms(spent)
        if way != COPY:
            rows[f"{case}.{way}.ratio"] = ratio(spent, found[COPY])
    return rows


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

    def measure(self, rounds: Iterable[int]) -> tuple[Samples, Samples]:
        """Push to and pull from each place, in turned order; each round is a new repository."""
        pushes: Samples = {way: [] for way in WAYS}
        pulls: Samples = {way: [] for way in WAYS}
        for number in rounds:
            for way in turned(WAYS, number):
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
            "oci-layout": f"oci:{self._folder / 'layout'}",
            "archive": f"oci-archive:{self._folder / 'image.tar'}",
            "registry": f"{self._registry.host}/snap/llama-{self._tag}",
            "s3": f"s3://{BUCKET}/snap/{self._tag}",
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
