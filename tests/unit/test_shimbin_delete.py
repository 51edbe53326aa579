"""What `delete` leaves alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from shim import bundle as bundle_files
from shim.api.containerd.task.v2 import shim_pb2
from shim.entry.shimbin import delete, places
from shim.entry.shimbin import flags as command_line


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


def test_the_settings_that_start_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the runtime options named a settings file, that one says where the task is."""
    monkeypatch.setenv("CRYO_CONFIG", str(tmp_path / "usual.toml"))
    config, bundle = tmp_path / "other.toml", tmp_path / "bundle"
    bundle.mkdir()
    config.write_text(f'[paths]\nstate = "{tmp_path}/state"\n', "utf-8")
    monkeypatch.chdir(bundle)
    places.use_settings(str(config), b"")
    monkeypatch.setenv("CRYO_CONFIG", str(tmp_path / "usual.toml"))
    folder = Path(places.of_containerd(f"{tmp_path}/state", "/a")) / "tasks/n/one"
    folder.mkdir(parents=True)
    (folder / "task.json").write_text(json.dumps({"pid": 0, "owner": "shim"}), "utf-8")
    argv = ["-namespace", "n", "-id", "one", "-address", "/a", "-bundle", str(bundle), "delete"]

    delete.run(command_line.parse(argv))

    assert not folder.exists()
