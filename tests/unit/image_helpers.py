"""A small image to seal, damage and verify."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from shim.image import seal
from shim.image.directory import open_image_dir
from shim.image.manifest import Build, Manifest
from shim.model import CudaProcess, Progress

FILES = {"checkpoint.img": b"gVisorSF" + bytes(range(200)), "pages.img": b"\x07" * 5000}


def manifest(**more: Any) -> Manifest:
    """Make a manifest of a container with one CUDA process."""
    plain = Manifest(
        created_at=datetime(2026, 11, 23, 18, 10, 3, 123456, UTC),
        namespace="default",
        task="t1",
        runsc=Build(version="release-20260905.0", digest="ab" * 32),
        arch="x86_64",
        kernel="6.1.0",
        cpu_features=("avx", "sse"),
        spec={"ociVersion": "1.1.0", "é": ["\U0001f600", 1.5, None]},
        spec_digest="cd" * 32,
        processes=(CudaProcess(pid=1, name="python3"),),
        engine="phased",
        timings_s={"save": 1.25, "lock": 2},
    )
    return msgspec.structs.replace(plain, **more)


def fill(folder: Path) -> Path:
    """Write what runsc would have written."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in FILES.items():
        (folder / name).write_bytes(data)
    return folder


def sealed(folder: Path, **more: Any) -> Manifest:
    """Make a sealed image."""
    return seal_at(fill(folder), manifest(**more))


def seal_at(path: Path, made: Manifest, **how: Any) -> Manifest:
    """Seal a folder by its path."""
    with open_image_dir(path) as folder:
        return seal.seal(folder, made, **how)


class ProgressLog:
    """Keeps what is reported."""

    def __init__(self) -> None:
        self.all: list[Progress] = []

    def __call__(self, progress: Progress) -> None:
        """Keep one."""
        self.all.append(progress)

    @property
    def bytes_read(self) -> int:
        """Return how many bytes were read in the end."""
        return self.all[-1].bytes_done if self.all else 0

    @property
    def warnings(self) -> list[str]:
        """Give the warnings alone."""
        return [one.message for one in self.all if one.warning]


def put(path: Path, kind: str) -> None:
    """Put something there that is not what belongs there."""
    if kind == "link":
        path.symlink_to("/etc/passwd")
    elif kind == "dangling link":
        path.symlink_to("nowhere")
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "file":
        path.touch()
    elif kind == "image":
        sealed(path)
    else:
        path.mkdir()
