"""The limits of [store] hold for checkpoints of containerd's tasks, which their shims make."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from shim.simgpu.simulation import wait_until
from tests.builds import RunscBuild
from tests.containerd.beside import serving
from tests.containerd.builds import ContainerdBuild
from tests.containerd.cryo import Cryo
from tests.containerd.place import Place

# An image has these 20 MiB, and is expected to have less than twice as much.
FILLED = "dd if=/dev/urandom of=/dev/shm/data bs=1M count=20; touch /ready; exec sleep 1000"


@pytest.fixture
def limited(
    containerd_build: ContainerdBuild, place: Place, runsc_new: RunscBuild, archive: Path
) -> Iterator[Cryo]:
    """Yield a containerd whose shims have a quota for images."""
    settings = {"store": {"quota": "55MiB"}}
    with Cryo(containerd_build, place, runsc_new.path, settings=settings) as made:
        made.import_image(archive)
        yield made


def test_a_shim_makes_space(limited: Cryo) -> None:
    """The image before goes for the next one; a pinned one does not, and the task runs on."""
    with serving(limited) as client, limited.container("sh", "-c", FILLED) as name:
        test = ("test", "-e", "/ready")
        wait_until(lambda: limited.exec(name, *test, check=False).status == 0, "the data", 60)
        first = client("tasks", "checkpoint", name).out.strip()
        second = client("tasks", "checkpoint", name).out.strip()

        assert first != second
        assert client("checkpoints", "ls", "--quiet").out.split() == [second]
        client("checkpoints", "tag", second, "job:warm")
        client("checkpoints", "pin", "job:warm")
        refused = client("tasks", "checkpoint", name, check=False)
        assert refused.status != 0
        assert "1 image is pinned" in refused.err
        assert client("checkpoints", "ls", "--quiet").out.split() == [second]
        assert limited.status(name) == "RUNNING"
