"""What a spec gives of the host, as a reader is shown it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from shim.oci import document, host_access
from shim.oci.document import Spec
from shim.oci.host_access import Hook, HostMount

PLAIN: dict[str, Any] = {
    "ociVersion": "1.1.0",
    "process": {"args": ["/bin/sh"], "cwd": "/"},
    "root": {"path": "rootfs"},
}


def spec(**more: Any) -> Spec:
    """Make a spec of a bundle /b."""
    return document.parse(PLAIN | more, Path("/b"))


def test_everything_of_the_host_is_listed() -> None:
    """Hooks, folders, devices and namespaces, relative sources from the bundle on."""
    found = host_access.of(
        "t",
        spec(
            hooks={"poststop": [{"path": "/h", "args": ["h", "-x"]}], "prestart": [{"path": "/p"}]},
            mounts=[
                {"destination": "/proc", "type": "proc", "source": "proc"},
                {"destination": "/a", "type": "bind", "source": "/etc", "options": ["ro"]},
                {"destination": "/b", "source": "data", "options": ["rbind", "rw"]},
            ],
            linux={
                "devices": [{"path": "/dev/nvidia0", "type": "c", "major": 195, "minor": 0}],
                "namespaces": [{"type": "network", "path": "/run/netns/x"}, {"type": "pid"}],
            },
        ),
    )

    assert (found.task, found.rootfs) == ("t", "/b/rootfs")
    assert found.hooks == (
        Hook(when="poststop", path="/h", args=("h", "-x")),
        Hook(when="prestart", path="/p"),
    )
    assert found.mounts == (
        HostMount(source="/etc", destination="/a", writable=False),
        HostMount(source="/b/data", destination="/b", writable=True),
    )
    assert found.devices == ("/dev/nvidia0",)
    assert found.namespaces == ("/run/netns/x",)


@pytest.mark.parametrize(
    "hooks",
    (None, [], "x", {"createRuntime": "x"}, {"createRuntime": [1, None]}, {"x": [{"args": 5}]}),
)
def test_what_is_no_hook_is_no_error(hooks: Any) -> None:
    """A stranger's spec may say anything; runsc is who refuses it."""
    assert all(hook.path == "" for hook in host_access.hooks(spec(hooks=hooks).data))


def test_hooks_are_left_out() -> None:
    """The spec without them has everything else."""
    bare = host_access.without_hooks(spec(hooks={"poststop": [{"path": "/h"}]}, hostname="x"))

    assert bare.data == PLAIN | {"hostname": "x"}
    assert host_access.without_hooks(bare) is bare
