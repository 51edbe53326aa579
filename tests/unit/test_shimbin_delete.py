"""What `delete` leaves alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from shim import bundle as bundle_files
from shim.api.containerd.task.v2 import shim_pb2
from shim.entry.shimbin import delete
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
