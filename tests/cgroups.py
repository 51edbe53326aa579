"""The cgroups of this host, as tests look for what is left."""

from __future__ import annotations

import os
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")


def starting(prefix: str) -> list[Path]:
    """List the cgroups whose name starts so, in every hierarchy that the host has.

    Not by glob, which fails when a cgroup of another test goes away under its look.
    """
    walked = os.walk(ROOT)
    return [Path(at, name) for at, names, _ in walked for name in names if name.startswith(prefix)]
