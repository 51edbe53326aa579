"""Writes the image of the installer: a bundle and this package, and nothing else.

    python3 -m hack.kubernetes.node.image ARCHIVE [--runsc PATH]

The archive is for `ctr images import`, `docker load` and tools that push to a registry. The image
has no base image, so building it downloads nothing.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import io
import json
import platform
import tarfile
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from hack.kubernetes.node import bundle
from shim import __version__

REFERENCE = f"localhost/cryoshim-node:{__version__}"
BUNDLE = Path("/cryoshim")
_PROGRAMS = Path("/installer")
_FOLDERS = ("dev", "etc", "host", "proc", "run", "sys", "tmp")
_OCI = "application/vnd.oci.image"
_PACKAGE = Path(__file__).parents[2]


@dataclass(frozen=True)
class Blob:
    """A part of an image, by its digest."""

    digest: str
    size: int
    kind: str

    def descriptor(self, **more: object) -> dict[str, object]:
        """Return the descriptor of the part."""
        return {"mediaType": self.kind, "digest": self.digest, "size": self.size, **more}

    @property
    def path(self) -> str:
        """Return its path in the archive."""
        return f"blobs/{self.digest.replace(':', '/')}"


def write(archive: Path, folder: Path, reference: str = REFERENCE) -> None:
    """Write the image with the bundle of a directory."""
    with tempfile.TemporaryFile() as layer, tarfile.open(archive, "w") as out:
        diff = _write_layer(layer, folder)
        size = layer.seek(0, io.SEEK_END)
        compressed = Blob(_digest_of(layer), size, f"{_OCI}.layer.v1.tar+gzip")
        config = _add_json(out, _config(diff), f"{_OCI}.config.v1+json")
        manifest = _add_json(out, _manifest(config, compressed), f"{_OCI}.manifest.v1+json")
        docker = {
            "Config": config.path,
            "RepoTags": [reference],
            "Layers": [compressed.path],
        }
        _add(out, "oci-layout", json.dumps({"imageLayoutVersion": "1.0.0"}).encode())
        _add(out, "index.json", json.dumps(_index(manifest, reference)).encode())
        _add(out, "manifest.json", json.dumps([docker]).encode())
        layer.seek(0)
        entry = tarfile.TarInfo(compressed.path)
        entry.size = size
        out.addfile(entry, layer)


def _write_layer(file: BinaryIO, folder: Path) -> str:
    """Write the layer, compressed; return the digest of what it is uncompressed."""
    hasher = hashlib.sha256()
    with (
        gzip.GzipFile(fileobj=file, mode="wb", compresslevel=1, mtime=0) as packed,
        tarfile.open(fileobj=_Hashed(packed, hasher), mode="w|") as out,
    ):
        for name in _FOLDERS:
            entry = tarfile.TarInfo(name)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            out.addfile(entry)
        out.add(folder, str(BUNDLE), filter=_by_root)
        for name in ("__init__.py", "kubernetes/__init__.py", "kubernetes/node"):
            out.add(_PACKAGE / name, str(_PROGRAMS / "hack" / name), filter=_by_root)
    return f"sha256:{hasher.hexdigest()}"


def _by_root(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = "root"
    return entry


class _Hashed(io.RawIOBase):
    """A file whose content is hashed on its way."""

    def __init__(self, file: gzip.GzipFile, hasher: hashlib._Hash) -> None:
        self._file = file
        self._hasher = hasher

    def write(self, data: bytes) -> int:  # type: ignore[override]
        """Write, and hash."""
        self._hasher.update(data)
        return self._file.write(data)


def _digest_of(file: BinaryIO) -> str:
    file.seek(0)
    hasher = hashlib.sha256()
    while piece := file.read(1 << 20):
        hasher.update(piece)
    return f"sha256:{hasher.hexdigest()}"


def _config(diff: str) -> Mapping[str, object]:
    entrypoint = [*bundle.launch(BUNDLE), "-m", "hack.kubernetes.node"]
    env = [
        f"PYTHONPATH={_PROGRAMS}",
        "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    ]
    return {
        "architecture": _architecture(),
        "os": "linux",
        "config": {"Entrypoint": entrypoint, "Env": env, "WorkingDir": "/"},
        "rootfs": {"type": "layers", "diff_ids": [diff]},
        "history": [{"created_by": "cryoshim"}],
    }


def _manifest(config: Blob, layer: Blob) -> Mapping[str, object]:
    kind = f"{_OCI}.manifest.v1+json"
    layers = [layer.descriptor()]
    return {"schemaVersion": 2, "mediaType": kind, "config": config.descriptor(), "layers": layers}


def _index(manifest: Blob, reference: str) -> Mapping[str, object]:
    names = {
        "io.containerd.image.name": reference,
        "org.opencontainers.image.ref.name": reference.rpartition(":")[2],
    }
    where = {"architecture": _architecture(), "os": "linux"}
    entry = manifest.descriptor(annotations=names, platform=where)
    return {"schemaVersion": 2, "mediaType": f"{_OCI}.index.v1+json", "manifests": [entry]}


def _architecture() -> str:
    return {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())


def _add_json(out: tarfile.TarFile, value: object, kind: str) -> Blob:
    data = json.dumps(value).encode()
    blob = Blob(f"sha256:{hashlib.sha256(data).hexdigest()}", len(data), kind)
    _add(out, blob.path, data)
    return blob


def _add(out: tarfile.TarFile, name: str, data: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(data)
    out.addfile(entry, io.BytesIO(data))


def main() -> None:
    """Make a bundle and write its image."""
    parser = argparse.ArgumentParser(prog="hack.kubernetes.node.image")
    parser.add_argument("archive", type=Path, help="the file to write")
    parser.add_argument("--runsc", type=Path, help="the runsc to include")
    asked = parser.parse_args()
    with bundle.reported(), tempfile.TemporaryDirectory() as work:
        folder = Path(work) / "bundle"
        bundle.write(folder, asked.runsc)
        asked.archive.parent.mkdir(parents=True, exist_ok=True)
        write(asked.archive, folder)
        print(f"{asked.archive}: {REFERENCE}, {bundle.described(folder)}")


if __name__ == "__main__":
    main()
