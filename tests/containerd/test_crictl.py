"""Pods in our runtime through crictl, as operators of Kubernetes nodes use it."""

from __future__ import annotations

import json
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from shim.simgpu.remote import Ran
from shim.simgpu.waiting import wait_until
from tests.builds import RunscBuild
from tests.containerd.builds import ContainerdBuild, find_containerd
from tests.containerd.config import Cri
from tests.containerd.conftest import make_ready, program
from tests.containerd.cryo import COUNT, RUNTIME, Cryo
from tests.containerd.image import PAUSE, REFERENCE
from tests.containerd.place import Place

HANDLER = "cryo"
# Linux namespaces of the CRI: the host's network, so no CNI plugin is called.
NAMESPACES = {"network": 2, "pid": 1}
# Waits for the size of its terminal, which the client sends in a separate request.
SIZE = ("sh", "-c", 'until [ "$(stty size)" = "40 100" ]; do sleep 0.1; done; stty size')
RUNNING, EXITED = "CONTAINER_RUNNING", "CONTAINER_EXITED"


class Crictl:
    """crictl on one node, and the pod of a test."""

    def __init__(self, node: Cryo, path: Path) -> None:
        self.node = node
        self.folder = node.folder / "scratch" / node.fresh("crictl")
        self.folder.mkdir(parents=True)
        endpoint = f"unix://{node.address}"
        self._argv = [str(path), "--config", str(self.folder / "crictl.yaml")]
        (self.folder / "crictl.yaml").write_text(
            f"runtime-endpoint: {endpoint}\nimage-endpoint: {endpoint}\ntimeout: 90\n", "utf-8"
        )

    def __call__(self, *arguments: str, check: bool = True) -> Ran:
        """Run crictl."""
        ran = self.node.place.remote.run([*self._argv, *arguments], timeout_s=120)
        return self.node.checked(ran, f"crictl {' '.join(arguments)}") if check else ran

    def on_terminal(self, *arguments: str, size: str) -> Ran:
        """Run crictl on a terminal of a size."""
        terminal = [sys.executable, "-m", "tests.containerd.terminal", "--size", size, "--"]
        argv = [*terminal, *self._argv, *arguments]
        return self.node.place.remote.run(argv, timeout_s=120, env=self.node.env)

    def file(self, name: str, content: object) -> str:
        """Write a config file for crictl; return its path."""
        path = self.folder / name
        path.write_text(json.dumps(content), "utf-8")
        return str(path)

    def state(self, container: str) -> str:
        """Return the state of a container."""
        found: str = json.loads(self("inspect", container).out)["status"]["state"]
        return found


@pytest.fixture(scope="module")
def node(place: Place, runsc_new: RunscBuild, archive: Path, pause_archive: Path) -> Iterator[Cryo]:
    """Yield the newest containerd with the CRI plugin, our runtime and criu."""
    build = newest()
    plugin = Cri(sandbox_image=PAUSE, runtimes={HANDLER: RUNTIME})
    criu = {"criu": program("criu")}
    with Cryo(build, place, runsc_new.path, cri=plugin, programs=criu) as made:
        make_ready(made, archive, pause_archive, handler=HANDLER)
        yield made


def newest() -> ContainerdBuild:
    """Return the containerd of the newest line."""
    program("containerd-2.4")
    return find_containerd("2.4")


@pytest.fixture
def crictl(node: Cryo) -> Iterator[Crictl]:
    """Yield crictl; afterwards check that nothing is left."""
    before = node.look()
    made = Crictl(node, program("crictl"))
    yield made
    made("rmp", "--all", "--force", check=False)
    assert made("pods", "-q").out == ""
    left = node.left_behind(before)
    assert not left, "\n".join(left)


def test_the_life_of_a_pod(crictl: Crictl) -> None:
    """Crictl runs, inspects, checkpoints, stops and removes a pod with a container."""
    pod_file = crictl.file(
        "pod.json",
        {
            "metadata": {"name": "pod", "namespace": "default", "uid": "uid-1", "attempt": 1},
            "log_directory": str(crictl.folder),
            "linux": {
                "cgroup_parent": f"/{crictl.node.cgroup}",
                "security_context": {"namespace_options": NAMESPACES},
            },
        },
    )
    container_file = crictl.file(
        "container.json",
        {
            "metadata": {"name": "one"},
            "image": {"image": REFERENCE},
            "command": ["sh", "-c", f"echo begun; {COUNT}"],
            "log_path": "one.log",
            "linux": {"security_context": {"namespace_options": NAMESPACES}},
        },
    )

    pod = crictl("runp", "--runtime", HANDLER, pod_file).out.strip()
    container = crictl("create", "--no-pull", pod, container_file, pod_file).out.strip()
    crictl("start", container)

    assert crictl.state(container) == RUNNING
    assert container[:13] in crictl("ps").out
    assert crictl("exec", "-s", container, "sh", "-c", "echo in").out.strip() == "in"
    assert crictl("exec", container, "echo", "streamed").out == "streamed\n"
    assert "40 100" in crictl.on_terminal("exec", "-it", container, *SIZE, size="40x100").out
    assert container[:13] in crictl("stats").out
    assert pod[:13] in crictl("statsp").out
    wait_until(lambda: "begun" in crictl("logs", container).out, "its log", 60)

    saved = crictl.folder / "one.tar"
    crictl("checkpoint", f"--export={saved}", container)
    with tarfile.open(saved) as tar:
        diff = tar.extractfile("rootfs-diff.tar")
        assert diff is not None
        with tarfile.open(fileobj=diff) as layer:
            names = layer.getnames()
    assert [name for name in names if "gvisor" in name] == []
    assert crictl.state(container) == RUNNING

    crictl("stop", "--timeout", "0", container)
    assert crictl.state(container) == EXITED
    crictl("rm", container)
    crictl("stopp", pod)
    crictl("rmp", pod)
