"""The node of a cluster, on which a test kills the kubelet, containerd or a shim.

A shim can be halted at a failpoint: it stops itself there, and whatever is killed then is killed
at that step.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from shim.errors import DeadlineExceeded
from shim.host.filelock import try_lock
from shim.simgpu.waiting import wait_until
from shim.transaction import journal
from tests.containerd import leftovers, look
from tests.containerd.cri.client import Kubelet as Client
from tests.containerd.cryo import Cryo
from tests.containerd.daemon import Daemon
from tests.faults import arming, trap
from tests.faults.trap import Deed, Trap
from tests.kubernetes.cluster import Cluster, is_ready, statuses_of
from tests.kubernetes.objects import Document
from tests.kubernetes.registered import Kubelet
from tests.kubernetes.template import BIRTH

_log = logging.getLogger(__name__)
_STEP_S = 120.0
# A pod whose sandbox was lost is started again, after a back-off.
_AGAIN_S = 240.0
# The kubelet removes ended sandboxes once a minute.
_SETTLE_S = 180.0
_CGROUPS = Path("/sys/fs/cgroup")
# Of a task; the kubelet removes one that has ended.
_AT_REST = ("RUNNING", "STOPPED")


class Machine:
    """The node, with what can be killed on it; its shims read a trap file."""

    def __init__(self, cluster: Cluster, node: Cryo, kubelet: Kubelet, trap_file: Path) -> None:
        self.cluster = cluster
        self.node = node
        self.kubelet = kubelet
        self._trap_file = trap_file

    # Where it is struck.

    def begin(self, pod: Document) -> int:
        """Create a pod; return the pid of its shim as soon as there is a sandbox."""
        before = set(self.node.tasks())
        self.cluster.objects.create(pod)
        pids: list[int] = []

        def begun() -> bool:
            pids[:] = [pid for name, (pid, _) in self.node.tasks().items() if name not in before]
            return bool(pids) and pids[0] > 0

        wait_until(begun, "the sandbox", _STEP_S)
        return look.parent_of(pids[0])

    def halt(self, pod: Document, point: str, nth: int = 1) -> int:
        """Create a pod; return the pid of a shim that has halted at a failpoint."""
        hit = trap.hit_of(self._trap_file)
        trap.put(self._trap_file, Trap(deed=Deed.HALT, point=point, nth=nth))
        try:
            self.cluster.objects.create(pod)
            wait_until(lambda: hit.exists() and bool(arming.halted(self.node)), point, _STEP_S)
        finally:
            trap.remove(self._trap_file)
        (found,) = arming.halted(self.node)
        return found

    # Afterwards.

    def until_runs(self, pod: Document) -> None:
        """Wait until a pod is ready, and its containers are those that run now."""

        def runs() -> bool:
            found = self.cluster.read(pod)
            if not is_ready(found):
                return False
            ids = [one["containerID"].rpartition("/")[2] for one in statuses_of(found)]
            tasks = self.node.tasks()
            return all(tasks.get(one, (0, ""))[1] == "RUNNING" for one in ids)

        wait_until(runs, f"pod {pod['metadata']['name']} to run", _AGAIN_S)

    def save(self, pod: Document, name: str) -> str:
        """Start a pod and remove it when it is saved; return what is in the image."""
        self.cluster.start(pod)
        self.cluster.until_saved(name)
        birth = self.birth(pod)
        self.cluster.remove(pod)
        return birth

    def until_saved(self, first: Document, second: Document, name: str) -> None:
        """Wait until a pod that was struck runs and is saved; restore the next one from that."""
        self.until_runs(first)
        self.cluster.until_saved(name)
        self.cluster.start(second)
        assert self.birth(second) == self.birth(first)

    def until_served(self, second: Document, third: Document, birth: str) -> None:
        """Wait for a pod that was struck and for the next one, which an image serves."""
        self.until_runs(second)
        own = self.birth(second)
        _log.info("pod %s: %s", second["metadata"]["name"], "warm" if own == birth else "cold")
        self.cluster.start(third)
        assert self.birth(third) in {birth, own}

    def end(self, *pods: Document) -> None:
        """Check that all is at rest, and remove the pods."""
        self.assert_at_rest()
        self.cluster.remove(*pods)

    def birth(self, pod: Document) -> str:
        """Return what a pod wrote at its cold start."""
        return self.cluster.exec(pod, "app", "cat", BIRTH)

    def assert_at_rest(self) -> None:
        """Check that no operation is under way or half done, and that nothing is frozen.

        That is: there is no journal, no unfinished image, no lock that is held, and no task or shim
        that has stopped. All of these end soon after the operation that was interrupted.
        """
        left: list[str] = []

        def at_rest() -> bool:
            left[:] = self._under_way()
            return not left

        with contextlib.suppress(DeadlineExceeded):
            wait_until(at_rest, "the end of what was interrupted", _STEP_S)
        assert not left, "\n".join(left)

    def _under_way(self) -> list[str]:
        found = [f"journal: {path}" for path in self._state_files(journal.NAME)]
        images = self.node.folder / "images"
        found += [f"unfinished: {path}" for path in images.rglob(".cryo-staging-*")]
        found += [f"locked: {path}" for path in images.rglob(".lock") if _is_locked(path)]
        tasks = self.node.tasks().items()
        found += [f"{name}: {status}" for name, (_, status) in tasks if status not in _AT_REST]
        return found + [f"halted: {pid}" for pid in arming.halted(self.node)]

    def _state_files(self, name: str) -> list[str]:
        argv = ["find", str(self.node.state), "-name", name]
        return self.node.place.remote.run(argv).out.split()


def _is_locked(path: Path) -> bool:
    lock = try_lock(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
    if lock is None:
        return True
    os.close(lock)
    return False


# What is killed.


def _end(daemon: Daemon, shim: int) -> None:
    """Kill a daemon while the shim is halted: containerd waits 5 s for a shim that it cleans up."""
    os.kill(daemon.pid, signal.SIGKILL)
    os.kill(shim, signal.SIGCONT)
    daemon.kill()


def kill_kubelet(machine: Machine, shim: int) -> None:
    """Kill the kubelet, and start the next one."""
    _end(machine.kubelet, shim)
    machine.kubelet.start()


def kill_containerd(machine: Machine, shim: int) -> None:
    """Kill containerd, and start the next one, which asks the shims that it finds."""
    _end(machine.node, shim)
    machine.node.start()
    with Client(machine.node.address) as runtime:
        runtime.until_ready()


def kill_shim(_machine: Machine, shim: int) -> None:
    """Kill the shim of the pod, and with it the sandbox."""
    os.kill(shim, signal.SIGKILL)


KILLS: Mapping[str, Callable[[Machine, int], None]] = {
    "kubelet": kill_kubelet,
    "containerd": kill_containerd,
    "shim": kill_shim,
}


@contextlib.contextmanager
def clean_machine(machine: Machine, root: Path) -> Iterator[Machine]:
    """Yield the node; at the end check that its pods have left nothing behind."""
    node, kubelet = machine.node, machine.kubelet
    # The first pod or exec creates these, and all later ones share them.
    parents = [f"{one}/kubepods/besteffort" for one in _CGROUPS.glob(f"*/{node.cgroup}")]
    node.place.do("mkdir", "-p", "/run/netns", "/run/containerd/fifo", *parents)
    before = node.look()
    yield machine
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
