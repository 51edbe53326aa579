"""`cryo install` and `cryo uninstall`, on files of the test."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import tomllib
from pathlib import Path

import click
import pytest

from shim.entry.cli.app import cryo
from shim.errors import (
    AlreadyExists,
    Busy,
    CryoError,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
)
from shim.install import containerd, for_containerd, for_docker
from shim.install.config_file import Change
from shim.install.links import SHIM
from shim.install.runtime import Runtime

CONFIGS = Path(__file__).parents[1] / "configs"
FILE = "containerd-2.1.toml"
FILES = {"containerd": FILE, "docker": "docker.json"}
V2 = '[plugins."io.containerd.grpc.v1.cri"]\n  sandbox_image = "pause"\n'


class Host:
    """A host's directories of configuration and of programs, and the commands on them."""

    def __init__(self, root: Path) -> None:
        self.bin = root / "bin"
        self.link = self.bin / SHIM
        self.shim = root / "opt" / SHIM
        for folder in (self.bin, self.shim.parent, root / "etc"):
            folder.mkdir()
        self.shim.write_bytes(b"")
        self.shim.chmod(0o755)
        self.configs = {name: root / "etc" / file for name, file in FILES.items()}
        self.configs["containerd"].write_bytes((CONFIGS / FILES["containerd"]).read_bytes())
        self.configs["docker"].write_text('{\n  "debug": true\n}\n', "utf-8")

    def run(self, command: str, target: str, *options: str) -> None:
        """Run a command on the files of the test."""
        where = ("--bin-dir", str(self.bin), "--shim", str(self.shim))
        argv = [command, target, "--config", str(self.configs[target]), *where, *options]
        cryo.main(argv, prog_name="cryo", standalone_mode=False)

    def files(self) -> dict[Path, bytes | str]:
        """Return the content of all files, and where links lead."""
        root = self.bin.parent
        found = (path for path in root.rglob("*") if path.is_symlink() or path.is_file())
        return {one: str(one.readlink()) if one.is_symlink() else one.read_bytes() for one in found}


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    """Return a host whose default files are those of the test."""
    made = Host(tmp_path)
    monkeypatch.setattr(for_containerd, "CONFIG", made.configs["containerd"])
    monkeypatch.setattr(for_docker, "CONFIG", made.configs["docker"])
    return made


@pytest.mark.parametrize("target", tuple(FILES))
def test_install_and_uninstall(host: Host, target: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The file keeps mode and owner, has a backup, and in the end all is as before."""
    config, before = host.configs[target], host.files()
    config.chmod(0o640)
    owner = (12345, 54321) if os.geteuid() == 0 else (os.getuid(), os.getgid())
    os.chown(config, *owner)

    host.run("install", target, "--yes")
    output = capsys.readouterr().out

    assert f"changed {config}" in output
    assert "systemctl re" in output
    assert host.link.readlink() == host.shim
    backup = config.with_name(f"{config.name}.before-cryo")
    assert backup.read_bytes() == before[config]
    for path in (config, backup):
        found = path.stat()
        assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (*owner, 0o640)
    after = host.files()
    host.run("install", target)
    assert capsys.readouterr().out == "nothing to do\n"
    assert host.files() == after

    host.run("uninstall", target, "--yes")
    assert host.files() == before
    capsys.readouterr()
    host.run("uninstall", target)
    assert capsys.readouterr().out == "nothing to do\n"


@pytest.mark.parametrize(("command", "sign"), (("install", "+"), ("uninstall", "-")))
def test_a_dry_run_prints_the_diff_alone(
    host: Host, command: str, sign: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is a unified diff of the lines that come or go, and nothing is written."""
    text = host.configs["containerd"].read_text("utf-8")
    added = containerd.added(text, Runtime(str(host.link)), Path("config.toml"))
    if command == "uninstall":
        host.run("install", "containerd", "--yes")
    before = host.files()
    capsys.readouterr()

    host.run(command, "containerd", "--dry-run")
    shown = capsys.readouterr()

    assert host.files() == before
    assert shown.err.startswith(f"{'make' if command == 'install' else 'remove'} the link")
    head, lines = shown.out.split(" @@\n")
    assert head.startswith(f"--- {host.configs['containerd']}\n+++ ")
    changed = [line[1:] for line in lines.splitlines() if line[0] in "+-"]
    assert changed == added.removeprefix(text).splitlines()
    assert {line[0] for line in lines.splitlines()} == {" ", sign}


def test_a_script_must_say_yes(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a terminal and without --yes nothing is done."""
    before = host.files()
    with Path(os.devnull).open() as nothing, monkeypatch.context() as patched:
        patched.setattr(sys, "stdin", nothing)
        with pytest.raises(click.UsageError, match="give --yes"):
            host.run("install", "containerd")

    assert host.files() == before


def test_a_link_stays_while_it_is_used(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    """The link goes with the last configuration that names the runtime."""
    host.run("install", "containerd", "--yes")
    host.run("install", "docker", "--yes")

    host.run("uninstall", "containerd", "--yes")
    assert "stays: another configuration" in capsys.readouterr().err
    assert host.link.is_symlink()
    host.run("uninstall", "docker", "--yes")

    assert not host.link.is_symlink()


def test_a_missing_file_is_made_and_removed(host: Host) -> None:
    """Without a configuration one is made, and goes again."""
    for target, config in host.configs.items():
        config.unlink()
        before = host.files()
        host.run("install", target, "--yes")
        assert stat.S_IMODE(config.stat().st_mode) == 0o644
        host.run("uninstall", target, "--yes")
        assert host.files() == before


def test_a_drop_in_is_used_where_its_directory_is(host: Host) -> None:
    """A directory that is imported gets a file; config.toml is not touched."""
    config = host.configs["containerd"]
    folder = config.parent / "conf.d"
    config.write_text(f'version = 3\nimports = ["{folder}/*.toml"]\n', "utf-8")
    before = host.files()
    folder.mkdir()

    host.run("install", "containerd", "--yes")
    assert config.read_bytes() == before[config]
    assert "plugins" in tomllib.loads((folder / "cryoshim.toml").read_text("utf-8"))
    after = host.files()
    host.run("install", "containerd")
    assert host.files() == after
    host.run("uninstall", "containerd", "--yes")

    assert host.files() == before


def test_an_imported_runtime_is_seen(host: Host) -> None:
    """A runtime of this name in a file that is imported is found there."""
    config = host.configs["containerd"]
    host.run("install", "containerd", "--yes")
    other = config.with_name("other.toml")
    config.rename(other)
    config.write_text('version = 3\nimports = ["other.toml"]\n', "utf-8")
    before = host.files()

    host.run("install", "containerd")
    with pytest.raises(FailedPrecondition, match=r"is in .*other\.toml") as raised:
        host.run("uninstall", "containerd", "--yes")

    assert raised.value.remedy == f"cryo uninstall containerd --config {other}"
    assert host.files() == before


def test_an_import_that_replaces_the_plugin_is_refused(host: Host) -> None:
    """With containerd 1.x the runtime would be lost, so the file to change is named."""
    config = host.configs["containerd"]
    config.write_text('version = 2\nimports = ["other.toml"]\n', "utf-8")
    config.with_name("other.toml").write_text(f"version = 2\n{V2}", "utf-8")

    with pytest.raises(FailedPrecondition, match=r"replaces its CRI plugin in containerd 1\.x"):
        host.run("install", "containerd", "--yes")


def test_a_default_runtime_is_not_removed(host: Host) -> None:
    """Containerd's CRI plugin and Docker would not start without it."""
    host.run("install", "containerd", "--yes")
    host.run("install", "docker", "--yes")
    config = host.configs["containerd"]
    text = config.read_text("utf-8")
    config.write_text(text.replace("= 'runc'", "= 'cryo'"), "utf-8")
    docker = host.configs["docker"]
    docker.write_text(docker.read_text("utf-8").replace("debug", "default-runtime"), "utf-8")
    docker.write_text(docker.read_text("utf-8").replace("true", '"cryo"'), "utf-8")
    before = host.files()

    for target in FILES:
        with pytest.raises(FailedPrecondition, match=r"is the default.runtime"):
            host.run("uninstall", target, "--yes")

    assert host.files() == before


def test_a_disabled_plugin_needs_no_entry(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    """As in Docker's package of containerd: the link is made, the file stays, a note says why."""
    config = host.configs["containerd"]
    text = (CONFIGS / "docker-package.toml").read_bytes()
    config.write_bytes(text)

    host.run("install", "containerd", "--yes")

    assert "disables the CRI plugin" in capsys.readouterr().err
    assert config.read_bytes() == text
    assert host.link.is_symlink()


@pytest.mark.parametrize(
    ("files", "error", "said"),
    (
        ({FILE: (CONFIGS / "k3s.toml").read_bytes()}, FailedPrecondition, "k3s. DO NOT EDIT"),
        ({f"{FILE}.tmpl": b"{{}}"}, FailedPrecondition, "is written from"),
        ({FILE: "real", "real": b""}, FailedPrecondition, "is a symbolic link to real"),
        ({FILE: b"["}, InvalidArgument, "not valid"),
        ({FILE: b"\xff\xfe"}, InvalidArgument, "not UTF-8"),
    ),
    ids=("k3s", "template", "link", "broken", "binary"),
)
def test_a_file_of_another_kind_is_refused(
    host: Host, files: dict[str, bytes | str], error: type[CryoError], said: str
) -> None:
    """Nothing is written, not the link either, and the error has a remedy."""
    for name, content in files.items():
        path = host.configs["containerd"].with_name(name)
        path.unlink(missing_ok=True)
        if isinstance(content, str):
            path.symlink_to(content)
        else:
            path.write_bytes(content)
    before = host.files()

    with pytest.raises(error, match=said) as raised:
        host.run("install", "containerd", "--yes")

    assert raised.value.remedy
    assert host.files() == before


def test_a_link_of_someone_else_is_refused(host: Host) -> None:
    """Another program of this name is not replaced, and not removed; a link to nothing is."""
    other = host.bin / "other"
    other.write_bytes(b"")
    host.link.symlink_to(other)
    before = host.files()

    with pytest.raises(AlreadyExists, match="is another program"):
        host.run("install", "containerd", "--yes")
    host.run("uninstall", "containerd", "--yes")

    assert host.files() == before
    other.unlink()
    host.run("install", "containerd", "--yes")
    assert host.link.readlink() == host.shim


def test_a_missing_shim_is_reported(host: Host) -> None:
    """Without the program nothing is changed."""
    host.shim.unlink()
    before = host.files()

    with pytest.raises(NotFound, match="is not a program"):
        host.run("install", "docker", "--yes")

    assert host.files() == before


def test_a_file_that_changes_in_the_meantime_is_left(tmp_path: Path) -> None:
    """What was shown is not what would be replaced, so nothing is."""
    path = tmp_path / "config.toml"
    path.write_text("new", "utf-8")

    with pytest.raises(Busy, match="changed in the meantime"):
        Change(path, "old", "old and more").apply()

    assert [one.name for one in tmp_path.iterdir()] == ["config.toml"]


def test_other_commands_load_nothing_of_this() -> None:
    """The command line loads what installs only for these commands."""
    code = "import sys, shim.entry.cli.app; print([m for m in sys.modules if 'install' in m])"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)

    assert done.stdout == "[]\n"
