"""Runs a command whose time is measured.

With a timeout and without a pipe `subprocess` looks for the exit in steps of up to 50 ms, which
adds 25 ms on average to what the command takes. Here a pidfd reports the exit.
"""

from __future__ import annotations

import os
import select
import subprocess
from collections.abc import Sequence
from typing import IO

_NOTHING = subprocess.DEVNULL


def run(
    argv: Sequence[str],
    *,
    limit_s: float,
    stdout: int | IO[bytes] = _NOTHING,
    stderr: int | IO[bytes] | None = None,
) -> int:
    """Run a command without input; return its exit status. Its streams must not be pipes.

    Raises:
        TimeoutError: it did not exit in time, and was killed.
    """
    process = subprocess.Popen(argv, stdin=_NOTHING, stdout=stdout, stderr=stderr)
    with process:
        if not _exits(process.pid, limit_s):
            process.kill()
            message = f"{argv[0]} did not exit in {limit_s:g} s"
            raise TimeoutError(message)
        return process.wait()


def check(
    argv: Sequence[str],
    *,
    limit_s: float,
    stdout: int | IO[bytes] = _NOTHING,
    stderr: int | IO[bytes] | None = None,
) -> None:
    """Run a command that has to succeed.

    Raises:
        subprocess.CalledProcessError: its exit status is not 0.
        TimeoutError: it did not exit in time, and was killed.
    """
    if status := run(argv, limit_s=limit_s, stdout=stdout, stderr=stderr):
        raise subprocess.CalledProcessError(status, list(argv))


def _exits(pid: int, limit_s: float) -> bool:
    exited = os.pidfd_open(pid)
    try:
        return bool(select.select([exited], [], [], limit_s)[0])
    finally:
        os.close(exited)
