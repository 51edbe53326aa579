"""Containerd's CRI plugin with runc: the behaviour of containerd without our shim."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.containerd.builds import ContainerdBuild
from tests.containerd.config import Cri
from tests.containerd.conftest import make_ready
from tests.containerd.cri.client import Kubelet, Pod, Wanted, log_lines
from tests.containerd.harness import Containerd
from tests.containerd.image import PAUSE, REFERENCE
from tests.containerd.place import Place


@pytest.fixture(scope="module")
def cri(
    containerd_build: ContainerdBuild,
    place: Place,
    runc: Path,
    archive: Path,
    pause_archive: Path,
) -> Iterator[Containerd]:
    """Yield a containerd of each line with the CRI plugin, and the pause image."""
    plugin = Cri(sandbox_image=PAUSE)
    with Containerd(containerd_build, place, programs={"runc": runc}, cri=plugin) as made:
        make_ready(made, archive, pause_archive)
        yield made


@pytest.fixture
def kubelet(cri: Containerd) -> Iterator[Kubelet]:
    """Yield a client; afterwards remove the test's pods and check that nothing is left."""
    before = cri.look()
    with Kubelet(cri.address) as made:
        yield made
        assert made.pods() == []
    left = cri.left_behind(before)
    assert not left, "\n".join(left)


@pytest.fixture
def pod(cri: Containerd, kubelet: Kubelet) -> Iterator[Pod]:
    """Yield a running pod."""
    made = kubelet.run_pod("pod", cri.folder / "scratch" / "logs", cgroup=cri.cgroup)
    try:
        yield made
    finally:
        kubelet.remove_pod(made)


def test_the_plugin_is_ready(kubelet: Kubelet) -> None:
    """The runtime is ready, without network, and has the image."""
    assert kubelet.version().runtime_name == "containerd"
    assert kubelet.conditions()["RuntimeReady"]
    assert kubelet.has_image(REFERENCE)


def test_a_pod_with_two_containers(kubelet: Kubelet, pod: Pod) -> None:
    """Two containers of a pod run, take an exec each, write logs, and are stopped."""
    loop = ["sh", "-c", "echo begun; sleep 100"]
    wanted = [Wanted(name, REFERENCE, loop) for name in ("one", "two")]

    containers = [kubelet.run(pod, one) for one in wanted]

    assert kubelet.pod_state(pod) == "SANDBOX_READY"
    for container in containers:
        ran = kubelet.exec(container, "sh", "-c", "echo in; echo err >&2; exit 3")
        assert (ran.stdout, ran.stderr, ran.exit_code) == (b"in\n", b"err\n", 3)
        assert kubelet.stats(container).memory.working_set_bytes.value > 0
        kubelet.stop(container)
        assert kubelet.until_exited(container).exit_code == 137
    assert [log_lines(pod, one) for one in wanted] == [["begun"], ["begun"]]


def test_an_exit_code_is_seen(kubelet: Kubelet, pod: Pod) -> None:
    """The exit code of a container that exits is reported."""
    container = kubelet.run(pod, Wanted("ends", REFERENCE, ["sh", "-c", "exit 7"]))

    assert kubelet.until_exited(container).exit_code == 7
