"""What sandboxes, gofers and containers get of the sidecar's environment and umask."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from tests.real.helpers_rig import Output, Rig

pytestmark = pytest.mark.timeout(120)

NEEDED = {
    "PATH",
    "HOME",
    "LANG",
    "LC_ALL",
    "LC_CTYPE",
    "TZ",
    "TMPDIR",
    "XDG_RUNTIME_DIR",
    "LD_LIBRARY_PATH",
}


def variables(pid: int) -> set[str]:
    """Name what is in a process's environment."""
    raw = Path(f"/proc/{pid}/environ").read_bytes()
    return {os.fsdecode(line).partition("=")[0] for line in raw.split(b"\0") if line}


def test_no_secret_of_the_sidecar_reaches_a_sandbox(rig: Rig) -> None:
    """Sandbox and gofer have of our environment what runsc needs, and nothing else."""
    sidecar = variables(rig.sim.sidecar_pid)
    assert "PYTHONPATH" in sidecar  # so that there is something to hide

    rig.sleeper("bare")

    processes = rig.sandboxes()
    assert len(processes) >= 2
    for pid in processes:
        if pid != rig.sim.sidecar_pid:
            assert variables(pid) <= NEEDED


def test_a_container_has_the_usual_umask(rig: Rig) -> None:
    """What a container makes is as open as with any runtime, though ours is for us alone."""
    rig.sleeper("open")

    made = "umask; touch /tmp/a; mkdir /tmp/b; stat -c %a /tmp/a /tmp/b"
    ran = rig.guest.exec("open", ["/bin/sh", "-c", made])

    assert ran.out.split() == ["0022", "644", "755"]


def test_files_of_the_sidecar_are_its_own(rig: Rig) -> None:
    """A log and what lies in the state folder can be read by root alone."""
    output = Output(rig, "private")
    rig.program("private", "/bin/sh", "-c", "echo hello; exec sleep 1000", stdio=output.stdio)
    output.until("hello")

    assert stat.S_IMODE(output.path.stat().st_mode) == 0o600
    state = rig.sim.folder / "state"
    runscs = {"runsc.log", "init.pid"}  # below a folder of 0700, as all of these
    ours = [
        path
        for path in state.rglob("*")
        if path.is_file() and "runsc" not in path.parts and path.name not in runscs
    ]
    assert ours
    assert [path for path in ours if stat.S_IMODE(path.stat().st_mode) & 0o077] == []
