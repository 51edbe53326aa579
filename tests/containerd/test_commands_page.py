"""The overview of docs/commands.md does what it says, with a sidecar and a /srv of its own."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from shim.entry.shimbin import paths
from shim.simgpu.waiting import START_S, environment, wait_until
from tests.builds import RunscBuild
from tests.containerd import cryo
from tests.containerd.conftest import program
from tests.containerd.place import Place
from tests.containerd.sidecar import write_rootfs
from tests.documents import blocks_run_by

THIS = "tests/containerd/test_commands_page.py::test_commands"
LIMIT_S = 120.0
SPEC = {
    "ociVersion": "1.0.2",
    "process": {
        "user": {"uid": 0, "gid": 0},
        "args": ["sh", "-c", cryo.COUNT],
        "env": ["PATH=/bin"],
        "cwd": "/",
    },
    "root": {"path": "rootfs"},
    "mounts": [{"destination": "/proc", "type": "proc", "source": "proc"}],
    "linux": {"namespaces": [{"type": kind} for kind in ("pid", "network", "mount", "ipc", "uts")]},
}


@pytest.fixture
def address(place: Place, runsc: RunscBuild) -> Iterator[str]:
    """Yield the address of a sidecar in a place that has the bundle of the page in its /srv."""
    folder = place.folder_for("tour")
    bundle = folder / "srv/job"
    write_rootfs(bundle / "rootfs", program("busybox"))
    (bundle / "config.json").write_text(json.dumps(SPEC), "utf-8")
    place.do("mount", "--bind", str(folder / "srv"), "/srv")
    config = cryo.write_config(folder, runsc.path, cryo.FLAGS, {})
    argv = [sys.executable, "-m", "shim.entry.cli", "serve", "--config", str(config)]
    pid = place.remote.spawn(argv, output=folder / "sidecar.log", env=environment())
    try:
        wait_until(lambda: paths.answers(f"{folder}/cryo.sock"), "the sidecar", START_S)
        yield f"unix://{folder}/cryo.sock"
        # What remains of a task would be left on the host: its cgroup.
        client = [sys.executable, "-m", "shim.entry.cli", "-a", f"unix://{folder}/cryo.sock"]
        listed = json.loads(place.do(*client, "--output", "json", "tasks", "ls"))
        for task in listed:
            place.do(*client, "tasks", "delete", "--force", task["id"])
    finally:
        place.remote.kill(pid, signal.SIGTERM)
        place.remote.wait(pid, START_S)


def test_commands(place: Place, address: str) -> None:
    """Each command succeeds, in the order of the page; all copies run at its end."""
    end = "cryo --output json tasks ls > /srv/tasks.json"
    script = "\n".join(["set -euo pipefail", *blocks_run_by("docs/commands.md", THIS), end])
    path = f"{Path(sys.executable).parent}:{environment()['PATH']}"
    env = {**environment(), "PATH": path, "CRYO_ADDRESS": address}

    ran = place.remote.run(["bash", "-c", script], timeout_s=LIMIT_S, env=env)

    assert ran.status == 0, f"{ran.out}\n{ran.err}"
    listed = json.loads(place.do("cat", "/srv/tasks.json"))
    names = {"job", "job-2", "job-3", *(f"copy-{number}" for number in range(1, 5))}
    assert {task["id"] for task in listed if task["state"] == "running"} == names
