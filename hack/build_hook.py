"""Adds programs of native/ to a wheel: cryo-cuda and the launcher, or the stand-in for libcuda.

Without a C compiler the wheel is pure Python: NVIDIA's cuda-checkpoint does the CUDA steps, and a
script is what containerd starts.
"""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

SHIM = "containerd-shim-cryo-v1"
LAUNCHER = f"shim/entry/shimbin/bin/{SHIM}"
BUILT = ("shim/cuda/bin/cryo-cuda", LAUNCHER, "shim/simgpu/bin/libcuda.so.1")
# Without the launcher; installers write the path of Python into its first line.
SCRIPT = "hack/shim_script.py"
# The newest symbols that they need are of glibc 2.17; a test checks this.
TAG = "py3-none-manylinux_2_17_x86_64"
_LIMIT_S = 300


def build(root: Path) -> str:
    """Build both; return why that failed, or an empty string."""
    if not (root / "native" / "Makefile").exists():
        return "native/ is missing"
    if shutil.which("cc") is None or shutil.which("make") is None:
        return "install a C compiler (cc) and make"
    argv = ["make", "--no-print-directory", "-C", str(root / "native")]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=_LIMIT_S, check=False)
    return done.stderr[-2000:].strip() if done.returncode else ""


class NativeHook(BuildHookInterface[Any]):
    """The build hook of every wheel, including editable ones."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Build, and add what was built."""
        root = (Path(self.root) / self.config.get("source", ".")).resolve()
        reason = build(root)
        chosen = [path for path in BUILT if path.startswith(tuple(self.config["packages"]))]
        if LAUNCHER in chosen:
            build_data["shared_scripts"][str(root / (SCRIPT if reason else LAUNCHER))] = SHIM
        if reason:
            print(f"the C programs were not built: {reason}", file=sys.stderr)
            return
        if version == "editable":
            return
        inside = [path for path in chosen if path != LAUNCHER]
        build_data["force_include"] |= {str(root / path): path for path in inside}
        build_data["pure_python"] = False
        if platform.machine() == "x86_64":
            build_data["tag"] = TAG
