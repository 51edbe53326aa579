"""Shims that read traps: a module that arms every fork server, and which shims have halted."""

from __future__ import annotations

import os
from pathlib import Path

from shim.simgpu.waiting import PACKAGE_ROOT
from tests.containerd import look
from tests.containerd.cryo import Cryo
from tests.faults import trap
from tests.faults.machine import state_of

# A sitecustomize module, which Python imports at its start.
_ARMING = """
import sys

if "shim.entry.shimbin.forkserver" in sys.orig_argv:
    from tests.faults import trap

    trap.arm()
"""


def env_of(folder: Path, trap_file: Path) -> dict[str, str]:
    """Return the environment of a containerd whose shims read a trap file.

    The folder is made, and holds what arms them.
    """
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(_ARMING, "utf-8")
    path = os.pathsep.join((str(folder), str(PACKAGE_ROOT)))
    return {trap.ENV: str(trap_file), "PYTHONPATH": path}


def shims(cryo: Cryo) -> list[int]:
    """List the shims of a containerd's place."""
    forks = cryo.processes(r"shim\.entry\.shimbin\.forkserver")
    return [pid for pid in forks if look.comm_of(pid) == "cryo-shim"]


def halted(cryo: Cryo) -> list[int]:
    """List the shims that have halted."""
    return [pid for pid in shims(cryo) if state_of(pid) == "T"]
