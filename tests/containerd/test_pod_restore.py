"""Pods that are restored because their annotations name an image, by an unchanged CRI plugin."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path

import grpc
import pytest

from shim.bundle import LINK
from shim.simgpu import toml
from shim.simgpu.waiting import wait_until
from tests.builds import RunscBuild
from tests.containerd import look
from tests.containerd.beside import Beside, serving
from tests.containerd.builds import LINES, ContainerdBuild
from tests.containerd.config import Cri
from tests.containerd.conftest import make_ready
from tests.containerd.cri.client import Kubelet, Pod, Wanted, log_lines
from tests.containerd.cryo import RUNTIME, Cryo
from tests.containerd.image import PAUSE, REFERENCE
from tests.containerd.named import damaged
from tests.containerd.place import Place

# containerd 1.6 mounts /dev/shm twice, which runsc does not restore under another id. The old runsc
# needs no more than one containerd.
pytestmark = pytest.mark.parametrize(
    ("containerd_build", "runsc"),
    (
        *((line, "new") for line in LINES[1:]),
        pytest.param(LINES[1], "old", marks=pytest.mark.long),
    ),
    indirect=True,
)

HANDLER, NAME = "cryo", "tmpl"
_NAMESPACE = "team-a"
_COUNT = "i=0; while true; do i=$((i+1)); echo $i; echo $i > /count; sleep 0.1; done"
INIT = Wanted("init", REFERENCE, ["sh", "-c", "echo prepared"])
MORE = Wanted("more", REFERENCE, ["sh", "-c", _COUNT])
ONE, TWO = (Wanted(name, REFERENCE, ["sh", "-c", _COUNT]) for name in ("one", "two"))
OTHER = Wanted("two", REFERENCE, ["sh", "-c", f"true; {_COUNT}"])
_UNTIL_S = 60.0


@pytest.fixture(scope="module")
def node(
    containerd_build: ContainerdBuild,
    place: Place,
    runsc: RunscBuild,
    archive: Path,
    pause_archive: Path,
) -> Iterator[Cryo]:
    """Yield a containerd with the CRI plugin and our runtime, on which pods may be restored."""
    plugin = Cri(sandbox_image=PAUSE, runtimes={HANDLER: RUNTIME})
    settings: toml.Tables = {"pods": {"restore": True}}
    with Cryo(containerd_build, place, runsc.path, cri=plugin, settings=settings) as made:
        make_ready(made, archive, pause_archive, handler=HANDLER)
        yield made


class Cluster:
    """One node's kubelet, and a sidecar beside it, by which a pod is saved under a name."""

    def __init__(self, node: Cryo, kubelet: Kubelet, beside: Beside) -> None:
        self.node = node
        self.kubelet = kubelet
        self.beside = beside
        self.saved: dict[str, int] = {}
        self.image = Path()

    def pod(self, policy: str = "", *, again: Pod | None = None) -> Pod:
        """Run a sandbox, of a new pod or the same one again; with a policy it names the image."""
        named = {"io.cryo.restore": NAME, "io.cryo.restore-policy": policy}
        name = again.config.metadata.name if again else self.node.fresh("pod")
        return self.kubelet.run_pod(
            name,
            self.node.folder / "scratch" / self.node.fresh("logs"),
            handler=HANDLER,
            cgroup=self.node.cgroup,
            annotations=named if policy else {},
            namespace=_NAMESPACE,
            attempt=1 if again else 0,
        )

    def record(self, pod: Pod) -> dict[str, object]:
        """Read the record of a pod's sandbox."""
        link = self.node.bundles.parent / "k8s.io" / pod.id / LINK
        text = self.node.place.do("cat", f"{link.readlink()}/task.json")
        found: dict[str, object] = json.loads(text)
        return found

    def save(self) -> None:
        """Save a pod with a finished init container under the name, and remove it."""
        pod = self.pod("if-possible")
        self.run_init(pod)
        containers = {one.name: self.kubelet.run(pod, one) for one in (ONE, TWO)}
        for name, container in containers.items():
            self.saved[name] = count(self.kubelet, container)
        named = self.record(pod)["named"]
        assert isinstance(named, dict)
        folder = self.node.folder / "images/k8s.io" / _NAMESPACE / NAME / named["fingerprint"]
        folder.mkdir(parents=True, mode=0o700)
        self.image = folder / f"{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}"
        self.beside("tasks", "checkpoint", "--image-path", str(self.image), containers["one"])
        self.kubelet.remove_pod(pod)

    def run_init(self, pod: Pod) -> None:
        """Run the init container to its successful end, and remove it."""
        container = self.kubelet.run(pod, INIT)
        assert self.kubelet.until_exited(container).exit_code == 0
        self.kubelet.remove(container)


def count(kubelet: Kubelet, container: str) -> int:
    """Return how far a running container has counted."""
    text = b""
    while not text.strip():  # it is being written
        text = kubelet.exec(container, "cat", "/count").stdout
    return int(text)


@pytest.fixture(scope="module")
def cluster(node: Cryo) -> Iterator[Cluster]:
    """Yield a node with the image of a pod."""
    with serving(node, "k8s.io") as beside, Kubelet(node.address) as kubelet:
        made = Cluster(node, kubelet, beside)
        made.save()
        yield made


@pytest.fixture(autouse=True)
def nothing_left(cluster: Cluster) -> Iterator[None]:
    """Remove the test's pods, and check that nothing is left."""
    node, kubelet = cluster.node, cluster.kubelet
    before = node.look()
    yield
    kubelet.remove_pods(*kubelet.pods())
    ours = (f"{node.state}/runsc/", f"{node.state}/tasks/", "/cold-pods")
    left = node.left_behind(before, ours)
    assert not left, "\n".join(left)


def test_a_pod_comes_back_as_a_whole(cluster: Cluster) -> None:
    """All containers wait until the last Start; then those of the image go on where it was made.

    An init container is not run again, an additional one starts after the load, and probes, hooks
    and statistics meanwhile do no harm.
    """
    kubelet = cluster.kubelet
    pod = cluster.pod("always")
    cluster.run_init(pod)
    more, one = kubelet.run(pod, MORE), kubelet.run(pod, ONE)
    for container in (more, one):
        assert kubelet.state(container) == "CONTAINER_RUNNING"
        probe = kubelet.exec(container, "sh", "-c", "echo out; exit 3")
        assert (probe.exit_code, probe.stdout) == (0, b"")
        with pytest.raises(grpc.RpcError):
            kubelet.stats(container)
    assert [log_lines(pod, each) for each in (INIT, MORE, ONE)] == [[], [], []]
    assert kubelet.pod_state(pod) == "SANDBOX_READY"

    two = kubelet.run(pod, TWO)

    assert count(kubelet, one) >= cluster.saved["one"]
    assert count(kubelet, two) >= cluster.saved["two"]
    wait_until(lambda: bool(log_lines(pod, MORE)), "the start of the third", _UNTIL_S)
    assert log_lines(pod, MORE)[0] == "1"
    wait_until(lambda: bool(log_lines(pod, ONE)), "output of a restored container", _UNTIL_S)
    assert int(log_lines(pod, ONE)[0]) >= cluster.saved["one"]
    assert kubelet.stats(one).memory.working_set_bytes.value > 0
    assert kubelet.exec(more, "sh", "-c", "echo out; exit 3").exit_code == 3
    kubelet.stop(one)
    kubelet.remove(one)
    again = kubelet.run(pod, ONE)
    assert count(kubelet, again) < cluster.saved["one"] + count(kubelet, two)
    assert kubelet.pod_state(pod) == "SANDBOX_READY"


@pytest.mark.parametrize("policy", ("always", "if-possible"))
def test_a_container_that_differs_ends_the_attempt(cluster: Cluster, policy: str) -> None:
    """The sandbox and all containers exit with the reason; if possible, the next one is cold."""
    kubelet = cluster.kubelet
    pod = cluster.pod(policy)
    one = kubelet.run(pod, ONE)
    with pytest.raises(grpc.RpcError, match=r"process\.args"):
        kubelet.run(pod, OTHER)
    assert kubelet.until_exited(one).exit_code
    wait_until(lambda: kubelet.pod_state(pod) == "SANDBOX_NOTREADY", "its end", _UNTIL_S)
    kubelet.remove_pod(pod)

    pod = cluster.pod(policy, again=pod)

    if policy == "always":
        assert cluster.record(pod)["image_path"]
        return
    assert "process.args" in str(cluster.record(pod)["notices"])
    cluster.run_init(pod)
    assert log_lines(pod, INIT) == ["prepared"]
    assert count(kubelet, kubelet.run(pod, OTHER)) > 0


def test_a_damaged_image(cluster: Cluster) -> None:
    """With `always` there is no sandbox; if possible, this one starts cold at once."""
    kubelet = cluster.kubelet
    with damaged(cluster.image / "pages.img"):
        with pytest.raises(grpc.RpcError, match=r"pages\.img"):
            cluster.pod("always")
        pod = cluster.pod("if-possible")
    assert "pages.img" in str(cluster.record(pod)["notices"])
    cluster.run_init(pod)
    assert log_lines(pod, INIT) == ["prepared"]
    assert count(kubelet, kubelet.run(pod, ONE)) > 0


def kill_sandbox(cluster: Cluster, pod: Pod) -> None:
    """Kill the sandbox process of a pod."""
    os.kill(int(str(cluster.record(pod)["pid"])), signal.SIGKILL)


def kill_shim(cluster: Cluster, pod: Pod) -> None:
    """Kill the shim of a pod."""
    os.kill(look.parent_of(int(str(cluster.record(pod)["pid"]))), signal.SIGKILL)


def stop(cluster: Cluster, pod: Pod) -> None:
    """Stop the pod, as the kubelet does before it removes one."""
    cluster.kubelet.stop_pod(pod)


ENDS: Mapping[str, Callable[[Cluster, Pod], None]] = {
    "stopped": stop,
    "sandbox": kill_sandbox,
    "shim": kill_shim,
}


@pytest.mark.parametrize("end", ENDS)
def test_a_restore_that_is_cut_off_leaves_nothing(cluster: Cluster, end: str) -> None:
    """Stopped in the middle, or its sandbox or shim killed: the next pod is restored."""
    kubelet = cluster.kubelet
    pod = cluster.pod("always")
    cluster.run_init(pod)
    containers = [kubelet.run(pod, one) for one in (MORE, ONE)]

    ENDS[end](cluster, pod)
    for container in containers:
        kubelet.until_exited(container)
    wait_until(lambda: kubelet.pod_state(pod) == "SANDBOX_NOTREADY", "its end", _UNTIL_S)
    kubelet.remove_pod(pod)

    pod = cluster.pod("always", again=pod)
    one, two = kubelet.run(pod, ONE), kubelet.run(pod, TWO)
    assert count(kubelet, one) >= cluster.saved["one"]
    assert count(kubelet, two) >= cluster.saved["two"]


def test_containerd_dies_in_the_middle(cluster: Cluster) -> None:
    """The next containerd finds the waiting containers, and the restore goes on."""
    node, kubelet = cluster.node, cluster.kubelet
    pod = cluster.pod("always")
    more, one = kubelet.run(pod, MORE), kubelet.run(pod, ONE)

    node.kill()
    node.start()

    kubelet.until_ready()
    assert [kubelet.state(each) for each in (more, one)] == ["CONTAINER_RUNNING"] * 2
    two = kubelet.run(pod, TWO)
    assert count(kubelet, two) >= cluster.saved["two"]
    assert count(kubelet, one) >= cluster.saved["one"]
    assert count(kubelet, more) > 0


def test_a_terminal_of_a_container_is_refused_at_the_checkpoint(cluster: Cluster) -> None:
    """No restore could bring it back."""
    kubelet = cluster.kubelet
    pod = cluster.pod()
    shell = kubelet.run(pod, Wanted("shell", REFERENCE, ["sleep", "1000"], tty=True))

    failed = cluster.beside("tasks", "checkpoint", shell, check=False)

    assert failed.status
    assert "the terminal of shell" in failed.err
