"""Commands whose time the benchmark measures."""

from __future__ import annotations

import os
import subprocess
import tempfile

import pytest

from hack.bench import command
from shim.host import procs

_LIMIT_S = 30.0


def _no_sleep(seconds: float) -> None:
    raise AssertionError(seconds)


def test_an_exit_is_not_looked_for_in_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps would add to the time; those of subprocess fail the same check."""
    monkeypatch.setattr("time.sleep", _no_sleep)
    assert command.run(["sh", "-c", "sleep 0.2; exit 3"], limit_s=_LIMIT_S) == 3
    with pytest.raises(AssertionError):
        subprocess.run(["sleep", "0.2"], timeout=_LIMIT_S, check=True)


def test_output_goes_to_files() -> None:
    """Files stay readable while a process that was left behind has them open."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as said:
        script = "echo one; echo two >&2"
        assert command.run(["sh", "-c", script], limit_s=_LIMIT_S, stdout=out, stderr=said) == 0
        out.seek(0)
        said.seek(0)
        assert (out.read(), said.read()) == (b"one\n", b"two\n")


def test_a_command_that_has_to_succeed() -> None:
    """The error has the exit status."""
    command.check(["true"], limit_s=_LIMIT_S)
    with pytest.raises(subprocess.CalledProcessError) as caught:
        command.check(["sh", "-c", "exit 4"], limit_s=_LIMIT_S)
    assert caught.value.returncode == 4


def test_a_command_that_does_not_exit_is_killed() -> None:
    """It is reaped as well."""
    before = set(procs.children(os.getpid()))
    with pytest.raises(TimeoutError, match=r"sleep did not exit in 0\.1 s"):
        command.run(["sleep", "1000"], limit_s=0.1)
    assert set(procs.children(os.getpid())) <= before
