"""Features of the kernel, each tried by the call that needs it."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

from shim.errors import CryoError
from shim.host import idmap, netns
from shim.host.tmpfs import Tmpfs

PIDFD = "pidfd"
MEMFD = "memfd"
TMPFS = "tmpfs"
IDMAP = "idmap"
HIDDEN_RMEM = "rmem_default is in the first network namespace alone"
RMEM = "/proc/sys/net/core/rmem_default"
_MIB = 1 << 20


def _has_pidfd() -> bool:
    try:
        os.close(os.pidfd_open(os.getpid()))
    except OSError:
        return False
    return True


def _has_memfd() -> bool:
    try:
        os.close(os.memfd_create("cryo-doctor", os.MFD_CLOEXEC))
    except OSError:
        return False
    return True


def _has_tmpfs() -> bool:
    try:
        Tmpfs(_MIB).close()
    except CryoError:
        return False
    return True


def _hides_rmem() -> bool:
    """Whether a new network namespace lacks a file by which builds of 2024 know the host's."""
    try:
        return not netns.new_one_has(Path(RMEM))
    except CryoError:  # no container gets a namespace either, which is another finding
        return True


PROBES: Mapping[str, Callable[[], bool]] = {
    PIDFD: _has_pidfd,
    MEMFD: _has_memfd,
    TMPFS: _has_tmpfs,
    IDMAP: idmap.kernel_has_it,
    HIDDEN_RMEM: _hides_rmem,
}
