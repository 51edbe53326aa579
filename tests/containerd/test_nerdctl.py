"""Containers in our runtime through nerdctl, as former users of Docker use it.

nerdctl is optional: without it these tests are skipped, and test_hooks.py tests its hooks. The CNI
plugin is a script, so that neither a bridge nor iptables is needed: the tests check that the hooks
by which nerdctl sets a network up and removes it find the container.
"""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hack.tools.running import NotHere
from shim.simgpu.remote import Ran
from shim.simgpu.waiting import wait_until
from tests.builds import RunscBuild, find_program
from tests.containerd.builds import find_containerd
from tests.containerd.conftest import program
from tests.containerd.cryo import COUNT, COUNTS, RUNTIME, Cryo
from tests.containerd.image import REFERENCE
from tests.containerd.named import Named
from tests.containerd.place import Place

PLUGIN = """#!/bin/sh
case "$CNI_COMMAND" in
VERSION) echo '{"cniVersion": "1.0.0", "supportedVersions": ["0.4.0", "1.0.0"]}' ;;
ADD)
    echo "ADD $CNI_CONTAINERID" >> LOG
    echo '{"cniVersion": "1.0.0", "interfaces": [{"name": "eth0", "sandbox": "'"$CNI_NETNS"'"}],
        "ips": [{"address": "10.88.9.2/24", "interface": 0}], "dns": {}}' ;;
DEL) echo "DEL $CNI_CONTAINERID" >> LOG ;;
esac
"""
NETWORK = {"cniVersion": "1.0.0", "name": "bridge", "plugins": [{"type": "cryonet"}]}
# Waits for the size of its terminal, which the client sends in a separate request.
SIZE = ("sh", "-c", 'until [ "$(stty size)" = "40 100" ]; do sleep 0.1; done; stty size')


class Nerdctl:
    """nerdctl on one node, with a network of its own."""

    def __init__(self, node: Cryo, path: Path) -> None:
        self.node = node
        self.folder = node.folder / "nerdctl"
        self.calls = self.folder / "calls"
        for name in ("data", "plugins", "networks"):
            (self.folder / name).mkdir(parents=True)
        plugin = self.folder / "plugins" / "cryonet"
        plugin.write_text(PLUGIN.replace("LOG", str(self.calls)), "utf-8")
        plugin.chmod(0o755)
        network = self.folder / "networks" / "bridge.conflist"
        network.write_text(json.dumps(NETWORK), "utf-8")
        self._argv = [
            str(path),
            f"--address={node.address}",
            f"--namespace={node.namespace}",
            f"--data-root={self.folder}/data",
            f"--cni-path={self.folder}/plugins",
            f"--cni-netconfpath={self.folder}/networks",
            "--snapshotter=native",
            "--cgroup-manager=cgroupfs",
        ]

    @property
    def env(self) -> dict[str, str]:
        """The environment, without settings of the host."""
        return {**self.node.env, "NERDCTL_TOML": str(self.folder / "none.toml")}

    def __call__(self, *arguments: str, check: bool = True, text: str = "") -> Ran:
        """Run nerdctl; `text` is its standard input."""
        argv = [*self._argv, *arguments]
        script = f"printf %s {shlex.quote(text)} | {shlex.join(argv)}"
        whole = ["sh", "-c", script] if text else argv
        ran = self.node.place.remote.run(whole, timeout_s=120, env=self.env)
        return self.node.checked(ran, f"nerdctl {' '.join(arguments)}") if check else ran

    def on_terminal(self, *arguments: str) -> Ran:
        """Run nerdctl on a terminal of 40 rows and 100 columns."""
        terminal = [sys.executable, "-m", "tests.containerd.terminal", "--size", "40x100", "--"]
        argv = [*terminal, *self._argv, *arguments]
        ran = self.node.place.remote.run(argv, timeout_s=120, env=self.env)
        return self.node.checked(ran, f"nerdctl {' '.join(arguments)}")

    def begin(self, name: str, *command: str, flags: tuple[str, ...] = ()) -> str:
        """Run a container that keeps running; return its id."""
        how = ("-d", "--runtime", RUNTIME, "--pull", "never", "--name", name, *flags)
        return self("run", *how, REFERENCE, *command).out.strip()

    def status(self, name: str) -> str:
        """Return a container's state from nerdctl."""
        return self("inspect", "--format", "{{.State.Status}}", name).out.strip()


@pytest.fixture(scope="module")
def nerdctl(place: Place, runsc_new: RunscBuild, archive: Path) -> Iterator[Nerdctl]:
    """Yield nerdctl with the newest containerd."""
    try:
        path = find_program("nerdctl")
    except NotHere as no:
        pytest.skip(str(no))
    program("containerd-2.4")
    with Cryo(find_containerd("2.4"), place, runsc_new.path) as node:
        node.import_image(archive)
        node.run("first", "true")
        yield Nerdctl(node, path)


@pytest.fixture(autouse=True)
def no_container_left(nerdctl: Nerdctl) -> Iterator[None]:
    """Remove the containers of a test."""
    yield
    if names := nerdctl("ps", "-aq").out.split():
        nerdctl("rm", "-f", *names)
    assert nerdctl.node.tasks() == {}


def test_the_default_network(nerdctl: Nerdctl) -> None:
    """A container's network is set up and removed, under the container's id in nerdctl."""
    name = nerdctl.begin("web", "sh", "-c", "echo begun; sleep 1000")

    wait_until(lambda: nerdctl("logs", "web").out == "begun\n", "its log", 60)
    assert nerdctl("exec", "web", "echo", "in").out == "in\n"
    nerdctl("stop", "--time", "0", "web")
    assert nerdctl.status("web") == "exited"
    nerdctl("rm", "web")

    whole = f"{nerdctl.node.namespace}-{name}"
    calls = nerdctl.calls.read_text("utf-8").splitlines()
    assert f"ADD {whole}" in calls
    assert calls[-1] == f"DEL {whole}"
    assert {call.split()[1] for call in calls} == {whole}


def test_input_that_ends_at_once(nerdctl: Nerdctl) -> None:
    """`echo x | nerdctl run -i` copies its input and exits, though that ends before the start."""
    how = ("-i", "--rm", "--runtime", RUNTIME, "--pull", "never", "--net", "none")

    assert nerdctl("run", *how, REFERENCE, "cat", text="x\n").out == "x\n"


def test_terminals(nerdctl: Nerdctl) -> None:
    """`run -it` and `exec -it` have a terminal of the caller's size, and print no error."""
    how = ("-it", "--rm", "--runtime", RUNTIME, "--pull", "never", "--net", "none")
    nerdctl.begin("job", "sleep", "1000", flags=("--net", "none"))

    assert "40 100" in nerdctl.on_terminal("run", *how, REFERENCE, *SIZE).out
    shown = nerdctl.on_terminal("exec", "-it", "job", *SIZE).out
    assert shown.split() == ["40", "100"]


def test_checkpoints(nerdctl: Nerdctl) -> None:
    """A container is saved, listed, killed and started from its checkpoint; the count continues."""
    nerdctl.begin("job", "sh", "-c", COUNT, flags=("--net", "none"))
    before = int(nerdctl("exec", "job", "sh", "-c", COUNTS).out)

    nerdctl("checkpoint", "create", "--leave-running", "job", "one")
    assert "one" in nerdctl("checkpoint", "ls", "job").out
    assert nerdctl.status("job") == "running"
    nerdctl("kill", "job")
    wait_until(lambda: nerdctl.status("job") == "exited", "its end", 60)
    nerdctl("start", "--checkpoint", "one", "job")

    assert int(nerdctl("exec", "job", "sh", "-c", COUNTS).out) >= before
    nerdctl("checkpoint", "rm", "job", "one")
    assert "one" not in nerdctl("checkpoint", "ls", "job").out


def test_a_warm_start(nerdctl: Nerdctl) -> None:
    """With one annotation a container starts cold and is saved; the next is a restore."""
    node = nerdctl.node
    images = Named(node.folder / "images" / node.namespace / "llama")
    when = ("io.cryo.warm=llama", "io.cryo.warm-when=file:/ready", "io.cryo.warm-period=0.1")
    flags = ("--net", "none", *(word for pair in when for word in ("--annotation", pair)))
    nerdctl.begin("cold", "sh", "-c", COUNT, flags=flags)
    before = int(nerdctl("exec", "cold", "sh", "-c", COUNTS).out)
    nerdctl("exec", "cold", "touch", "/ready")
    images.until_saved()
    nerdctl("rm", "-f", "cold")

    nerdctl.begin("warm", "sh", "-c", COUNT, flags=flags)

    assert nerdctl("exec", "warm", "ls", "/ready").out == "/ready\n"
    assert int(nerdctl("exec", "warm", "sh", "-c", COUNTS).out) >= before
    images.until_hit()
