"""Docker with runc: the behaviour of Docker without our shim."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.containerd.builds import find_containerd
from tests.containerd.conftest import program
from tests.containerd.docker import Dockerd
from tests.containerd.place import Place

IMAGE = "cryobox:1"


@pytest.fixture(scope="module")
def dockerd(place: Place, runc: Path, archive: Path, docker_build: Path) -> Iterator[Dockerd]:
    """Yield a running dockerd with runc and the small image."""
    program("containerd-1.7")
    containerd = find_containerd("1.7")
    with Dockerd(docker_build, containerd, place, programs={"runc": runc}) as made:
        made.docker("load", "--input", str(archive))
        made.docker("run", "--rm", "--network", "none", IMAGE, "true")
        yield made


@pytest.fixture(autouse=True)
def nothing_left(dockerd: Dockerd) -> Iterator[None]:
    """Check that the test has left nothing behind."""
    before = dockerd.look()
    yield
    left = dockerd.left_behind(before)
    assert not left, "\n".join(left)


def test_run_to_the_end(dockerd: Dockerd) -> None:
    """An attached run returns the container's output and exit code."""
    argv = ("run", "--rm", "--network", "none", IMAGE, "sh", "-c", "echo hello; exit 7")

    ran = dockerd.docker(*argv, check=False)

    assert (ran.out, ran.status) == ("hello\n", 7)


def test_a_container_that_stays(dockerd: Dockerd) -> None:
    """A detached container runs, takes an exec, logs, is killed and removed."""
    argv = ("run", "--detach", "--name", "stays", "--network", "none", IMAGE)
    dockerd.docker(*argv, "sh", "-c", "echo begun; sleep 100")

    assert dockerd.inspect("stays")["State"]["Running"]
    assert dockerd.docker("exec", "stays", "echo", "in").out == "in\n"
    assert dockerd.docker("logs", "stays").out == "begun\n"
    dockerd.docker("kill", "stays")
    assert dockerd.docker("wait", "stays").out == "137\n"
    dockerd.docker("rm", "stays")
