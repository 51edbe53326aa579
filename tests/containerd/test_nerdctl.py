"""Containers in our runtime through nerdctl, as former users of Docker use it.

nerdctl is optional: without it these tests are skipped, and test_hooks.py tests its hooks. The
tests check that the hooks by which nerdctl sets a network up and removes it find the container.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from hack.tools.running import NotHere
from shim.simgpu.waiting import wait_until
from tests.builds import RunscBuild, find_program
from tests.containerd.builds import find_containerd
from tests.containerd.conftest import program
from tests.containerd.cryo import COUNT, COUNTS, RUNTIME, Cryo
from tests.containerd.image import REFERENCE
from tests.containerd.nerdctl import Nerdctl
from tests.containerd.place import Place

# Waits for the size of its terminal, which the client sends in a separate request.
SIZE = ("sh", "-c", 'until [ "$(stty size)" = "40 100" ]; do sleep 0.1; done; stty size')


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
