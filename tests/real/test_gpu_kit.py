"""The kit for a bare GPU machine: made here, run without network up to the first device call."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from hack.tools.running import NotHere
from tests.builds import RunscBuild, excuse, find_program
from tests.containerd.builds import LINES, find_containerd

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.timeout(600)


@pytest.mark.long
def test_a_dry_run(runsc_new: RunscBuild, tmp_path: Path) -> None:
    """It installs from its own wheels alone, and names every step that a GPU is needed for."""
    kit, report = tmp_path / "kit", tmp_path / "report"
    argv = [sys.executable, "-m", "hack.gpu", str(kit), "--runsc", str(runsc_new.path)]
    made = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False)
    if made.returncode and "pip download" in made.stderr:
        excuse(f"the wheels cannot be fetched: {made.stderr.strip()}")
    assert made.returncode == 0, made.stderr

    argv = ["unshare", "--net", str(kit / "run.sh"), "--dry-run", str(report)]
    ran = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True, check=False)

    assert ran.returncode == 0, ran.stdout + ran.stderr
    steps = dict(line.split(maxsplit=1) for line in (report / "steps").read_text().splitlines())
    done = [name for name, status in steps.items() if status == "0"]
    assert done == ["machine", "venv", "install", "cryo", "runsc", "helper", "bench-loads"]
    assert all(status == "0" or status.startswith("not run") for status in steps.values())
    assert {"selftest-phased", "selftest-builtin", "pytorch-phased"} < set(steps)
    assert {"driver-alone", "trials", "containerd", "bench"} < set(steps)
    assert (report / "helper.out").read_text().strip().endswith("bin/cryo-cuda")
    assert (tmp_path / "report.tar.gz").exists()


@pytest.mark.long
def test_the_trials_on_a_simulated_gpu(runsc_new: RunscBuild) -> None:
    """What is done to a real GPU's workload on purpose can be done to a simulated one."""
    argv = [sys.executable, "-m", "hack.gpu.trials", "--simulated", "--runsc", str(runsc_new.path)]
    ran = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False)

    assert ran.returncode == 0, ran.stdout + ran.stderr
    seen = [json.loads(line) for line in ran.stdout.splitlines()]
    assert [(one["trial"], one["ok"]) for one in seen] == [
        ("copies", True),
        ("sidecar_killed", True),
        ("full_gpu", True),
    ]


@pytest.mark.long
def test_the_trial_under_containerd_without_a_gpu(runsc_new: RunscBuild) -> None:
    """The same steps of ctr do with a container that has none."""
    try:
        folder, busybox = find_containerd(LINES[-1]).folder, find_program("busybox")
    except NotHere as error:
        excuse(str(error))
    argv = [sys.executable, "-m", "hack.gpu.containerd", "--no-gpu", "--runsc", str(runsc_new.path)]
    argv += ["--containerd", str(folder), "--busybox", str(busybox)]
    ran = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False)

    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert json.loads(ran.stdout)["fine"] == {"resumed": True, "saved": True, "restored": True}
