"""A restore with what is not as it was at the save: named before the load, or in plain words."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from shim.errors import FailedPrecondition, HostMismatch, Impossible, InvalidArgument, Unavailable
from shim.model import Progress, RestoreOptions
from shim.simgpu.waiting import wait_until
from tests.builds import RunscBuild
from tests.real.helpers_rig import WAIT_S, Rig, machine_with, refused

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def other(runsc: RunscBuild) -> Iterator[Rig]:
    """Give a second machine, whose sidecar is started again with the flags of each case."""
    with machine_with(runsc) as rig:
        yield rig


@pytest.fixture
def flagged(other: Rig) -> Iterator[Rig]:
    """Give the second machine; nothing of the test may be left."""
    try:
        yield other
    finally:
        with_flags(other)
        other.clear()
    assert other.leftovers() == []


def with_flags(rig: Rig, **flags: str) -> None:
    """Restart the sidecar with other flags of runsc."""
    rig.sim.stop_sidecar()
    rig.sim.start_sidecar(runsc__flags=flags)
    wait_until(lambda: rig.client.list() is not None, "the sidecar", WAIT_S)


def open_file(rig: Rig, name: str, folder: Path) -> None:
    """Start a program that has a file of a volume open."""
    folder.mkdir(exist_ok=True)
    (folder / "open").write_text("hi", "utf-8")
    argv = ("/bin/sh", "-c", "exec 5</dev/host/open; echo ready >&2; exec sleep 1000")
    bundle = rig.bundle(name, argv)
    with rig.edited(bundle) as spec:
        mount = {"destination": "/dev/host", "type": "bind", "source": str(folder)}
        spec["mounts"].append({**mount, "options": ["rbind", "rw"]})
    rig.client.create(name, str(bundle))
    rig.client.start(name)

    def is_open() -> bool:
        return "open" in rig.guest.exec(name, ("/bin/ls", "-l", "/proc/1/fd/5")).out

    wait_until(is_open, "the open file", WAIT_S)


def test_every_difference_is_named_at_once(rig: Rig) -> None:
    """Limits, capabilities and mounts are compared before runsc is asked, for every caller."""
    rig.sleeper("job")
    image = rig.checkpoint("job", exit=True).image_path
    bundle = rig.bundle("changed", ["/bin/sleep", "1000"])
    with rig.edited(bundle) as spec:
        process = spec["process"]
        process["rlimits"] = [{"type": "RLIMIT_NOFILE", "hard": 512, "soft": 512}]
        process["capabilities"] = {"bounding": ["CAP_SYS_ADMIN"]}
        process["noNewPrivileges"] = not process.get("noNewPrivileges", False)
        spec["mounts"].append({"destination": "/dev/more", "type": "tmpfs", "source": "tmpfs"})
    names = ("process.rlimits", "process.capabilities.bounding", "noNewPrivileges", "/dev/more")

    by_restore = refused(InvalidArgument, lambda: rig.restore("copy", image, bundle=str(bundle)))
    by_create = refused(
        InvalidArgument, lambda: rig.client.create("copy", str(bundle), checkpoint=image)
    )

    for error in (by_restore, by_create):
        assert all(name in error.message for name in names)
    assert "--bundle" in by_restore.remedy
    assert "--bundle" not in by_create.remedy


def test_what_may_differ_is_taken(rig: Rig) -> None:
    """A newer OCI version, another environment and repeated entries restore on either build."""
    bundle = rig.bundle("job", ["/bin/sleep", "1000"])
    with rig.edited(bundle) as spec:
        spec["process"]["user"]["additionalGids"] = []
        spec["process"]["capabilities"] = {"bounding": ["CAP_KILL", "CAP_KILL"]}
        spec["linux"]["maskedPaths"] = []
    rig.client.create("job", str(bundle))
    rig.client.start("job")
    image = rig.checkpoint("job", exit=True).image_path
    with rig.edited(bundle) as spec:
        spec["ociVersion"] = "1.0.2"
        spec["process"]["env"].append("MORE=1")

    assert rig.restore("own", image).pid
    assert rig.restore("copy", image, bundle=str(bundle)).pid


@pytest.mark.every_combination
def test_a_spec_that_runsc_would_never_restore(rig: Rig, tmp_path: Path) -> None:
    """Two mounts at one place are refused before the save where runsc compares specs."""
    bundle = rig.bundle("job", ["/bin/sleep", "1000"])
    with rig.edited(bundle) as spec:
        mount = {"destination": "/dev/host", "type": "bind", "source": str(tmp_path)}
        spec["mounts"] += [{**mount, "options": ["ro"]}, {**mount, "options": ["rw"]}]
    rig.client.create("job", str(bundle))
    rig.client.start("job")

    if rig.build.has_builtin:
        assert "/dev/host" in refused(Impossible, lambda: rig.checkpoint("job")).message
    else:
        assert rig.restore("copy", rig.checkpoint("job").image_path).pid


@pytest.mark.every_combination
def test_an_open_file_that_is_gone(rig: Rig, tmp_path: Path) -> None:
    """The file is to be brought back, and then the same image restores."""
    open_file(rig, "job", tmp_path / "v")
    image = rig.checkpoint("job", exit=True).image_path
    (tmp_path / "v" / "open").rename(tmp_path / "v" / "x")

    gone = refused(FailedPrecondition, lambda: rig.restore("copy", image))
    assert "restore the file" in gone.remedy
    if rig.build.has_builtin:
        assert "open in the mount at /dev/host" in gone.message

    (tmp_path / "v" / "open").mkdir()
    folder = refused(FailedPrecondition, lambda: rig.restore("copy", image))
    assert "the sandbox exited while it loaded the image" in folder.message
    assert "restore the file" in folder.remedy

    (tmp_path / "v" / "open").rmdir()
    (tmp_path / "v" / "x").rename(tmp_path / "v" / "open")
    assert rig.restore("copy", image).pid


@pytest.mark.parametrize(
    ("name", "saved", "given"),
    (("overlay2", "root:memory", "root:self"), ("directfs", "true", "false")),
)
def test_a_flag_of_runsc_that_differs(
    flagged: Rig, tmp_path: Path, name: str, saved: str, given: str
) -> None:
    """A restore and a verification name the flag and both values; nothing is made."""
    with_flags(flagged, **{name: saved})
    bundle = flagged.bundle("job", ["/bin/sleep", "1000"])
    with flagged.edited(bundle) as spec:
        spec["root"]["readonly"] = False
    flagged.client.create("job", str(bundle))
    flagged.client.start("job")
    image = flagged.checkpoint("job", exit=True, image_path=str(tmp_path / "i")).image_path
    flagged.client.delete("job")
    with_flags(flagged, **{name: given})

    for call in (lambda: flagged.restore("copy", image), lambda: flagged.client.verify(image)):
        error = refused(HostMismatch, call)
        assert f"runsc flag {name}" in error.message
        assert saved in error.message
        assert given in error.message
        assert f"set {name}" in error.remedy

    with_flags(flagged, **{name: saved})
    assert flagged.restore("copy", image).pid


def test_the_flags_that_the_sandbox_runs_with_are_recorded(flagged: Rig, tmp_path: Path) -> None:
    """Also where the sidecar has others since; what is recorded is what a restore needs."""
    with_flags(flagged, directfs="false", overlay2="root:memory")
    flagged.sleeper("job")
    with_flags(flagged, overlay2="none")
    image = flagged.checkpoint("job", image_path=str(tmp_path / "i")).image_path

    flags = flagged.client.inspect(image)["runsc_flags"]
    assert (flags["directfs"], flags["overlay2"]) == ("false", "root:memory")
    assert flags["network"] == "none"


@pytest.mark.parametrize(
    ("flags", "line"),
    (
        ({"no-such-flag": "1"}, "flag provided but not defined: -no-such-flag"),
        *(
            pytest.param(*each, marks=pytest.mark.long)
            for each in (
                ({"overlay2": "bogus"}, 'invalid value "bogus" for flag -overlay2'),
                ({"file-access": "shared"}, "overlay flag is incompatible with shared file access"),
            )
        ),
    ),
)
def test_flags_that_runsc_does_not_take(flagged: Rig, flags: dict[str, str], line: str) -> None:
    """The sidecar does not start with them, and shows runsc's own line."""
    flagged.sim.stop_sidecar()

    with pytest.raises(Unavailable) as caught:
        flagged.sim.start_sidecar(runsc__flags=flags)

    assert line in caught.value.message
    assert "Usage" not in caught.value.message


class Netns:
    """A network namespace that a process holds."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(["unshare", "--net", "sleep", "1000"])
        self.path = f"/proc/{self._process.pid}/ns/net"
        own = Path("/proc/self/ns/net").readlink()
        wait_until(lambda: Path(self.path).readlink() != own, "the namespace", WAIT_S)

    def close(self) -> None:
        """Let it go."""
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()


@pytest.fixture(scope="module")
def networked(runsc_new: RunscBuild) -> Iterator[Rig]:
    """Give a machine whose containers have a network; runsc 20240729 cannot do that here."""
    with machine_with(runsc_new, **{"runsc.flags": {"network": "sandbox"}}) as rig:
        yield rig


@pytest.fixture
def netns() -> Iterator[Netns]:
    """Give a network namespace without an address."""
    space = Netns()
    try:
        yield space
    finally:
        space.close()


def test_a_network_namespace_without_an_address(
    networked: Rig, netns: Netns, tmp_path: Path
) -> None:
    """A restore into it warns that there is no network; one that is gone is named."""

    def joined(path: str) -> str:
        bundle = networked.bundle("job", ["/bin/sleep", "1000"])
        with networked.edited(bundle) as spec:
            spaces = [one for one in spec["linux"]["namespaces"] if one["type"] != "network"]
            spec["linux"]["namespaces"] = [*spaces, {"type": "network", "path": path}]
        return str(bundle)

    networked.client.create("job", joined(netns.path))
    networked.client.start("job")
    image = networked.checkpoint("job", exit=True, image_path=str(tmp_path / "i")).image_path
    updates: list[Progress] = []

    def restore(name: str, **more: Any) -> tuple[str, ...]:
        options = RestoreOptions(image_path=image, **more)
        return networked.client.restore(name, options, updates.append).warnings

    (warned,) = restore("copy")
    assert netns.path in warned
    assert "has no address" in warned
    assert warned in [one.message for one in updates if one.warning]
    networked.end("copy")
    networked.client.delete("job")
    gone = refused(FailedPrecondition, lambda: restore("lost", bundle=joined("/proc/1/ns/no-such")))
    assert "the network namespace /proc/1/ns/no-such does not exist" in gone.message
