"""Builds a small image: a static busybox, in an archive that containerd and Docker both load."""

from __future__ import annotations

import hashlib
import io
import json
import platform
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

REFERENCE = "docker.io/library/cryobox:1"
# The pause image: the same image, with a command that does not exit.
PAUSE = "docker.io/library/cryopause:1"
PAUSE_COMMAND = ("/bin/sleep", "2147483647")
APPLETS = (
    *("sh", "cat", "chmod", "cp", "date", "dd", "echo", "env", "false", "head", "id", "ip", "kill"),
    *("ls", "mkdir", "mount", "mv", "nc", "ps", "pwd", "rm", "seq", "sleep", "stty", "sync"),
    *("tail", "test", "touch", "true", "tty", "umount", "uname", "wc", "yes"),
)
FOLDERS = ("dev", "etc", "proc", "root", "run", "sys", "tmp", "usr", "usr/bin", "var")
_OCI = "application/vnd.oci.image"


@dataclass(frozen=True)
class Blob:
    """Content that is addressed by its digest."""

    data: bytes
    kind: str = ""

    @property
    def hex(self) -> str:
        """Return the digest without its algorithm."""
        return hashlib.sha256(self.data).hexdigest()

    @property
    def digest(self) -> str:
        """Return the digest in the form of descriptors."""
        return f"sha256:{self.hex}"

    @property
    def path(self) -> str:
        """Return the path of the blob in an OCI layout."""
        return f"blobs/sha256/{self.hex}"

    def descriptor(self, **more: object) -> dict[str, object]:
        """Return the descriptor of the blob."""
        size = len(self.data)
        return {"mediaType": self.kind, "digest": self.digest, "size": size, **more}


def write(
    path: Path,
    busybox: Path,
    *,
    reference: str = REFERENCE,
    command: Sequence[str] = ("/bin/sh",),
    files: Mapping[str, bytes] | None = None,
) -> Path:
    """Write the archive of an image; `files` are added to it, executable."""
    layer = _layer(busybox, files or {})
    return write_layer(path, layer, reference=reference, command=command)


def write_pause(path: Path, busybox: Path) -> Path:
    """Write the archive of the image that pods are made of."""
    return write(path, busybox, reference=PAUSE, command=PAUSE_COMMAND)


def write_layer(path: Path, tar: bytes, *, reference: str, command: Sequence[str]) -> Path:
    """Write the archive of an image that has this layer, a tar archive."""
    layer = Blob(tar, f"{_OCI}.layer.v1.tar")
    config = _json(_config(layer, command), f"{_OCI}.config.v1+json")
    manifest = _json(_manifest(config, layer), f"{_OCI}.manifest.v1+json")
    index = _json(_index(manifest, reference), f"{_OCI}.index.v1+json")
    docker = [{"Config": config.path, "RepoTags": [reference], "Layers": [layer.path]}]
    content = {
        "oci-layout": json.dumps({"imageLayoutVersion": "1.0.0"}).encode(),
        "index.json": index.data,
        # Docker's own format, for versions that do not read OCI layouts; it has the same blobs.
        "manifest.json": json.dumps(docker).encode(),
        **{blob.path: blob.data for blob in (config, layer, manifest)},
    }
    with tarfile.open(path, "w") as archive:
        for name, data in content.items():
            _add(archive, name, data, 0o644)
    return path


def architecture() -> str:
    """Return Go's name of this machine's architecture."""
    return {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())


def _layer(busybox: Path, files: Mapping[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name in ("bin", *FOLDERS):
            _add_folder(archive, name, 0o1777 if name == "tmp" else 0o755)
        _add(archive, "bin/busybox", busybox.read_bytes(), 0o755)
        for applet in APPLETS:
            _add_link(archive, f"bin/{applet}", "busybox")
        _add(archive, "etc/passwd", b"root:x:0:0:root:/root:/bin/sh\n", 0o644)
        for name, data in files.items():
            _add(archive, name, data, 0o755)
    return out.getvalue()


def _config(layer: Blob, command: Sequence[str]) -> dict[str, object]:
    return {
        "architecture": architecture(),
        "os": "linux",
        "config": {"Env": ["PATH=/bin:/usr/bin"], "Cmd": list(command), "WorkingDir": "/"},
        "rootfs": {"type": "layers", "diff_ids": [layer.digest]},
        "history": [{"created_by": "cryoshim"}],
    }


def _manifest(config: Blob, layer: Blob) -> dict[str, object]:
    return {
        "schemaVersion": 2,
        "mediaType": f"{_OCI}.manifest.v1+json",
        "config": config.descriptor(),
        "layers": [layer.descriptor()],
    }


def _index(manifest: Blob, reference: str) -> dict[str, object]:
    annotations = {
        "io.containerd.image.name": reference,
        "org.opencontainers.image.ref.name": reference.rpartition(":")[2],
    }
    where = {"architecture": architecture(), "os": "linux"}
    entry = manifest.descriptor(annotations=annotations, platform=where)
    return {"schemaVersion": 2, "mediaType": f"{_OCI}.index.v1+json", "manifests": [entry]}


def _json(value: object, kind: str) -> Blob:
    return Blob(json.dumps(value).encode(), kind)


def _add(archive: tarfile.TarFile, name: str, data: bytes, mode: int) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(data), mode
    archive.addfile(entry, io.BytesIO(data))


def _add_folder(archive: tarfile.TarFile, name: str, mode: int) -> None:
    entry = tarfile.TarInfo(name)
    entry.type, entry.mode = tarfile.DIRTYPE, mode
    archive.addfile(entry)


def _add_link(archive: tarfile.TarFile, name: str, target: str) -> None:
    entry = tarfile.TarInfo(name)
    entry.type, entry.linkname = tarfile.SYMTYPE, target
    archive.addfile(entry)
