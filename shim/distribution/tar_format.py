"""The tar of an OCI layout: the headers that are written, and those that are accepted.

An archive may come from anywhere. Only regular files with names of an OCI layout are accepted,
each once, and no headers that extend others.
"""

from __future__ import annotations

import os
import re
import tarfile

from shim.distribution import layout_index
from shim.distribution.artifact import corrupt
from shim.model import Value

BLOCK_BYTES = tarfile.BLOCKSIZE
END = bytes(2 * BLOCK_BYTES)
_BLOBS = "blobs/sha256/"
_FOLDERS = frozenset({"", ".", "blobs", "blobs/sha256"})
_NAME = re.compile(
    rf"(?:\./)?({layout_index.MARKER_NAME}|{re.escape(layout_index.NAME)}|{_BLOBS}[0-9a-f]{{64}})"
)
_MAX_MEMBERS = 32_768
_MAX_BYTES = 1 << 40


class Member(Value):
    """Where the content of a file is in an archive."""

    offset: int
    size_bytes: int


def blob_name(digest: str) -> str:
    """Return the name of a blob in an archive."""
    return _BLOBS + digest.removeprefix("sha256:")


def header(name: str, size_bytes: int) -> bytes:
    """Return the header of a file; it is the same for the same file."""
    info = tarfile.TarInfo(name)
    info.size, info.mode = size_bytes, 0o600
    return info.tobuf(tarfile.USTAR_FORMAT)


def padding(size_bytes: int) -> bytes:
    """Return what follows the content of a file."""
    return bytes(-size_bytes % BLOCK_BYTES)


def members(fd: int, where: str) -> dict[str, Member]:
    """Return the files of an open archive by their names; `where` is for messages.

    Raises:
        ImageCorrupt: it is damaged, or has anything but the files of an OCI layout.
    """
    found: dict[str, Member] = {}
    end = os.fstat(fd).st_size
    at = 0
    while (block := os.pread(fd, BLOCK_BYTES, at)).strip(b"\0"):
        at += BLOCK_BYTES
        info = _parsed(block, where)
        if info.isdir() and info.name.removeprefix("./").rstrip("/") in _FOLDERS:
            continue
        name = _checked_name(info, where)
        if name in found or len(found) >= _MAX_MEMBERS:
            raise corrupt(where, f"the archive has too many files, or {name} twice")
        if not 0 <= info.size <= min(_MAX_BYTES, end - at):
            raise corrupt(where, f"{name} is longer than the archive: it is not complete")
        found[name] = Member(offset=at, size_bytes=info.size)
        at += info.size + len(padding(info.size))
    if len(block) < BLOCK_BYTES or layout_index.MARKER_NAME not in found:
        raise corrupt(where, "the archive is not one of an OCI layout, or not complete")
    return found


def _parsed(block: bytes, where: str) -> tarfile.TarInfo:
    try:
        return tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.HeaderError as error:
        raise corrupt(where, f"the archive is damaged: {error}") from error


def _checked_name(info: tarfile.TarInfo, where: str) -> str:
    found = _NAME.fullmatch(info.name)
    if found is None or info.type not in {tarfile.REGTYPE, tarfile.AREGTYPE}:
        raise corrupt(where, f"the archive has {info.name[:100]!r}, which no OCI layout has")
    return found[1]
