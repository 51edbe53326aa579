"""The manifest `cryo.json`: the tamper-evident description of an image. Pure.

It is untrusted input, so its bytes are checked before they are decoded, and every value is bounded.
"""

from __future__ import annotations

import re
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import msgspec

from shim.cuda.inventory import Gpu
from shim.errors import HostMismatch, ImageCorrupt, InvalidArgument
from shim.model import CheckpointOptions, CudaProcess, EngineName, Spans, Timeline, Value
from shim.oci import canonical, document, untrusted_json
from shim.oci.document import Spec

NAME = "cryo.json"
# The file in which runsc writes the memory of an image that is not compressed.
PAGES = "pages.img"
FORMAT = 1
MAX_MANIFEST_BYTES = 4 << 20
MAX_MEMBERS = 64
_MAX_BYTES = (1 << 63) - 1
_ENGINES = frozenset({"", *EngineName})
_YEARS = range(1970, 2200)
_HASH = re.compile(r"[0-9a-f]{64}")
# In the written form a key of the manifest itself is indented by one space.
_DIGEST = re.compile(rb'\n "digest": "([0-9a-f]{64})",(?=\n)')
_REMEDY = "restore another image; this one cannot be trusted"


Size = Annotated[int, msgspec.Meta(ge=0, le=_MAX_BYTES)]
Text = Annotated[str, msgspec.Meta(max_length=4096)]
Texts = Annotated[tuple[Text, ...], msgspec.Meta(max_length=4096)]
Moment = Annotated[datetime, msgspec.Meta(tz=True)]
CudaProcesses = Annotated[tuple[CudaProcess, ...], msgspec.Meta(max_length=4096)]
Seconds = Annotated[float, msgspec.Meta(ge=0, le=1e9)]


class ImageFile(Value):
    """A file that runsc wrote. `blake3` is empty in an image that was not sealed."""

    name: Annotated[str, msgspec.Meta(min_length=1, max_length=255)]
    size_bytes: Size
    blake3: Annotated[str, msgspec.Meta(max_length=64)] = ""


class Build(Value):
    """A build of a program: the version that it prints, and the BLAKE3 of its binary."""

    version: Text = ""
    digest: Text = ""


class Member(Value):
    """A container that shared the sandbox; `name` is its name in the image of runsc.

    `data_folders` are the folders of its Kubernetes volumes, as `shim.oci.atomic_volumes`.
    """

    task: Text
    name: Text
    spec: dict[str, Any]
    spec_digest: Text
    bundle: Text = ""
    rootfs: Text = ""
    guest_tool: Text = ""
    gpu: bool = False
    processes: CudaProcesses = ()
    data_folders: Annotated[dict[Text, Text], msgspec.Meta(max_length=1024)] = {}


class Manifest(Value):
    """Everything that a restore needs. `spec` is the complete prepared config.json.

    The fields of a container are those of the sandbox's own; `members` are the others. `finished`
    are the names of containers of the pod that had exited with success; an older image has none.

    `runsc_flags` are the top-level flags on which a restore depends; an older image has none.
    `gpus` are those that the container could use, `used_gpus` the UUIDs of those on which its
    processes had memory; an older image has none of these. `driver` is empty without a real one.
    `memory_bytes` is the host memory that a restore needs at most; an older image has 0.
    `spans` say where the time went up to the seal; an older image has none.
    `stage` is where runsc saved to, `stage_reason` why, `frozen_s` how long the task stood still.
    `digest` covers all other fields, and through `files` the image.
    """

    created_at: Moment
    namespace: Text
    task: Text
    runsc: Build
    arch: Text
    kernel: Text
    cpu_features: Texts
    spec: dict[str, Any]
    spec_digest: Text
    runsc_flags: Annotated[dict[Text, Text], msgspec.Meta(max_length=256)] = msgspec.field(
        default_factory=dict
    )
    bundle: Text = ""
    rootfs: Text = ""
    driver: Text = ""
    tool: Build = Build()
    guest_tool: Text = ""
    engine: Text = ""
    gpus: Annotated[tuple[Gpu, ...], msgspec.Meta(max_length=1024)] = ()
    used_gpus: Annotated[tuple[Text, ...], msgspec.Meta(max_length=1024)] = ()
    processes: CudaProcesses = ()
    members: Annotated[tuple[Member, ...], msgspec.Meta(max_length=MAX_MEMBERS)] = ()
    finished: Annotated[tuple[Text, ...], msgspec.Meta(max_length=MAX_MEMBERS)] = ()
    options: CheckpointOptions = CheckpointOptions()
    paused: bool = False
    sealed: bool = True
    memory_bytes: Size = 0
    files: Annotated[tuple[ImageFile, ...], msgspec.Meta(max_length=4096)] = ()
    timings_s: Annotated[dict[Text, Seconds], msgspec.Meta(max_length=64)] = msgspec.field(
        default_factory=dict
    )
    spans: Spans = ()
    warnings: Texts = ()
    stage: Text = ""
    stage_reason: Text = ""
    frozen_s: Seconds = 0.0
    format: int = FORMAT
    digest: str = ""

    def __post_init__(self) -> None:
        """Reject a time that a protocol could not represent, and an engine that there is not.

        Raises:
            ValueError: its year is out of range, or the engine is not one.
        """
        if self.engine not in _ENGINES:
            message = f"engine is {self.engine[:40]!r}"
            raise ValueError(message)
        if self.created_at.year not in _YEARS:
            message = f"created_at is in the year {self.created_at.year}"
            raise ValueError(message)

    @property
    def size_bytes(self) -> int:
        """Return the total size of the files of runsc."""
        return sum(file.size_bytes for file in self.files)

    @property
    def all_processes(self) -> tuple[CudaProcess, ...]:
        """List the CUDA processes of all containers, each with its task."""
        of_members = (
            msgspec.structs.replace(process, container=member.task)
            for member in self.members
            for process in member.processes
        )
        return (*self.processes, *of_members)

    @property
    def has_cuda(self) -> bool:
        """Whether there is GPU state to restore."""
        return any(not process.dropped for process in self.all_processes)

    @property
    def root(self) -> Member:
        """Return the sandbox's own container as a `Member`."""
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
    def timeline(self) -> Timeline:
        """Return where the time of the checkpoint went, as far as it was known at its seal."""
        total_s = max((span.start_s + span.duration_s for span in self.spans), default=0.0)
        return Timeline(
            operation="checkpoint",
            task=self.task,
            began_at=self.created_at,
            total_s=total_s,
            spans=self.spans,
            engine=self.engine,
            size_bytes=self.size_bytes,
            partial=True,
        )

    @property
    def specs(self) -> tuple[Spec, ...]:
        """Return the prepared spec of every container.

        Raises:
            InvalidBundle: one is not a valid spec.
        """
        return tuple(
            document.parse(one.spec, Path(one.bundle), restoring=True)
            for one in (self.root, *self.members)
        )

    def member(self, name: str) -> Member:
        """Return the container of this name.

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
    """Return the manifest with its digest set, and the bytes of cryo.json.

    Raises:
        InvalidArgument: it exceeds the limits of a reader.
    """
    plain = to_plain(manifest)
    del plain["digest"]
    plain["digest"] = canonical.digest(canonical.encode(plain))
    data = canonical.encode_pretty(plain)
    if len(data) > MAX_MANIFEST_BYTES:
        message = f"the manifest would be {len(data)} bytes, of at most {MAX_MANIFEST_BYTES}"
        raise InvalidArgument(message, remedy="make config.json smaller")
    try:
        untrusted_json.check_shape(data)
        msgspec.convert(plain, Manifest)
    except ValueError as error:  # also the base of msgspec's errors
        message = f"the manifest would be invalid: {error}"
        raise InvalidArgument(message, remedy="make it smaller, or run fewer containers") from error
    return msgspec.structs.replace(manifest, digest=plain["digest"]), data


class _Head(Value):
    """The part that manifests of every format have."""

    format: int


def decode(data: bytes, where: str) -> Manifest:
    """Decode the bytes of cryo.json; `where` is the image's path for messages.

    Raises:
        ImageCorrupt: a byte was changed since they were sealed.
        HostMismatch: their format is newer than this build supports.
    """
    try:
        _check_sealed(data)
        found = msgspec.json.decode(data, type=_Head).format
        manifest = msgspec.json.decode(data, type=Manifest) if found == FORMAT else None
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise _corrupt(where, str(error)) from error
    if manifest is None:
        message = f"image {where} has format {found!r}; this cryo reads {FORMAT}"
        raise HostMismatch(message, remedy="restore it with the cryo that made it, or a newer one")
    _check_files(manifest, where)
    return manifest


def to_plain(manifest: Manifest) -> dict[str, Any]:
    """Return the manifest as plain JSON values."""
    plain: dict[str, Any] = msgspec.to_builtins(manifest)
    return plain


def _check_sealed(data: bytes) -> None:
    """Check that the bytes have the canonical form, and match their own digest.

    The digest is that of the compact form without the digest itself, in this and all later formats:
    so damage is distinguished from a newer format. No objects are created from the bytes.

    Raises:
        ValueError: they were changed.
    """
    untrusted_json.check_shape(data)
    found = _DIGEST.findall(data)
    same = msgspec.json.format(data, indent=1) + b"\n" == data
    compact = msgspec.json.format(_DIGEST.sub(b"", data), indent=-1)
    if not same or found != [canonical.digest(compact).encode("ascii")]:
        message = "it was changed after it was sealed"
        raise ValueError(message)


def _check_files(manifest: Manifest, where: str) -> None:
    if manifest.size_bytes > _MAX_BYTES:
        raise _corrupt(where, "its files are too large")
    names = [file.name for file in manifest.files]
    if len(set(names)) != len(names):
        raise _corrupt(where, "it names a file twice")
    for file in manifest.files:
        if not _flat(file.name):
            raise _corrupt(where, f"{file.name!r} is not a valid file name")
        if manifest.sealed and not _HASH.fullmatch(file.blake3):
            raise _corrupt(where, f"{file.name} has no hash")


def _flat(name: str) -> bool:
    return name not in {"", ".", "..", NAME} and "/" not in name and "\0" not in name


def _corrupt(where: str, why: str) -> ImageCorrupt:
    return ImageCorrupt(f"image {where}: {NAME}: {why}", remedy=_REMEDY)
