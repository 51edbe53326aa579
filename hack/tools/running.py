"""Runs other programs, with a one-line reason if they fail."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

PROBE_S = 15.0


class NotHere(Exception):
    """A source does not have the tool; the message is the reason, on one line."""


def run(
    argv: Sequence[str | Path],
    *,
    timeout_s: float,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
) -> str:
    """Run a program in a new session and return its standard output.

    Raises:
        NotHere: it is missing, fails or times out; the message has its last line of stderr.
    """
    name = Path(argv[0]).name
    try:
        process = subprocess.Popen(
            [str(part) for part in argv],
            cwd=cwd,
            env=None if env is None else {**os.environ, **env},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,
        )
    except OSError as error:
        message = f"cannot run {name}: {error.strerror}"
        raise NotHere(message) from error
    out, err = communicate(process, name, timeout_s)
    if process.returncode:
        message = f"{name} {argv[1]}: {last_line(err or out)}"
        raise NotHere(message)
    return out


def communicate(process: subprocess.Popen[str], name: str, timeout_s: float) -> tuple[str, str]:
    """Return a process's output; on a timeout or an interrupt kill its process group."""
    try:
        return process.communicate(timeout=timeout_s)
    except BaseException as error:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        if isinstance(error, subprocess.TimeoutExpired):
            message = f"{name} did not finish in {timeout_s:g} s"
            raise NotHere(message) from error
        raise


def last_line(text: str) -> str:
    """Return the last line that is not empty, truncated."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:300] if lines else "failed without output"


def need(*programs: str) -> None:
    """Raise NotHere naming the first program that is missing."""
    for program in programs:
        if not shutil.which(program):
            message = f"{program} is not installed"
            raise NotHere(message)
