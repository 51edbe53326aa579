"""OCI hooks under containerd, as clients use them for networks: the same as with runc."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hack.examples.task_api import spec
from shim.simgpu.waiting import wait_until
from tests.builds import RunscBuild
from tests.containerd.api import Api
from tests.containerd.builds import find_containerd
from tests.containerd.conftest import program
from tests.containerd.cryo import RUNTIME, Cryo
from tests.containerd.place import Place
from tests.containerd.sidecar import write_rootfs

RUNC = "io.containerd.runc.v2"
# The hooks of nerdctl: one sets its network up, the other removes it.
KINDS = ("createRuntime", "poststop")


@pytest.fixture(scope="module")
def node(place: Place, runsc_new: RunscBuild, runc: Path, archive: Path) -> Iterator[Cryo]:
    """Yield the newest containerd, with runc beside our runtime."""
    program("containerd-2.4")
    build = find_containerd("2.4")
    with Cryo(build, place, runsc_new.path, programs={"runc": runc}) as made:
        made.import_image(archive)
        made.run("first", "true")
        made.know()
        yield made


def with_hooks(said: Path, kinds: tuple[str, ...] = KINDS) -> dict[str, Any]:
    """Return the spec of a container whose hooks record their input."""
    content = spec(("/bin/sleep", "1000"))
    content["mounts"].append({"destination": "/dev", "type": "tmpfs", "source": "tmpfs"})
    content["annotations"] = {"org.example": "<one>"}
    content["hooks"] = {
        kind: [{"path": "/bin/sh", "args": ["sh", "-c", f"cat > {said}/{kind}"]}] for kind in kinds
    }
    return content


def lived(node: Cryo, runtime: str, name: str) -> dict[str, dict[str, Any]]:
    """Run a container until it exits; return the input of its hooks, without values that vary."""
    said = node.folder / "scratch" / node.fresh("said")
    said.mkdir(parents=True)
    rootfs = node.folder / "scratch" / node.fresh("rootfs")
    (write_rootfs(rootfs, program("busybox")) / "dev").mkdir()
    with Api(node) as api, node.removing(name):
        api.container(name, with_hooks(said), runtime)
        api.create(name, rootfs)
        assert (said / "createRuntime").exists()
        api.start(name)
        # runsc's id ends with a plus, which must not be in a cgroup's name.
        assert node.place.do("find", "/sys/fs/cgroup", "-name", f"*{name}+*") == ""
        api.end(name)
    reported = {kind: json.loads((said / kind).read_text("utf-8")) for kind in KINDS}
    return {
        kind: {key: state.get(key) for key in ("id", "bundle", "annotations")}
        for kind, state in reported.items()
    }


def test_hooks_get_what_runc_gives_them(node: Cryo) -> None:
    """A hook gets the same id, bundle and annotations as with runc."""
    ours, theirs = (lived(node, runtime, "web") for runtime in (RUNTIME, RUNC))

    assert ours == theirs
    assert ours["createRuntime"]["id"] == "web"
    assert ours["createRuntime"]["bundle"] == str(node.bundles / "web")
    node.expect_nothing_new(ignored=("/run/containerd/runc",))


def test_the_network_is_taken_down_when_the_shim_was_killed(node: Cryo) -> None:
    """After a killed shim, `delete` passes the container's id and bundle to the last hook."""
    said = node.folder / "scratch" / node.fresh("said")
    said.mkdir(parents=True)
    rootfs = node.folder / "scratch" / node.fresh("rootfs")
    (write_rootfs(rootfs, program("busybox")) / "dev").mkdir()
    with Api(node) as api, node.removing("web"):
        api.container("web", with_hooks(said, ("poststop",)))
        api.create("web", rootfs)
        api.start("web")
        shim = node.shim_of("web")
        node.place.remote.run(["/bin/kill", "-9", str(shim)])
        node.gone(shim)
        gone = node.bundles / "web"
        wait_until(lambda: not gone.exists(), "the removal of its bundle", 60)

    state = json.loads((said / "poststop").read_text("utf-8"))
    assert (state["id"], state["bundle"]) == ("web", str(node.bundles / "web"))
    node.expect_nothing_new()
