"""What `delete` leaves alone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

from shim import bundle as bundle_files
from shim.api.containerd.task.v3 import shim_pb2
from shim.entry.shimbin import delete, paths
from shim.entry.shimbin import flags as command_line
from shim.host import procs
from shim.transaction.journal import Journal, Operation


def test_a_task_of_the_sidecar_stays(
    tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    """A task that containerd has only lost sight of runs on: the answer is 255, and all stays."""
    folder, bundle = tmp_path / "task", tmp_path / "bundle"
    folder.mkdir()
    bundle.mkdir()
    (folder / "task.json").write_text(json.dumps({"pid": 0, "owner": ""}), "utf-8")
    (bundle / bundle_files.LINK).symlink_to(folder)
    argv = ["-namespace", "n", "-id", "one", "-address", "/a", "-bundle", str(bundle), "delete"]

    delete.run(command_line.parse(argv))

    answer = shim_pb2.DeleteResponse.FromString(capfdbinary.readouterr().out)
    assert answer.exit_status == 255
    assert (folder / "task.json").exists()
    assert (bundle / bundle_files.LINK).is_symlink()


@pytest.mark.parametrize(
    ("record", "stays"),
    ((json.dumps({"pid": 0, "owner": "shim"}), False), ("", False), ("damaged", True)),
    ids=("a record", "none", "a damaged one"),
)
def test_the_settings_that_start_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, record: str, stays: bool
) -> None:
    """Where the runtime options named a settings file, that one says where the task is.

    A shim that was killed early has left no record there; what cannot be read may be anybody's.
    """
    monkeypatch.setenv("CRYO_CONFIG", str(tmp_path / "usual.toml"))
    config, bundle = tmp_path / "other.toml", tmp_path / "bundle"
    bundle.mkdir()
    config.write_text(f'[paths]\nstate = "{tmp_path}/state"\n', "utf-8")
    monkeypatch.chdir(bundle)
    assert paths.choose_config(str(config)) == str(config)
    monkeypatch.setenv("CRYO_CONFIG", str(tmp_path / "usual.toml"))
    folder = Path(paths.of_containerd(f"{tmp_path}/state", "/a")) / "tasks/n/one"
    folder.mkdir(parents=True)
    if record:
        (folder / "task.json").write_text(record, "utf-8")
    argv = ["-namespace", "n", "-id", "one", "-address", "/a", "-bundle", str(bundle), "delete"]

    delete.run(command_line.parse(argv))

    assert folder.exists() is stays


def test_runsc_gets_little_of_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of containerd's environment, which may hold secrets, it gets what programs need."""
    runsc, seen, bundle = tmp_path / "runsc", tmp_path / "seen", tmp_path / "bundle"
    runsc.write_text(f"#!/bin/sh\n(env; umask) >> {seen}\n")
    runsc.chmod(0o755)
    config = tmp_path / "config.toml"
    config.write_text(f'[paths]\nstate = "{tmp_path}/state"\n[runsc]\nbinary = "{runsc}"\n')
    monkeypatch.setenv("CRYO_CONFIG", str(config))
    monkeypatch.setenv("A_TOKEN", "secret")
    bundle.mkdir()
    monkeypatch.chdir(bundle)
    folder = Path(paths.of_containerd(f"{tmp_path}/state", "/a")) / "tasks/n/one"
    folder.mkdir(parents=True)
    (folder / "task.json").write_text(json.dumps({"pid": 0, "owner": "shim"}), "utf-8")
    argv = ["-namespace", "n", "-id", "one", "-address", "/a", "-bundle", str(bundle), "delete"]
    before = os.umask(0o077)
    try:
        delete.run(command_line.parse(argv))
    finally:
        os.umask(before)

    assert "PATH=" in seen.read_text()
    assert seen.read_text().endswith("0022\n")
    assert "secret" not in seen.read_text()


def test_no_task_is_not_all_tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without an id nothing of a namespace is removed."""
    monkeypatch.setenv("CRYO_CONFIG", str(tmp_path / "config.toml"))
    (tmp_path / "config.toml").write_text(f'[paths]\nstate = "{tmp_path}/state"\n', "utf-8")
    (tmp_path / "bundle").mkdir()
    folder = Path(paths.of_containerd(f"{tmp_path}/state", "/a")) / "tasks/n/one"
    folder.mkdir(parents=True)
    argv = ["-namespace", "n", "-address", "/a", "-bundle", str(tmp_path / "bundle"), "delete"]

    delete.run(command_line.parse(argv))

    assert folder.exists()


def test_the_end_of_an_interrupted_save(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The runsc that saves the task is killed before the unfinished image is removed.

    It would make the folder of the image again.
    """
    monkeypatch.setenv("CRYO_CONFIG", str(tmp_path / "config.toml"))
    (tmp_path / "config.toml").write_text(f'[paths]\nstate = "{tmp_path}/state"\n', "utf-8")
    folder = Path(paths.of_containerd(f"{tmp_path}/state", "/a")) / "tasks/n/one"
    bundle, staging = tmp_path / "bundle", tmp_path / "images/.cryo-staging-1"
    for path in (folder, bundle, staging):
        path.mkdir(parents=True)
    (folder / "task.json").write_text(json.dumps({"pid": 0, "owner": f"{tmp_path}/s"}), "utf-8")
    argv = ["-namespace", "n", "-id", "one", "-address", "/a", "-bundle", str(bundle), "delete"]
    with subprocess.Popen(["sleep", "60"]) as saving:
        journal = Journal(folder)
        journal.open(Operation.CHECKPOINT, str(tmp_path / "images/a"))
        start = procs.start_time(saving.pid)
        assert start
        journal.note(staging=str(staging), save_pid=saving.pid, save_start=start)

        delete.run(command_line.parse(argv))

        try:
            assert saving.poll() == -signal.SIGKILL
        finally:
            saving.kill()
    assert not staging.exists()
