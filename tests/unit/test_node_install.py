"""The installer of Kubernetes nodes, on a scratch root directory."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from hack.kubernetes.node import bundle, containerd, daemon
from hack.kubernetes.node.daemon import SystemdUnit
from hack.kubernetes.node.install import Installer
from hack.kubernetes.node.paths import MARK, Node
from hack.kubernetes.node.versions import Versions
from shim.errors import CryoError, FailedPrecondition, InvalidArgument, Unavailable
from shim.simgpu.waiting import wait_until
from tests.unit.helpers_bundle import small_bundle

ROOT = Path(__file__).parents[2]

V2 = 'version = 2\n[plugins."io.containerd.grpc.v1.cri"]\n  sandbox_image = "pause"\n'
V3 = "version = 3\nimports = []\n"
V4 = 'version = 4\nimports = ["/etc/containerd/conf.d/*.toml"]\n'


class FakeContainerd:
    """Counts its restarts; fails to restart while its configuration has this text."""

    def __init__(self, node: Node, fails_with: str = "") -> None:
        self.node = node
        self.fails_with = fails_with
        self.restarts = 0

    def restart(self) -> None:
        """Restart, or fail."""
        self.restarts += 1
        path = self.node.at(self.node.containerd)
        if self.fails_with and self.fails_with in path.read_text("utf-8"):
            raise Unavailable("it did not start", remedy="read its log")

    def is_ending(self) -> bool:
        """Return False."""
        return False


@pytest.fixture
def node(tmp_path: Path) -> Node:
    """Return a node with a config.toml of containerd and a runsc."""
    made = Node(tmp_path / "root")
    for path, text in ((made.containerd, V3), (Path("/usr/local/bin/runsc"), "")):
        made.at(path).parent.mkdir(parents=True)
        made.at(path).write_text(text, "utf-8")
    made.at(Path("/usr/local/bin/runsc")).chmod(0o755)
    return made


@pytest.fixture
def one(tmp_path: Path) -> Path:
    """Return a bundle whose programs do nothing."""
    return small_bundle(tmp_path / "one")


def write_config(node: Node, text: str) -> Path:
    """Write containerd's config.toml; return its path here."""
    path = node.at(node.containerd)
    path.write_text(text, "utf-8")
    return path


def runtime_of(text: str, plugin: str) -> dict[str, object]:
    """Return the table of our runtime in a configuration of containerd."""
    table = tomllib.loads(text)["plugins"][plugin]["containerd"]["runtimes"]["cryo"]
    return dict(table)


@pytest.mark.parametrize(
    ("text", "plugin"),
    ((V2, "io.containerd.grpc.v1.cri"), (V3, "io.containerd.cri.v1.runtime")),
    ids=("version 2", "version 3"),
)
def test_the_runtime_is_a_block_of_the_config(
    node: Node, one: Path, text: str, plugin: str
) -> None:
    """Without imports config.toml gets a block, and is as before when the runtime is removed."""
    path = write_config(node, text)
    installer = Installer(node, FakeContainerd(node))

    list(installer.install(one))

    table = runtime_of(path.read_text("utf-8"), plugin)
    assert table["runtime_path"] == "/opt/cryoshim/current/bin/containerd-shim-cryo-v1"
    assert table["pod_annotations"] == ["io.cryo.*"]
    list(installer.remove())
    assert path.read_text("utf-8") == text
    assert not node.at(node.prefix).exists()


def test_the_launcher_in_c_is_what_containerd_starts(node: Node, one: Path) -> None:
    """Where the bundle has it, the script is beside it under the name that it looks for."""
    write_config(node, V3)
    native = one / "lib/python3.11/site-packages" / bundle.NATIVE
    native.parent.mkdir(parents=True)
    native.write_bytes(b"native")
    native.chmod(0o755)

    list(Installer(node, FakeContainerd(node)).install(one))

    program = node.at(node.prefix) / "versions/one/bin/containerd-shim-cryo-v1"
    script = program.with_name("containerd-shim-cryo-v1-python")
    assert program.read_bytes() == b"native"
    assert os.access(program, os.X_OK)
    assert script.read_text("utf-8").endswith('/libexec/containerd-shim-cryo-v1 "$@"\n')


def test_the_runtime_is_a_drop_in_where_a_directory_is_imported(node: Node, one: Path) -> None:
    """config.toml is not touched if it imports a directory; the drop-in has its version."""
    path = write_config(node, V4)
    drop_in = node.at(Path("/etc/containerd/conf.d") / containerd.DROP_IN)
    installer = Installer(node, FakeContainerd(node))

    list(installer.install(one))

    assert path.read_text("utf-8") == V4
    assert tomllib.loads(drop_in.read_text("utf-8"))["version"] == 4
    assert runtime_of(drop_in.read_text("utf-8"), "io.containerd.cri.v1.runtime")
    list(installer.remove())
    assert not drop_in.exists()


def test_a_node_without_a_config_gets_one(node: Node, one: Path) -> None:
    """Without a config.toml one is written, and removed again."""
    path = node.at(node.containerd)
    path.unlink()
    installer = Installer(node, FakeContainerd(node))

    list(installer.install(one))

    assert tomllib.loads(path.read_text("utf-8"))["version"] == 2
    list(installer.remove())
    assert not path.exists()


def test_a_config_without_its_comments_is_left(node: Node, one: Path) -> None:
    """A tool that rewrites config.toml drops the block's marks; the table is found without them."""
    installer = Installer(node, daemon := FakeContainerd(node))
    list(installer.install(one))
    path = node.at(node.containerd)
    text = "".join(x for x in path.read_text("utf-8").splitlines(True) if not x.startswith("#"))
    path.write_text(text, "utf-8")

    list(installer.install(one))

    assert path.read_text("utf-8") == text
    assert daemon.restarts == 1


@pytest.mark.parametrize(
    ("text", "reason"),
    (
        ("root = '/r'\n", "version 1"),
        ("version = 3\n[", "not valid TOML"),
        (
            'version = 3\n[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.cryo]\n',
            "has a runtime cryo with other values",
        ),
    ),
    ids=("version 1", "broken", "another cryo"),
)
def test_a_config_that_cannot_be_changed_is_refused(
    node: Node, one: Path, text: str, reason: str
) -> None:
    """A config.toml of containerd that does not fit is refused before anything is changed."""
    path = write_config(node, text)

    with pytest.raises(CryoError, match=reason):
        list(Installer(node, FakeContainerd(node)).install(one))

    assert path.read_text("utf-8") == text
    assert Versions(node).names() == []


def test_a_second_run_changes_nothing(node: Node, one: Path) -> None:
    """Containerd is restarted by the first run only."""
    installer = Installer(node, daemon := FakeContainerd(node))

    list(installer.install(one))
    list(installer.install(one))

    assert daemon.restarts == 1


def test_a_restart_that_was_interrupted_is_made_up_for(node: Node, one: Path) -> None:
    """If the installer is killed between the change and the restart, the next run restarts."""
    daemon = FakeContainerd(node)
    begun = Installer(node, daemon).install(one)
    while "changed" not in next(begun):
        pass
    begun.close()
    assert daemon.restarts == 0

    list(Installer(node, daemon).install(one))

    assert daemon.restarts == 1


def test_a_config_with_which_containerd_does_not_start_is_undone(node: Node, one: Path) -> None:
    """If containerd does not start, its configuration is restored, and it is restarted."""
    daemon = FakeContainerd(node, fails_with="runtimes.cryo")

    with pytest.raises(Unavailable, match="did not start"):
        list(Installer(node, daemon).install(one))

    assert node.at(node.containerd).read_text("utf-8") == V3
    assert daemon.restarts == 2


def test_without_a_unit_the_restart_is_reported(node: Node, one: Path) -> None:
    """Without a unit to restart, the report says that containerd must be restarted, once."""
    installer = Installer(node)

    done = list(installer.install(one))
    assert "restart containerd" in done[-2]
    assert "start the sidecar" in done[-1]
    assert len(list(installer.install(one))) == 1


def test_settings_of_someone_else_are_not_replaced(node: Node, one: Path) -> None:
    """A config.toml of ours that the installer has not written is refused, and not removed."""
    path = node.at(node.settings)
    path.parent.mkdir()
    path.write_text("[pods]\n", "utf-8")

    with pytest.raises(FailedPrecondition, match="not written by this installer"):
        list(Installer(node).install(one))
    list(Installer(node).remove())

    assert path.read_text("utf-8") == "[pods]\n"


def test_settings_are_checked_and_replaced(node: Node, one: Path, tmp_path: Path) -> None:
    """Settings with an unknown key are refused; valid ones replace those of the last run."""
    given = tmp_path / "given.toml"
    given.write_text("[timeouts]\nsave = 5.0\n", "utf-8")
    list(Installer(node).install(one, given))
    assert node.at(node.settings).read_text("utf-8") == f"{MARK}[timeouts]\nsave = 5.0\n"

    given.write_text("[timeouts]\nsafe = 5.0\n", "utf-8")
    with pytest.raises(InvalidArgument, match="safe"):
        list(Installer(node).install(one, given))

    assert "save" in node.at(node.settings).read_text("utf-8")


def test_a_node_without_runsc_is_refused(node: Node, one: Path) -> None:
    """A missing runsc is reported before anything is changed."""
    node.at(Path("/usr/local/bin/runsc")).unlink()

    with pytest.raises(FailedPrecondition, match="no runsc"):
        list(Installer(node).install(one))

    assert node.at(node.containerd).read_text("utf-8") == V3


def test_a_link_is_refused(node: Node, one: Path) -> None:
    """A config.toml that is a link is not followed: it may lead elsewhere from a container."""
    path = node.at(node.containerd)
    path.rename(path.with_name("real.toml"))
    path.symlink_to("/etc/containerd/real.toml")

    with pytest.raises(CryoError, match="symbolic link"):
        list(Installer(node).install(one))


def test_a_version_that_was_copied_in_part_is_copied_again(node: Node, one: Path) -> None:
    """An interrupted copy is no version, and the next run replaces it."""
    partial = node.at(node.prefix / "versions/.one/libs")
    partial.mkdir(parents=True)
    assert Versions(node).names() == []

    list(Installer(node).install(one))

    assert Versions(node).names() == ["one"]
    assert not partial.exists()


def test_only_the_last_installer_is_the_owner(node: Node, one: Path) -> None:
    """Of two installers on a node, as in a rolling update, the first is no longer the owner."""
    first, second = Installer(node, owner="first"), Installer(node, owner="second")

    list(first.install(one))
    assert first.is_owner()
    list(second.install(one))

    assert (first.is_owner(), second.is_owner()) == (False, True)


@pytest.fixture
def sleeper(node: Node, tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Yield a process that runs from an installed version, `busy`, as the shim of a pod does."""
    folder = small_bundle(tmp_path / "busy")
    loader = folder / bundle.LIBRARIES / bundle.LOADER
    loader.write_bytes(Path("/bin/sleep").read_bytes())
    loader.chmod(0o755)
    list(Installer(node).install(folder))
    installed = node.at(node.prefix / "versions/busy" / bundle.LIBRARIES / bundle.LOADER)
    with subprocess.Popen([str(installed), "1000"]) as process:
        try:
            yield process
        finally:
            process.kill()


def test_a_version_in_use_is_kept(node: Node, one: Path, sleeper: subprocess.Popen[bytes]) -> None:
    """An upgrade keeps the version that a pod runs from; the next run after the pod removes it."""
    report = list(Installer(node).install(one))
    assert report[-1] == "version busy is still used by running pods"
    assert (Versions(node).active(), Versions(node).names()) == ("one", ["busy", "one"])

    sleeper.kill()
    sleeper.wait(10)
    list(Installer(node).install(one))

    assert Versions(node).names() == ["one"]


def test_nothing_is_removed_under_a_pod(node: Node, sleeper: subprocess.Popen[bytes]) -> None:
    """A removal is refused while a pod runs, and possible once it has exited."""
    installer = Installer(node)
    text = node.at(node.containerd).read_text("utf-8")
    with pytest.raises(FailedPrecondition, match="running pods use busy"):
        list(installer.remove())
    assert node.at(node.containerd).read_text("utf-8") == text

    sleeper.kill()
    installer.wait_until_unused(10.0)

    list(installer.remove())
    assert node.at(node.containerd).read_text("utf-8") == V3


def run_installer(node: Node, one: Path, owner: str, folder: Path) -> subprocess.Popen[bytes]:
    """Start `run` and wait until it has installed."""
    ready = folder / f"ready-{owner}"
    given = ("--root", node.root, "--bundle", one, "--ready", ready, "--owner", owner)
    argv = [sys.executable, "-m", "hack.kubernetes.node", "run", *map(str, given)]
    process = subprocess.Popen(argv, cwd=ROOT)
    wait_until(ready.exists, "the installation", 30.0)
    return process


def test_run_removes_when_it_is_terminated(node: Node, one: Path, tmp_path: Path) -> None:
    """Of two that run on a node, as in a rolling update, only the last removes the runtime."""
    first = run_installer(node, one, "first", tmp_path)
    second = run_installer(node, one, "second", tmp_path)

    first.send_signal(signal.SIGTERM)
    assert first.wait(30) == 0
    assert Versions(node).names() == ["one"]
    second.send_signal(signal.SIGTERM)
    assert second.wait(30) == 0

    assert not node.at(node.prefix).exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="entering a mount namespace needs root")
def test_a_thread_beside_others_enters_a_mount_namespace() -> None:
    """A fork handler may have started threads, with which the root directory is shared."""
    with Path("/proc/self/ns/mnt").open("rb") as namespace, ThreadPoolExecutor(1) as thread:
        thread.submit(daemon._enter, namespace.fileno()).result()


@pytest.mark.skipif(os.geteuid() != 0, reason="entering a mount namespace needs root")
def test_systemd_is_asked_by_systemctl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The unit is restarted by the node's systemctl; an error has its reason."""
    systemctl = tmp_path / "systemctl"
    lines = ("#!/bin/sh", 'echo "$@" >>"$0.log"', 'test "$2" = good.service && exit', "echo no >&2")
    systemctl.write_text("\n".join((*lines, "exit 1", "")), "utf-8")
    systemctl.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")

    SystemdUnit("good.service", os.getpid()).restart()
    with pytest.raises(Unavailable, match=r"systemctl restart bad.service failed: no"):
        SystemdUnit("bad.service", os.getpid()).restart()

    log = (tmp_path / "systemctl.log").read_text("utf-8")
    assert log == "restart good.service\nrestart bad.service\n"


def test_a_bundle_has_what_the_shim_requires() -> None:
    """The distributions of a bundle are those that ours requires, without development tools."""
    names = {name.lower() for name in bundle.closure(bundle.DISTRIBUTION)}

    assert {"cryoshim", "msgspec", "blake3", "grpcio", "typing-extensions"} <= names
    assert not names & {"pytest", "mypy", "cryoshim-selftest"}
