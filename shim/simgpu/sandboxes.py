"""Which sandbox a connection to the device comes from, read from the host's process list."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path

_ARGV_MAX = 1 << 16


@dataclass(frozen=True)
class Origin:
    """The sandbox process behind a peer, and the container's id; `pid` is the peer for others."""

    pid: int
    task: str = ""


def _argv(pid: int) -> list[str]:
    with contextlib.suppress(OSError), Path(f"/proc/{pid}/cmdline").open("rb") as file:
        return file.read(_ARGV_MAX).decode("utf-8", "replace").rstrip("\0").split("\0")
    return []


def _option(argv: list[str], name: str) -> str:
    """Return an option's value, written as `--name=value` or as two words."""
    for at, word in enumerate(argv):
        if word.startswith(f"--{name}="):
            return word.partition("=")[2]
        if word == f"--{name}":
            return argv[at + 1] if at + 1 < len(argv) else ""
    return ""


def _identity(argv: list[str]) -> tuple[str, str]:
    return _option(argv, "root"), _option(argv, "bundle")


def origin(peer: int) -> Origin:
    """Find the sandbox that a gofer (who connects for its sandbox) or a sentry belongs to.

    A gofer is started right before its sandbox, by the same runsc, with the same root and bundle.
    """
    argv = _argv(peer)
    if "boot" in argv:
        return Origin(peer, argv[-1])
    if "gofer" not in argv:
        return Origin(peer)
    wanted = _identity(argv)
    later = sorted(int(e) for e in os.listdir("/proc") if e.isdigit() and int(e) > peer)  # noqa: PTH208
    for pid in later:
        other = _argv(pid)
        if "boot" in other and _identity(other) == wanted:
            return Origin(pid, other[-1])
    return Origin(peer)
