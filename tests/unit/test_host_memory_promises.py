"""Promises of memory: no two processes take the same, and none outlives its process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from shim.errors import NotFound
from shim.host.memory_promises import MemoryPromise, promise

_OTHER = """
import sys
from pathlib import Path
from shim.host.memory_promises import promise
held = promise(Path(sys.argv[1]), 100, 100)
print(type(held).__name__, flush=True)
sys.stdin.read()
"""


def _made(file: Path, needed: int, free: int) -> MemoryPromise:
    found = promise(file, needed, free)
    assert isinstance(found, MemoryPromise)
    return found


def test_sum_of_the_promises(tmp_path: Path) -> None:
    """What is left is what is free without those that are made, in any order of their ends."""
    file = tmp_path / "promises"
    first, second, third = _made(file, 10, 60), _made(file, 20, 60), _made(file, 30, 60)

    assert promise(file, 1, 60) == 0
    assert promise(file, 10, 65) == 5
    second.close()
    second.close()
    assert promise(file, 21, 60) == 20
    fourth = _made(file, 20, 60)
    first.close()
    third.close()
    assert promise(file, 41, 60) == 40
    fourth.close()


def test_killed_process_promises_nothing(tmp_path: Path) -> None:
    """The kernel ends the promise of a process with it."""
    file = tmp_path / "promises"
    argv = [sys.executable, "-c", _OTHER, str(file)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"MemoryPromise\n"
        assert promise(file, 1, 100) == 0
        os.kill(other.pid, signal.SIGKILL)
        other.wait(30)

    _made(file, 100, 100).close()


def test_file_cannot_be_made(tmp_path: Path) -> None:
    """A missing state directory is a typed error."""
    with pytest.raises(NotFound):
        promise(tmp_path / "missing" / "promises", 1, 1)
