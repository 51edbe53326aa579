"""Protects runsc's state file of a container from two weaknesses of runsc.

runsc truncates the file and then writes it (runsc/container/state_file.go). If it is killed in
between, no command works on the container any more, although it runs. runsc also never checks the
pids in the file, even after they were reused.
"""

from __future__ import annotations

import json
import logging
import os
from itertools import pairwise
from pathlib import Path
from typing import Any

from shim.errors import CryoError
from shim.host.files import read_bounded, write_atomic

_LIMIT_BYTES = 16 << 20
_PROC = Path("/proc")
_log = logging.getLogger(__name__)


def files_of(root: Path, name: str) -> list[Path]:
    """List the state files of the container with exactly this runsc id: one, or none."""
    return _named(root, name, ".state")


def _named(root: Path, name: str, suffix: str) -> list[Path]:
    """List the files of a container. `Path.glob` would compile a pattern for each name."""
    begin = f"{name}_sandbox:"
    try:
        names = os.listdir(root)  # noqa: PTH208 - as above: before each runsc command
    except FileNotFoundError:
        return []
    return [root / each for each in names if each.startswith(begin) and each.endswith(suffix)]


def remove_lock(root: Path, name: str) -> None:
    """Remove the lock file of a container that does not exist.

    A runsc that is killed before it writes the state file leaves it.
    """
    if not files_of(root, name):
        for path in _named(root, name, ".lock"):
            path.unlink(missing_ok=True)


class StateFile:
    """A state file's content before a command that writes it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._before = read(path)
        self._mode = _mode(path)

    def repair(self) -> None:
        """Restore the file if it was truncated: a command that wrote no state changed none."""
        if not _is_whole(self._before) or _is_whole(read(self._path)):
            return
        _log.warning("%s was truncated: restoring its previous content", self._path)
        try:
            write_atomic(self._path, self._before, self._mode)
        except CryoError as error:
            _log.warning("cannot restore %s: %s", self._path, error)


def before_delete(root: Path, name: str) -> None:
    """Prepare a container's state file for `runsc delete`."""
    for path in files_of(root, name):
        forget_ended(path)


def forget_ended(path: Path, proc: Path = _PROC) -> None:
    """Remove the pids of exited processes from a file, before `runsc delete`.

    That sends SIGKILL to each pid without a check (Sandbox.destroy and Container.stop in runsc),
    and on a busy host a pid is soon reused, for instance by another sandbox.
    """
    try:
        state = json.loads(read(path))
    except (ValueError, RecursionError):
        return
    if not isinstance(state, dict):
        return
    ended = [(at, name) for at, name in _numbers(state) if not _is_ours(at[name], state, proc)]
    if not ended:
        return
    for at, name in ended:
        at[name] = 0
    try:
        write_atomic(path, json.dumps(state).encode(), _mode(path))
    except CryoError as error:
        _log.warning("cannot remove the pids of exited processes from %s: %s", path, error)


def gofer_pid(root: Path, name: str) -> int:
    """Return the pid of a container's gofer; 0 if it has none, or it has exited."""
    for path in files_of(root, name):
        try:
            state = json.loads(read(path))
        except (ValueError, RecursionError):
            continue
        pid = state.get("goferPid") if isinstance(state, dict) else None
        if type(pid) is int and pid > 0 and _is_ours(pid, state, _PROC):
            return pid
    return 0


def _numbers(state: dict[str, Any]) -> list[tuple[dict[str, Any], str]]:
    """List the fields with pids that a delete kills, which excludes a member's sandbox."""
    places = [(state, "goferPid")]
    sandbox = state.get("sandbox")
    if isinstance(sandbox, dict) and sandbox.get("id") == state.get("id"):
        places.append((sandbox, "pid"))
    return [(at, name) for at, name in places if at.get(name)]


def _is_ours(pid: object, state: dict[str, Any], proc: Path) -> bool:
    """Whether a process was started for this container, judged by its `--bundle`."""
    try:
        raw = (proc / str(pid) / "cmdline").read_bytes()
    except OSError:
        return False
    words, bundle = raw.decode("utf-8", "replace").split("\0"), str(state.get("bundleDir"))
    return f"--bundle={bundle}" in words or ("--bundle", bundle) in pairwise(words)


def read(path: Path) -> bytes:
    """Return a state file; nothing if it cannot be read."""
    try:
        return read_bounded(path, _LIMIT_BYTES)
    except CryoError:
        return b""


def _mode(path: Path) -> int:
    try:
        return path.stat().st_mode & 0o777
    except OSError:
        return 0o600


def _is_whole(data: bytes) -> bool:
    try:
        return isinstance(json.loads(data), dict)
    except (ValueError, RecursionError):
        return False
