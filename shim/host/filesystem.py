"""The kind of the filesystem of a folder. Source: statfs(2)."""

from __future__ import annotations

import ctypes
import os
import struct
from pathlib import Path

from shim.host.oserror import typed_number

# TMPFS_MAGIC and RAMFS_MAGIC.
_IN_MEMORY = frozenset({0x01021994, 0x858458F6})
# Larger than the struct of any architecture, which begins with the type.
_BUFFER_BYTES = 256
_TYPE_MASK = 0xFFFFFFFF
_libc = ctypes.CDLL(None, use_errno=True)


def is_in_memory(folder: Path) -> bool:
    """Whether the files of a folder are in memory, and not on a disk.

    Raises:
        CryoError: the folder cannot be examined.
    """
    found = ctypes.create_string_buffer(_BUFFER_BYTES)
    if _libc.statfs(os.fsencode(folder), found) != 0:
        raise typed_number(ctypes.get_errno(), f"look at the filesystem of {folder}")
    (kind,) = struct.unpack_from("l", found)
    return kind & _TYPE_MASK in _IN_MEMORY
