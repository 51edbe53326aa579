"""Images with less than a shell in them: how CUDA processes are found there."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from shim.errors import InvalidArgument
from shim.simgpu import tools
from shim.simgpu.bundle import Settings
from tests.real.helpers_rig import PERIOD_S, Rig, refused

pytestmark = pytest.mark.timeout(120)

# What lsof prints with `-F pcn`, of what this test needs.
LSOF = """
import os
for pid in filter(str.isdigit, os.listdir("/proc")):
    try:
        print(f"p{pid}\\nc" + open(f"/proc/{pid}/comm").read().strip())
        for fd in os.listdir(f"/proc/{pid}/fd"):
            print(f"f{fd}\\nn" + os.readlink(f"/proc/{pid}/fd/{fd}"))
    except OSError:
        continue
"""


def rootfs(folder: Path, *, lsof: bool) -> Path:
    """Make a root filesystem with mount points for a Python, and perhaps an lsof."""
    for name in ("proc", "dev", "tmp", "usr/bin", "usr/lib", "usr/lib64", "usr/lib32"):
        (folder / name).mkdir(parents=True)
    for name in ("bin", "lib", "lib64", "lib32"):
        (folder / name).symlink_to(f"usr/{name}")
    for source in _python():
        (folder / source.lstrip("/")).mkdir(parents=True, exist_ok=True)
    interpreter = folder / tools.interpreter().lstrip("/")
    interpreter.parent.mkdir(parents=True, exist_ok=True)
    if lsof:
        program = folder / "usr/bin/lsof"
        program.write_text(f"#!{tools.interpreter()} -ISB\n{LSOF}", "utf-8")
        program.chmod(0o755)
    return folder


def _python() -> list[str]:
    """List the folders that hold the host's Python, without its programs."""
    wanted = [f"{os.path.realpath(sys.base_prefix)}/lib", "/usr/lib", "/usr/lib64"]
    return [path for path in dict.fromkeys(wanted) if Path(path).is_dir()]


def small_job(rig: Rig, folder: Path) -> list[int]:
    """Start a workload on that root filesystem; return its CUDA processes."""
    settings = Settings(processes=2, period_s=PERIOD_S)
    bundle = rig.sim.bundle("job", settings, inject_tool=False)
    python = tools.interpreter()
    (folder / python.lstrip("/")).touch()
    with rig.edited(bundle) as spec:
        spec["root"]["path"] = str(folder)
        kept = [m for m in spec["mounts"] if m["destination"].startswith(("/proc", "/dev", "/tmp"))]
        sources = [*_python(), python]
        extra = [
            {"destination": path, "type": "bind", "source": path, "options": ["bind", "ro"]}
            for path in sources
        ]
        spec["mounts"] = kept + extra
    rig.client.create("job", str(bundle))
    rig.client.start("job")
    return rig.sim.until_ready(rig.guest, "job").pids


@pytest.mark.parametrize("lsof", (True, False))
def test_processes_are_found_without_a_shell(rig: Rig, tmp_path: Path, lsof: bool) -> None:
    """With lsof alone, or by asking cuda-checkpoint: every process is frozen and comes back."""
    pids = small_job(rig, rootfs(tmp_path / "root", lsof=lsof))
    refused(InvalidArgument, lambda: rig.execute("job", "shell", "/bin/sh"))
    if not lsof:
        refused(InvalidArgument, lambda: rig.execute("job", "lsof", "/usr/bin/lsof"))

    made = rig.checkpoint("job")
    rig.restore("copy", made.image_path)

    assert [p.pid for p in made.processes] == pids
    assert rig.fine("job")
    assert rig.fine("copy")
