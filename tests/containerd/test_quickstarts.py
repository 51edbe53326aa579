"""The quickstarts of docs/ do what they say: their command blocks, in order, in one shell."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from shim.image import named_use
from shim.simgpu.remote import Ran
from shim.simgpu.waiting import wait_until
from tests.builds import RunscBuild
from tests.containerd import cryo
from tests.containerd.beside import serving
from tests.containerd.builds import find_containerd
from tests.containerd.conftest import program
from tests.containerd.cryo import Cryo
from tests.containerd.docker import Dockerd
from tests.containerd.image import REFERENCE
from tests.containerd.place import Place
from tests.documents import blocks_run_by

LIMIT_S = 200.0
CTR = "tests/containerd/test_quickstarts.py::test_ctr"
DOCKER = "tests/containerd/test_quickstarts.py::test_docker"


def run_blocks(place: Place, page: str, test: str, env: Mapping[str, str]) -> Ran:
    """Run the blocks of a page that it says this test runs; a failed command fails all."""
    script = "\n".join(["set -euo pipefail", *blocks_run_by(page, test)])
    path = f"{Path(sys.executable).parent}:{env['PATH']}"
    ran = place.remote.run(["bash", "-c", script], timeout_s=LIMIT_S, env={**env, "PATH": path})
    assert ran.status == 0, f"{ran.out}\n{ran.err}"
    return ran


def counts(output: str) -> list[int]:
    """Return the lines that are a number: what `look` printed."""
    return [int(line) for line in output.splitlines() if re.fullmatch(r"\d+", line)]


@pytest.fixture
def node(runsc: RunscBuild, place: Place, archive: Path) -> Iterator[Cryo]:
    """Yield the newest containerd with our shim and the small image."""
    program("containerd-2.4")
    with Cryo(find_containerd("2.4"), place, runsc.path) as made:
        made.import_image(archive)
        made.run("before", "true")
        yield made


def test_ctr(node: Cryo) -> None:
    """Both copies count on: the one of the checkpoint, and the one of the warm start."""
    before = node.look()
    with serving(node) as client:
        ran = run_blocks(
            node.place,
            "docs/quickstart-ctr.md",
            CTR,
            {
                **node.env,
                "IMAGE": REFERENCE,
                "CONTAINERD_ADDRESS": str(node.address),
                "CONTAINERD_NAMESPACE": node.namespace,
                "CONTAINERD_SNAPSHOTTER": "native",
                "CRYO_ADDRESS": f"unix://{client.socket}",
                "CRYO_NAMESPACE": node.namespace,
            },
        )

    first, copy, _ = counts(ran.out)
    assert copy >= first
    assert re.search(r"^NAME +HITS .*\ncounter +1 +1 ", ran.out, re.MULTILINE), ran.out
    assert not node.tasks()
    left = node.left_behind(before, (f"{node.state}/",))
    assert not left, "\n".join(left)


def test_docker(
    runsc: RunscBuild, place: Place, runc: Path, archive: Path, docker_build: Path
) -> None:
    """Both count, and the second one is restored from the image of the first one."""
    program("containerd-1.7")
    folder = place.folder_for("dc")
    config = cryo.write_config(folder, runsc.path, cryo.FLAGS, {})
    with Dockerd(
        docker_build,
        find_containerd("1.7"),
        place,
        programs={"runc": runc, cryo.LAUNCHER: cryo.write_launcher(folder)},
        runtimes={"cryo": cryo.RUNTIME},
        env={"CRYO_CONFIG": str(config)},
    ) as daemon:
        daemon.docker("load", "--input", str(archive))
        env = {**daemon.env, "IMAGE": REFERENCE, "CRYO_IMAGES": str(folder / "images")}

        ran = run_blocks(place, "docs/quickstart-docker.md", DOCKER, env)

        assert len(counts(ran.out)) == 2, ran.out
        (use,) = (folder / "images").rglob(named_use.USE)
        wait_until(lambda: named_use.read(use.parent).hits == 1, "the count of the restore", 60)
