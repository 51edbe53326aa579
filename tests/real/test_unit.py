"""The unit of packaging/systemd: valid, bounded, and with privileges that are enough."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from shim.simgpu.simulation import Simulation
from tests.builds import RunscBuild, excuse
from tests.real.helpers_rig import Rig

UNIT = Path(__file__).parents[2] / "packaging/systemd/cryo.service"
# The exposure that systemd-analyze computes, times ten, for what the comment in the unit excludes.
EXPOSURE = 89


def systemd_analyze(tmp_path: Path, *argv: str) -> str:
    """Run it on the unit, with a program that exists; return its output, and check its status."""
    if shutil.which("systemd-analyze") is None:
        excuse("there is no systemd-analyze")
    unit = tmp_path / UNIT.name
    unit.write_text(UNIT.read_text("utf-8").replace("/usr/local/bin/cryo", "/bin/true"), "utf-8")
    done = subprocess.run(
        ["systemd-analyze", *argv, str(unit)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_the_unit_is_valid(tmp_path: Path) -> None:
    """No line of it is unknown or ignored."""
    assert systemd_analyze(tmp_path, "verify") == ""


def test_the_unit_is_no_more_exposed(tmp_path: Path) -> None:
    """Its exposure, as systemd computes it from the file, does not rise."""
    systemd_analyze(tmp_path, "security", "--offline=true", f"--threshold={EXPOSURE}")


def dropped() -> list[str]:
    """Return the capabilities that the unit takes away."""
    lines = re.findall(r"^CapabilityBoundingSet=~(.*)$", UNIT.read_text("utf-8"), re.MULTILINE)
    return [name.removeprefix("CAP_").lower() for line in lines for name in line.split()]


class Bounded(Simulation):
    """A machine whose sidecar is started with the unit's privileges, as systemd would start it."""

    _FLAGS = ("--no-new-privs", "--bounding-set=" + ",".join(f"-{name}" for name in dropped()))
    _CODE = (
        "import os, sys; os.umask(0o077); "
        f"os.execvp('setpriv', ['setpriv', *{_FLAGS!r}, sys.executable, *sys.argv[1:]])"
    )
    serve = ("-c", _CODE, *Simulation.serve)


@pytest.mark.timeout(120)
def test_its_privileges_are_enough(runsc: RunscBuild) -> None:
    """A sidecar with them runs, saves, ends and restores a task with GPU processes."""
    if shutil.which("setpriv") is None:
        excuse("there is no setpriv")
    assert "\nNoNewPrivileges=yes\n" in UNIT.read_text("utf-8")
    with Bounded(runsc.path) as sim:
        pid = sim.start_sidecar()
        rig = Rig(sim, runsc)
        rig.workload("job", processes=2)
        made = rig.checkpoint("job", exit=True)
        rig.restore("copy", made.image_path)

        assert rig.fine("copy")
        said = sim.remote.run(["cat", f"/proc/{pid}/status"], timeout_s=10).out
    assert "NoNewPrivs:\t1\n" in said
