"""The manifest `cryo.json`: what an image is, in bytes of which none can change unseen. Pure."""

from __future__ import annotations

import re
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec

from shim.cuda.inventory import Gpu
from shim.errors import HostMismatch, ImageCorrupt, InvalidArgument
from shim.model import CheckpointOptions, CudaProcess, Value
from shim.spec import canonical, document
from shim.spec.document import Spec

NAME = "cryo.json"
FORMAT = 1
MAX_MANIFEST_BYTES = 64 << 20
_HASH = re.compile(r"[0-9a-f]{64}")
_REMEDY = "restore another image; this one cannot be trusted"


class ImageFile(Value):
    """One file of runsc's. `blake3` is empty in an image that was not sealed."""

    name: str
    size_bytes: int
    blake3: str = ""


class Build(Value):
    """Which build of a program: what it calls itself, and the BLAKE3 of its binary."""

    version: str = ""
    digest: str = ""


class Member(Value):
    """A container that shared the sandbox; runsc knows it in its image by `name`."""

    task: str
    name: str
    spec: dict[str, Any]
    spec_digest: str
    bundle: str = ""
    rootfs: str = ""
    guest_tool: str = ""
    gpu: bool = False
    processes: tuple[CudaProcess, ...] = ()


class Manifest(Value):
    """Everything that a restore must know. `spec` is the prepared config.json, whole.

    What is said of one container is said of the sandbox's own, which `members` share.

    `runsc_flags` are the top-level flags on which a restore depends; an older image has none.
    `gpus` are those that the container could use; `driver` is empty where there is no real one.
    `digest` covers all the rest, and through `files` the image.
    """

    created_at: datetime
    namespace: str
    task: str
    runsc: Build
    arch: str
    kernel: str
    cpu_features: tuple[str, ...]
    spec: dict[str, Any]
    spec_digest: str
    runsc_flags: dict[str, str] = msgspec.field(default_factory=dict)
    bundle: str = ""
    rootfs: str = ""
    driver: str = ""
    tool: Build = Build()
    guest_tool: str = ""
    engine: str = ""
    gpus: tuple[Gpu, ...] = ()
    processes: tuple[CudaProcess, ...] = ()
    members: tuple[Member, ...] = ()
    options: CheckpointOptions = CheckpointOptions()
    paused: bool = False
    sealed: bool = True
    files: tuple[ImageFile, ...] = ()
    timings_s: dict[str, float] = msgspec.field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    format: int = FORMAT
    digest: str = ""

    @property
    def size_bytes(self) -> int:
        """Give the size of runsc's files together."""
        return sum(file.size_bytes for file in self.files)

    @property
    def all_processes(self) -> tuple[CudaProcess, ...]:
        """List the CUDA processes of all containers, each with the task that it belonged to."""
        of_members = (
            msgspec.structs.replace(process, container=member.task)
            for member in self.members
            for process in member.processes
        )
        return (*self.processes, *of_members)

    @property
    def has_cuda(self) -> bool:
        """Whether there is GPU state to bring back."""
        return any(not process.dropped for process in self.all_processes)

    @property
    def own(self) -> Member:
        """Give the sandbox's own container in the form of the others."""
        return Member(
            task=self.task,
            name="",
            spec=self.spec,
            spec_digest=self.spec_digest,
            bundle=self.bundle,
            rootfs=self.rootfs,
            guest_tool=self.guest_tool,
            gpu=bool(self.processes),
            processes=self.processes,
        )

    @property
    def specs(self) -> tuple[Spec, ...]:
        """Give the prepared spec of every container.

        Raises:
            InvalidBundle: one is no spec.
        """
        return tuple(
            document.parse(one.spec, Path(one.bundle), restoring=True)
            for one in (self.own, *self.members)
        )

    def member(self, name: str) -> Member:
        """Find the container of a name.

        Raises:
            InvalidArgument: the image has none.
        """
        found = next((one for one in self.members if one.name == name), None)
        if found is None:
            names = ", ".join(one.name for one in self.members) or "no other container"
            message = f"the image has no container {name}; it has {names}"
            raise InvalidArgument(message, remedy="give each container the name that was saved")
        return found


def encode(manifest: Manifest) -> tuple[Manifest, bytes]:
    """Give the manifest with its digest set, and the bytes of cryo.json.

    Raises:
        InvalidArgument: it would be larger than can be read back.
    """
    plain = to_plain(manifest)
    plain["digest"] = _digest(plain)
    data = canonical.encode_pretty(plain)
    if len(data) > MAX_MANIFEST_BYTES:
        message = f"the manifest would be {len(data)} bytes"
        raise InvalidArgument(message, remedy="make config.json smaller")
    return msgspec.structs.replace(manifest, digest=plain["digest"]), data


def decode(data: bytes, where: str) -> Manifest:
    """Read the bytes of cryo.json found at `where`; a single changed byte is refused.

    Raises:
        ImageCorrupt: they are not the bytes that were sealed.
        HostMismatch: they are of a newer format than this build knows.
    """
    plain = _checked(data, where)
    if plain.get("format") != FORMAT:
        message = f"image {where} has format {plain.get('format')!r}; this cryo reads {FORMAT}"
        raise HostMismatch(message, remedy="restore it with the cryo that made it, or a newer one")
    try:
        manifest = msgspec.convert(plain, Manifest)
    except (msgspec.ValidationError, ValueError) as error:  # ValueError: half a surrogate pair
        raise _corrupt(where, str(error)) from error
    _check_files(manifest, where)
    return manifest


def to_plain(manifest: Manifest) -> dict[str, Any]:
    """Give the manifest as plain JSON values, for files and for answers."""
    plain: dict[str, Any] = msgspec.to_builtins(manifest)
    return plain


def _checked(data: bytes, where: str) -> dict[str, Any]:
    """Parse and compare with the one form that these values have.

    The digest rule is the same for every format to come, so damage is told from news.
    """
    try:
        plain = canonical.decode(data)
        same = canonical.encode_pretty(plain) == data
    except ValueError as error:
        raise _corrupt(where, str(error)) from error
    if not same or not isinstance(plain, dict) or plain.get("digest") != _digest(plain):
        raise _corrupt(where, "it was changed after it was sealed")
    return plain


def _digest(plain: dict[str, Any]) -> str:
    rest = {key: value for key, value in plain.items() if key != "digest"}
    return canonical.digest(canonical.encode(rest))


def _check_files(manifest: Manifest, where: str) -> None:
    names = [file.name for file in manifest.files]
    if len(set(names)) != len(names):
        raise _corrupt(where, "it names a file twice")
    for file in manifest.files:
        if not _flat(file.name) or file.size_bytes < 0:
            raise _corrupt(where, f"{file.name!r} is no file of an image")
        if manifest.sealed and not _HASH.fullmatch(file.blake3):
            raise _corrupt(where, f"{file.name} has no hash")


def _flat(name: str) -> bool:
    return name not in {"", ".", "..", NAME} and "/" not in name and "\0" not in name


def _corrupt(where: str, why: str) -> ImageCorrupt:
    return ImageCorrupt(f"image {where}: {NAME}: {why}", remedy=_REMEDY)
