"""The runsc of a bundle: checked, found before that of PATH, and kept while a sandbox runs."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from hack.kubernetes.node import bundle, runsc
from hack.kubernetes.node.install import Installer
from hack.kubernetes.node.paths import Node
from hack.kubernetes.node.versions import Versions
from shim.config import Config
from shim.doctor.host import Host
from shim.errors import FailedPrecondition, InvalidArgument
from shim.runsc import program
from shim.runsc.probe import find_binary
from tests.unit.helpers_bundle import small_bundle


def script(path: Path, text: str) -> Path:
    """Write a script of the shell."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n", "utf-8")
    path.chmod(0o755)
    return path


@pytest.fixture
def release(tmp_path: Path) -> Path:
    """Return a runsc with a helper program beside it."""
    script(tmp_path / "release/gvisor-bin/gvisor_sentry", "exit")
    return script(tmp_path / "release/runsc", "echo runsc version release-20260905.0; echo spec")


@pytest.fixture
def node(tmp_path: Path) -> Node:
    """Return a node without a runsc."""
    made = Node(tmp_path / "root")
    made.at(made.containerd).parent.mkdir(parents=True)
    made.at(made.containerd).write_text("version = 3\nimports = []\n", "utf-8")
    return made


def with_runsc(folder: Path, given: Path) -> Path:
    """Return a bundle with a runsc."""
    small_bundle(folder)
    (folder / "lib/python3.11/site-packages/shim/runsc").mkdir(parents=True)
    runsc.add(folder, given)
    return folder


def test_a_bundle_has_the_runsc_and_its_helpers(tmp_path: Path, release: Path) -> None:
    """The program, the programs that releases have beside it, and a line that says which it is."""
    made = with_runsc(tmp_path / "one", release)

    assert [path.name for path in runsc.programs(made)] == ["gvisor_sentry", "runsc"]
    assert bundle.described(made).startswith("version one, runsc release-20260905.0 (sha256 ")


def test_a_bundle_has_no_other_runsc(tmp_path: Path, release: Path) -> None:
    """One that lies in the checkout is removed from a bundle."""
    made = with_runsc(tmp_path / "one", release)

    runsc.remove(made)

    assert runsc.programs(made) == []


@pytest.mark.parametrize(
    ("text", "reason"),
    (("echo ls 9.1", "is no runsc"), ("echo runsc version 1; exit 1", "is no runsc")),
)
def test_another_program_is_refused(tmp_path: Path, text: str, reason: str) -> None:
    """What does not print a version of runsc is not put into a bundle."""
    with pytest.raises(InvalidArgument, match=reason):
        with_runsc(tmp_path / "one", script(tmp_path / "runsc", text))


def test_what_cannot_be_run_is_refused(tmp_path: Path) -> None:
    """A missing or not executable program is named."""
    with pytest.raises(InvalidArgument, match="absent cannot be run"):
        with_runsc(tmp_path / "one", tmp_path / "absent")


def test_a_runsc_with_libraries_is_refused(
    tmp_path: Path, release: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that is linked dynamically might not run on a node."""
    monkeypatch.setattr(runsc, "needed", lambda _: iter([("libc.so.6", Path("/libc.so.6"))]))

    with pytest.raises(InvalidArgument, match=r"needs libc\.so\.6, which a node may lack"):
        with_runsc(tmp_path / "one", release)


def test_the_packaged_runsc_comes_first(
    tmp_path: Path, release: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`runsc` is the one in the package, then that of PATH; a path is what it says."""
    on_path = script(tmp_path / "bin/runsc", "exit")
    monkeypatch.setenv("PATH", str(on_path.parent))
    host = Host(config=Config())
    assert (find_binary("runsc"), host.find("runsc")) == (str(on_path), str(on_path))

    monkeypatch.setattr(program, "FOLDER", release.parent)

    assert (find_binary("runsc"), host.find("runsc")) == (str(release), str(release))
    assert find_binary(str(on_path)) == str(on_path)


def test_a_node_needs_no_runsc_beside_that_of_the_bundle(
    node: Node, tmp_path: Path, release: Path
) -> None:
    """A bundle with a runsc is installed where there is none; a path in the settings must exist."""
    one = with_runsc(tmp_path / "one", release)
    assert "runsc release-20260905.0" in next(iter(Installer(node).install(one)))

    given = tmp_path / "given.toml"
    given.write_text('[runsc]\nbinary = "/opt/runsc"\n', "utf-8")
    with pytest.raises(FailedPrecondition, match="/opt/runsc is not executable"):
        list(Installer(node).install(one, given))


@pytest.fixture
def sandbox(node: Node, tmp_path: Path, release: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Yield a process of the runsc of an installed version, as a sandbox whose shim was killed."""
    folder = with_runsc(tmp_path / "busy", release)
    (program_of_bundle,) = [path for path in runsc.programs(folder) if path.name == "runsc"]
    program_of_bundle.write_bytes(Path("/bin/sleep").read_bytes())
    list(Installer(node).install(folder))
    installed = runsc.programs(node.at(node.prefix / "versions/busy"))[-1]
    with subprocess.Popen([str(installed), "1000"]) as process:
        try:
            yield process
        finally:
            process.kill()


def test_a_version_is_kept_under_a_sandbox(
    node: Node, tmp_path: Path, release: Path, sandbox: subprocess.Popen[bytes]
) -> None:
    """A version whose runsc runs is in use, also where no Python of it runs."""
    list(Installer(node).install(with_runsc(tmp_path / "one", release)))
    assert [user.pid for user in Versions(node).users("busy")] == [sandbox.pid]
    assert Versions(node).names() == ["busy", "one"]

    sandbox.kill()
    sandbox.wait(10)
    list(Installer(node).install(tmp_path / "one"))

    assert Versions(node).names() == ["one"]
