"""Finds the sandbox that a connection to the device comes from, in the host's process list."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path

_ARGV_MAX = 1 << 16


@dataclass(frozen=True)
class Origin:
    """The pid of a peer's sandbox and the container's id; outside a sandbox, the peer's own pid."""

    pid: int
    task: str = ""


def _argv(pid: int) -> list[str]:
    with contextlib.suppress(OSError), Path(f"/proc/{pid}/cmdline").open("rb") as file:
        return file.read(_ARGV_MAX).decode("utf-8", "replace").rstrip("\0").split("\0")
    return []


def _option(argv: list[str], name: str) -> str:
    """Return the value of an option, written as `--name=value` or `--name value`."""
    for at, word in enumerate(argv):
        if word.startswith(f"--{name}="):
            return word.partition("=")[2]
        if word == f"--{name}":
            return argv[at + 1] if at + 1 < len(argv) else ""
    return ""


def _identity(argv: list[str]) -> tuple[str, str]:
    return _option(argv, "root"), _option(argv, "bundle")


def origin(peer: int) -> Origin:
    """Find the sandbox of a peer: a sentry, or a gofer that connects on behalf of its sandbox.

    runsc starts a gofer right before its sandbox, with the same root and bundle.
    """
    argv = _argv(peer)
    if "boot" in argv:
        return Origin(peer, argv[-1])
    if "gofer" not in argv:
        return Origin(peer)
    wanted = _identity(argv)
    names = os.listdir("/proc")  # noqa: PTH208 - names only
    later = sorted(int(name) for name in names if name.isdigit() and int(name) > peer)
    for pid in later:
        other = _argv(pid)
        if "boot" in other and _identity(other) == wanted:
            return Origin(pid, other[-1])
    return Origin(peer)
