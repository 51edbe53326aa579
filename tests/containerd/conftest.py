"""Fixtures: a real containerd of each line, in a place of its own."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from hack.tools.running import NotHere
from shim.simgpu import toml
from shim.simgpu.simulation import Simulation
from tests.builds import RunscBuild, excuse, find_program
from tests.containerd import gpu, image
from tests.containerd.api import Api
from tests.containerd.builds import LINES, ContainerdBuild
from tests.containerd.cri.client import Kubelet
from tests.containerd.cryo import FLAGS, Cryo, simulated
from tests.containerd.harness import Containerd
from tests.containerd.image import REFERENCE
from tests.containerd.kubelet_pod import KubeletPod, Pods
from tests.containerd.place import Place, private_place
from tests.containerd.sidecar import write_rootfs


@pytest.fixture(scope="session", autouse=True)
def require_root() -> None:
    """Skip these tests if we are not root, or fail them in CI."""
    if os.geteuid() != 0:
        excuse("containerd needs root")


def program(tool: str, name: str = "") -> Path:
    """Return a program that the test needs; skip the test if it is missing, or fail it in CI."""
    try:
        return find_program(tool, name)
    except NotHere as no:
        excuse(str(no))


def build_of(line: str) -> ContainerdBuild:
    """Return a containerd that the test needs; skip the test if it is missing, or fail it in CI."""
    return ContainerdBuild(line, program(f"containerd-{line}").parent)


@pytest.fixture(scope="session", params=LINES)
def containerd_build(request: pytest.FixtureRequest) -> ContainerdBuild:
    """Return the containerd of each line in turn."""
    return build_of(request.param)


@pytest.fixture(scope="session")
def runc() -> Path:
    """Return the runc of the tests."""
    return program("runc")


@pytest.fixture(scope="session")
def docker_build() -> Path:
    """Return Debian's dockerd, with its client beside it."""
    return program("docker")


@pytest.fixture(scope="session")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the archive of the small image."""
    return image.write(tmp_path_factory.mktemp("image") / "cryobox.tar", program("busybox"))


@pytest.fixture(scope="session")
def pause_archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the archive of the image that pods are made of."""
    path = tmp_path_factory.mktemp("image") / "cryopause.tar"
    return image.write_pause(path, program("busybox"))


def make_ready(node: Containerd, *archives: Path, handler: str = "") -> None:
    """Import the images into a node, and run a first pod, which creates shared directories."""
    for one in archives:
        node.import_image(one)
    with Kubelet(node.address) as first:
        first.warm_up(node.folder / "scratch", REFERENCE, handler=handler, cgroup=node.cgroup)


@pytest.fixture(scope="module")
def place() -> Iterator[Place]:
    """Yield a private place with the host's /dev."""
    with private_place() as made:
        yield made


@pytest.fixture(scope="module")
def containerd(
    containerd_build: ContainerdBuild, place: Place, runc: Path, archive: Path
) -> Iterator[Containerd]:
    """Yield a running containerd of each line, with runc and the small image."""
    with Containerd(containerd_build, place, programs={"runc": runc}) as made:
        made.import_image(archive)
        # The first container creates directories that all later ones share.
        made.run("first", "true")
        yield made


@pytest.fixture(scope="session")
def simulation(runsc_new: RunscBuild) -> Iterator[Simulation]:
    """Yield a machine with a simulated GPU."""
    with Simulation(runsc_new.path) as made:
        yield made


@pytest.fixture(scope="session")
def gpu_place(simulation: Simulation) -> Place:
    """Return a private place with a GPU in its /dev."""
    return gpu.place_of(simulation)


@pytest.fixture(scope="session")
def cryo(
    containerd_build: ContainerdBuild, simulation: Simulation, gpu_place: Place, archive: Path
) -> Iterator[Cryo]:
    """Yield a running containerd of each line with our shim, on a machine with a GPU."""
    with simulated(containerd_build, simulation, gpu_place) as made:
        made.import_image(archive)
        # The first container starts the fork server and creates shared directories.
        made.run("first", "true")
        made.know()
        yield made


@pytest.fixture
def nothing_left(cryo: Cryo) -> Iterator[None]:
    """Check that the test has left nothing behind."""
    yield
    cryo.expect_nothing_new()


@pytest.fixture(scope="module")
def kubelet_root(place: Place) -> Path:
    """Return the root directory of a kubelet."""
    return place.folder_for("kubelet")


@pytest.fixture(scope="module")
def pod_node(place: Place, kubelet_root: Path, runsc: RunscBuild, archive: Path) -> Iterator[Cryo]:
    """Yield the newest containerd with each runsc, for pods with volumes of a kubelet."""
    settings: toml.Tables = {"pods": {"kubelet": str(kubelet_root), "restore": True}}
    build = build_of("2.4")
    # The older one sets up no network on newer kernels.
    flags = {} if runsc.has_builtin else FLAGS
    with Cryo(build, place, runsc.path, flags=flags, settings=settings) as made:
        # The first container starts the fork server and creates shared directories; so does umount.
        made.import_image(archive)
        made.run("first", "true")
        place.do("mkdir", "-p", "/run/mount")
        yield made


@pytest.fixture
def pods(pod_node: Cryo, kubelet_root: Path) -> Iterator[Pods]:
    """Yield what makes a pod; afterwards all are removed, with nothing left of them."""
    rootfs = write_rootfs(
        pod_node.folder / "scratch" / pod_node.fresh("rootfs"), program("busybox")
    )
    before = pod_node.look()
    with Api(pod_node) as api, contextlib.ExitStack() as stack:

        def make() -> KubeletPod:
            pod = KubeletPod(pod_node, api, rootfs, kubelet_root)
            stack.callback(pod.remove)
            return pod

        yield make
    shutil.rmtree(rootfs)
    left = pod_node.left_behind(before)
    assert not left, "\n".join(left)
