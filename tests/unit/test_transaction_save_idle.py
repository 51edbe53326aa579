"""When a save is over whose end is not announced."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from shim.cuda.tool_processes import init_of, tool_processes
from shim.runsc.output import GuestProcess
from shim.transaction.save_idle import writes

ROWS = [
    GuestProcess(pid=1, parent=0, command="init"),
    GuestProcess(pid=4, parent=0, command="bash"),
    GuestProcess(pid=5, parent=1, command="train"),
    GuestProcess(pid=9, parent=0, command="cuda-checkpoint"),
]


def test_tool_processes_have_no_parent() -> None:
    """But for init, and for those who were there before."""
    assert init_of(ROWS) == 1
    assert [row.pid for row in tool_processes(ROWS, (4,))] == [9]
    assert tool_processes([], ()) == []


@pytest.mark.parametrize("removed", (False, True))
def test_an_open_file_is_a_save_that_goes_on(tmp_path: Path, removed: bool) -> None:
    """Also when the staging folder is gone already; a folder of a like name is another."""
    folder = tmp_path / "image"
    folder.mkdir()
    path = folder / "checkpoint.img"
    with path.open("wb"):
        if removed:
            path.unlink()
        assert writes(os.getpid(), folder)
        assert not writes(os.getpid(), tmp_path / "imag")
    assert not writes(os.getpid(), folder)
    assert not writes(1 << 22, folder)
