"""runsc's own file about a container, and what it is not careful with.

It empties the file and then writes it (runsc/container/state_file.go). Cut off in between, no
command can be used on the container any more, though it runs. And it believes the process numbers
in it forever, even when they are reused.
"""

from __future__ import annotations

import json
import logging
from itertools import pairwise
from pathlib import Path
from typing import Any

from shim.errors import CryoError
from shim.host.files import read_bounded, write_atomic

_LIMIT_BYTES = 16 << 20
_PROC = Path("/proc")
_log = logging.getLogger(__name__)


def files_of(root: Path, name: str) -> list[Path]:
    """List the files of exactly the container that runsc knows by this name: one, or none."""
    return [*root.glob(f"{name}_sandbox:*.state")]


def remove_lock(root: Path, name: str) -> None:
    """Remove the lock of a container that is not there.

    A runsc that was killed before it had written its state leaves it.
    """
    if not files_of(root, name):
        for path in root.glob(f"{name}_sandbox:*.lock"):
            path.unlink(missing_ok=True)


class StateFile:
    """What the file says before a command that writes it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._before = _read(path)
        self._mode = _mode(path)

    def repair(self) -> None:
        """Put the file back if it was cut off; what a command has not written it has not done."""
        if not _is_whole(self._before) or _is_whole(_read(self._path)):
            return
        _log.warning("%s was cut off: it is put back as it was", self._path)
        try:
            write_atomic(self._path, self._before, self._mode)
        except CryoError as error:
            _log.warning("%s cannot be put back: %s", self._path, error)


def before_delete(root: Path, name: str) -> None:
    """Make a container's file ready for `runsc delete`."""
    for path in files_of(root, name):
        forget_ended(path)


def forget_ended(path: Path, proc: Path = _PROC) -> None:
    """Take the numbers of processes that have exited out of a file, before `runsc delete`.

    That one sends SIGKILL to each number without a look at who has it (Sandbox.destroy and
    Container.stop in runsc), and on a busy host this is soon somebody else: another's sandbox.
    """
    try:
        state = json.loads(_read(path))
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
        _log.warning("%s has numbers of ended processes: %s", path, error)


def gofer_pid(root: Path, name: str) -> int:
    """Return the number of a container's gofer; 0 where it has none, or none that lives."""
    for path in files_of(root, name):
        try:
            state = json.loads(_read(path))
        except (ValueError, RecursionError):
            continue
        pid = state.get("goferPid") if isinstance(state, dict) else None
        if type(pid) is int and pid > 0 and _is_ours(pid, state, _PROC):
            return pid
    return 0


def _numbers(state: dict[str, Any]) -> list[tuple[dict[str, Any], str]]:
    """List where the numbers stand that a delete kills; a member's sandbox is not one of them."""
    places = [(state, "goferPid")]
    sandbox = state.get("sandbox")
    if isinstance(sandbox, dict) and sandbox.get("id") == state.get("id"):
        places.append((sandbox, "pid"))
    return [(at, name) for at, name in places if at.get(name)]


def _is_ours(pid: object, state: dict[str, Any], proc: Path) -> bool:
    """Whether a process was started for this container, by the bundle that it was given."""
    try:
        raw = (proc / str(pid) / "cmdline").read_bytes()
    except OSError:
        return False
    words, bundle = raw.decode("utf-8", "replace").split("\0"), str(state.get("bundleDir"))
    return f"--bundle={bundle}" in words or ("--bundle", bundle) in pairwise(words)


def _read(path: Path) -> bytes:
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
