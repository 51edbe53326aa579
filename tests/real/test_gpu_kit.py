"""The kit for a bare GPU machine: made here, run without network up to the first device call."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from hack.tools.running import NotHere
from shim.simgpu import pytorch
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
    loads = ["hack.gpu.sizes-loads", "hack.gpu.llm-loads", "hack.bench.zero_pages-loads"]
    own = ["machine", "venv", "install", "cryo", "runsc", "helper", "bench-loads"]
    assert done == [*own, *loads]
    assert all(status == "0" or status.startswith("not run") for status in steps.values())
    assert {"selftest-phased", "selftest-builtin", "pytorch-phased"} < set(steps)
    assert {"driver-alone", "trials", "containerd", "bench"} < set(steps)
    assert {"sizes-1024-huge-on", "sizes-65536-huge-off", "llm-8-phased"} < set(steps)
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


@pytest.mark.long
def test_every_way_by_size_on_a_simulated_gpu(runsc_new: RunscBuild) -> None:
    """Each checkpoint, park and restore leaves all memory intact, and has its timeline."""
    argv = [sys.executable, "-m", "hack.gpu.sizes", "--simulated", "--mib", "8"]
    argv += ["--runsc", str(runsc_new.path)]
    ran = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False)

    assert ran.returncode == 0, ran.stdout + ran.stderr
    seen = [json.loads(line) for line in ran.stdout.splitlines()]
    done = [one for one in seen if one["what"] != "compare"]
    assert [one["what"] for one in done] == [*["checkpoint"] * 4, "park", "unpark"] + [
        "restore"
    ] * 6
    assert all(one["timeline"]["operation"] == one["what"] for one in done)
    assert all(one["fine"] for one in seen if one["what"] == "compare")


@pytest.mark.long
def test_a_language_model_across_a_checkpoint(runsc_new: RunscBuild) -> None:
    """A server that was checkpointed while it answered, and its copy, make the same tokens."""
    if pytorch.find() is None:
        pytest.skip("no Python here has PyTorch")
    argv = [sys.executable, "-m", "hack.gpu.llm", "--cpu", "--tokens", "64", "--requests", "3"]
    argv += ["--runsc", str(runsc_new.path)]
    ran = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False)

    assert ran.returncode == 0, ran.stdout + ran.stderr
    seen = json.loads(ran.stdout)
    assert seen["same"] == seen["same_ids"] == {"original": True, "copy": True}
    assert 0 < seen["tokens_before_checkpoint"] < seen["tokens"]
    assert seen["different_tokens"] > 10
