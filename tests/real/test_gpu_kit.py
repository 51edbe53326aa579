"""The kit for a bare GPU machine: made here, run without network up to the first device call."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.builds import RunscBuild, excuse

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.timeout(600)


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
    assert {"selftest-phased", "selftest-builtin", "bench"} < set(steps)
    assert (report / "helper.out").read_text().strip().endswith("bin/cryo-cuda")
    assert (tmp_path / "report.tar.gz").exists()
