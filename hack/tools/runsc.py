"""Two versions of runsc: a new one that is built, and Debian's of 2024."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

from hack.tools.debian import Packages, from_own_apt, from_suite
from hack.tools.golang import HERE, Module, from_go
from hack.tools.kept import from_cache
from hack.tools.running import PROBE_S, NotHere, run
from hack.tools.tool import Choice, Tool

GVISOR = Module(
    path="gvisor.dev/gvisor",
    version="v0.0.0-20260905035102-160fafc42237",
    pins=HERE / "gvisor",
    packages={"runsc": "gvisor.dev/gvisor/runsc"},
)
DEBIAN = Packages(
    suite="trixie",
    version="0.0~20240729.0",
    pins={"runsc": "3c25a5130dfac2f71237d5baad56ac86a255de87a0400f11b36a555156dc325a"},
)


def has_builtin(path: Path) -> bool:
    """Return whether this runsc has the built-in CUDA engine."""
    return "cuda-checkpoint-path" in run([path, "help", "checkpoint"], timeout_s=PROBE_S)


def is_version(path: Path, version: str) -> bool:
    """Return whether `runsc --version` prints this version, in Debian's or upstream's format."""
    date = version.rpartition("~")[2]
    found = re.search(
        r"runsc version \S*?(\d{8}\.\d+)", run([path, "--version"], timeout_s=PROBE_S)
    )
    return found is not None and found[1] == date


def on_path(tool: Tool, _cache: Path) -> Choice:
    """Use the runsc on PATH if it has the features or the version of this tool."""
    found = shutil.which("runsc")
    if not found:
        message = "PATH: runsc not found"
        raise NotHere(message)
    path = Path(found).resolve()
    if tool is NEW and not has_builtin(path):
        message = f"PATH: {found} has no --cuda-checkpoint-path"
        raise NotHere(message)
    if tool is OLD and not is_version(path, tool.version):
        message = f"PATH: {found} is not {tool.version}"
        raise NotHere(message)
    return tool.choice(path, "PATH")


def from_release(tool: Tool, _cache: Path) -> Choice:
    """Use gVisor's release in CRYO_RUNSC_RELEASE: runsc beside its gvisor-bin/."""
    given = os.environ.get("CRYO_RUNSC_RELEASE")
    if not given:
        message = "release: CRYO_RUNSC_RELEASE is not set"
        raise NotHere(message)
    path = Path(given).absolute() / "runsc"
    if not os.access(path, os.X_OK) or not (path.parent / "gvisor-bin").is_dir():
        message = f"release: {path.parent} has no runsc beside a gvisor-bin folder"
        raise NotHere(message)
    if not has_builtin(path):
        message = f"release: {path} has no --cuda-checkpoint-path"
        raise NotHere(message)
    return tool.choice(path, "release")


NEW = Tool(
    "runsc-new",
    GVISOR.version,
    ("runsc",),
    (on_path, from_release, from_cache, from_go(GVISOR)),
    has_builtin,
)
OLD = Tool(
    "runsc-old",
    DEBIAN.version,
    ("runsc",),
    (on_path, from_cache, from_own_apt(DEBIAN), from_suite(DEBIAN)),
    has_builtin,
)
