"""`cryo selftest` on real runsc."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from shim.selftest.command import CANNOT_RUN
from tests.builds import RunscBuild

pytestmark = pytest.mark.timeout(120)
ROOT = Path(__file__).parents[2]


def selftest(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run it as a person would."""
    argv = [sys.executable, "-m", "shim.selftest", *arguments]
    return subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False, timeout=100)


def test_everything_comes_back(runsc: RunscBuild, engine: str, tmp_path: Path) -> None:
    """With each engine of each version the selftest passes; the image stays where it was asked."""
    image = tmp_path / "kept"
    options = ["--engine", engine, "--processes", "2", "--json", "--keep-image", str(image)]
    done = selftest("--runsc", str(runsc.path), *options)
    report = json.loads(done.stdout)

    assert (done.returncode, report["error"], report["losses"]) == (0, "", [])
    assert report["engine"] == engine
    assert {proof["kind"] for proof in report["proofs"]} == {"gpu", "cpu", "file"}
    assert all(proof["same"] for proof in report["proofs"])
    assert (image / "cryo.json").exists()
    assert done.stderr == ""


def test_runsc_that_cannot_run_gives_its_own_status() -> None:
    """A runsc that fails at once gives 77 and one line."""
    done = selftest("--runsc", "/bin/false")

    assert (done.returncode, done.stdout) == (CANNOT_RUN, "")
    assert len(done.stderr.splitlines()) == 1
