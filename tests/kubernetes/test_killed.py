"""The kubelet, containerd or a shim is killed while a warm pod starts: it runs in the end."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from shim.simgpu.waiting import wait_until
from tests.containerd import leftovers, look
from tests.containerd.cri.client import Kubelet as Client
from tests.containerd.cryo import Cryo
from tests.kubernetes.cluster import Cluster
from tests.kubernetes.objects import Document
from tests.kubernetes.registered import Kubelet
from tests.kubernetes.template import BIRTH, BOOTED, small

BOOT_S = 5
_STEP_S = 60.0
# The kubelet removes ended sandboxes once a minute.
_SETTLE_S = 180.0
_CGROUPS = Path("/sys/fs/cgroup")


class Machine:
    """The node, with what can be killed on it."""

    def __init__(self, cluster: Cluster, node: Cryo, kubelet: Kubelet) -> None:
        self.cluster = cluster
        self.node = node
        self.kubelet = kubelet

    def begin(self, pod: Document) -> int:
        """Create a pod; return the pid of its sandbox as soon as there is one."""
        before = set(self.node.tasks())
        self.cluster.objects.create(pod)
        pids: list[int] = []

        def begun() -> bool:
            pids[:] = [pid for name, (pid, _) in self.node.tasks().items() if name not in before]
            return bool(pids) and pids[0] > 0

        wait_until(begun, "the sandbox", _STEP_S)
        return pids[0]

    def birth(self, pod: Document) -> str:
        """Return what a pod wrote at its cold start."""
        return self.cluster.exec(pod, "app", "cat", BIRTH)


def kill_kubelet(machine: Machine, _sandbox: int) -> None:
    """Kill the kubelet, and start the next one."""
    machine.kubelet.kill()
    machine.kubelet.start()


def kill_containerd(machine: Machine, _sandbox: int) -> None:
    """Kill containerd, and start the next one."""
    machine.node.kill()
    machine.node.start()
    with Client(machine.node.address) as runtime:
        runtime.until_ready()


def kill_shim(_machine: Machine, sandbox: int) -> None:
    """Kill the shim of the pod, and with it the sandbox."""
    os.kill(look.parent_of(sandbox), signal.SIGKILL)


KILLS: Mapping[str, Callable[[Machine, int], None]] = {
    "kubelet": kill_kubelet,
    "containerd": kill_containerd,
    "shim": kill_shim,
}


@pytest.fixture(scope="module")
def machine(cluster: Cluster, node: Cryo, kubelet: Kubelet, root: Path) -> Iterator[Machine]:
    """Yield the node; at the end check that its pods have left nothing behind."""
    # The first pod creates these, and all later ones share them.
    parents = [f"{one}/kubepods/besteffort" for one in _CGROUPS.glob(f"*/{node.cgroup}")]
    node.place.do("mkdir", "-p", "/run/netns", *parents)
    before = node.look()
    yield Machine(cluster, node, kubelet)
    # The next daemons are other processes, and the fork server of a node goes on.
    ours = (
        f"{kubelet.folder}/bin/kubelet",
        "shim.entry.shimbin.forkserver",
        f"{node.state}/runsc/",
        "/cold-pods",
    )
    left = leftovers.left_behind(
        node.place, str(node.folder), node.cgroup, before, ours, timeout_s=_SETTLE_S
    )
    assert not left, "\n".join(left)
    assert list((root / "pods").iterdir()) == []


def warm(name: str) -> dict[str, str]:
    """Return the annotations of a warm start."""
    return {
        "io.cryo.warm": name,
        "io.cryo.warm-when": f"file:{BOOTED}",
        "io.cryo.warm-period": "0.5",
    }


@pytest.mark.long
@pytest.mark.timeout(480)
@pytest.mark.parametrize("killed", KILLS)
def test_killed_in_a_cold_start(machine: Machine, killed: str) -> None:
    """The pod starts all the same, and is saved; the next one is restored."""
    cluster, name = machine.cluster, f"cold-{killed}"
    notes = warm(name)
    first, second = (
        small(f"{name}-{number}", node=cluster.node, annotations=notes, boot_s=BOOT_S)
        for number in (1, 2)
    )

    KILLS[killed](machine, machine.begin(first))

    cluster.until_ready(first)
    cluster.until_saved(name)
    cluster.start(second)
    assert machine.birth(second) == machine.birth(first)
    cluster.remove(first, second)


@pytest.mark.long
@pytest.mark.timeout(480)
@pytest.mark.parametrize("killed", KILLS)
def test_killed_in_a_warm_start(machine: Machine, killed: str) -> None:
    """The pod starts, warm or cold, and the image serves the next one."""
    cluster, name = machine.cluster, f"warm-{killed}"
    notes = warm(name)
    saved, second, third = (
        small(f"{name}-{number}", node=cluster.node, annotations=notes, boot_s=BOOT_S)
        for number in (1, 2, 3)
    )
    cluster.start(saved)
    cluster.until_saved(name)

    KILLS[killed](machine, machine.begin(second))

    cluster.until_ready(second)
    cluster.start(third)
    births = {machine.birth(saved), machine.birth(second)}
    assert machine.birth(third) in births
    cluster.remove(saved, second, third)
