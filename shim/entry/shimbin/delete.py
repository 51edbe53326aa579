"""`delete`: clean up after a shim that is gone, or confirm that nothing is left. Safe to repeat.

containerd gives it five seconds and runs it after every task, so it loads neither asyncio nor
grpc, and touches only what the task's record names.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tomllib
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from shim import bundle as bundle_files
from shim.api.containerd.task.v3 import shim_pb2
from shim.entry.shimbin import paths
from shim.entry.shimbin.flags import Flags
from shim.errors import CryoError
from shim.host import exact, files, mounts
from shim.host.environment import CHILD_UMASK, environment
from shim.runsc import statefile
from shim.runsc.argv import Global, delete, runsc_id

_KILLED = 137
_UNKNOWN = 255
_RUNSC_S = 3.0
_DEAD_S = 1.0
_RECORD = "task.json"
_RECORD_LIMIT = 1 << 20


def run(flags: Flags) -> None:
    """Remove what is left of the task and print a DeleteResponse."""
    bundle = Path(flags.bundle) if flags.bundle else Path.cwd()
    paths.recall_settings(str(bundle))
    link = bundle / bundle_files.LINK
    folder = link.readlink() if link.is_symlink() else _folder(flags)
    record = _record(folder)
    if record and not record.get("owner"):
        # The sidecar's, which takes its tasks over when it is back; containerd has lost sight only.
        sys.stdout.buffer.write(_answer(record, _UNKNOWN).SerializeToString())
        return
    _kill(record)
    if record:
        _remove(record, folder, flags)
    elif flags.id and not (folder / _RECORD).exists():
        # A shim that was killed before it could write down what it was at.
        with contextlib.suppress(CryoError):
            files.remove_tree(folder)
    with contextlib.suppress(CryoError):
        mounts.unmount(bundle / "rootfs", lazy=True)
    for path in {record.get("owner"), paths.socket_of(str(bundle))}:
        if path and paths.is_stale(path):
            Path(path).unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        link.unlink()
    sys.stdout.buffer.write(_answer(record, _KILLED).SerializeToString())


def _settings() -> dict[str, Any]:
    try:
        return tomllib.loads(Path(paths.config_path()).read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}


def _folder(flags: Flags) -> Path:
    state = str(_settings().get("paths", {}).get("state", "/run/cryo"))
    part = paths.of_containerd(state, flags.address)
    return Path(part) / "tasks" / flags.namespace / flags.id


def _record(folder: Path) -> dict[str, Any]:
    try:
        found = json.loads(files.read_bounded(folder / _RECORD, _RECORD_LIMIT))
    except (CryoError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _kill(record: dict[str, Any]) -> None:
    """End the sandbox, exactly it, and wait for its end."""
    for name in ("maker", ""):
        prefix = f"{name}_" if name else ""
        pid, start = int(record.get(f"{prefix}pid", 0)), int(record.get(f"{prefix}start", 0))
        fd = exact.open_pidfd(pid, start) if pid else None
        if fd is None:
            continue
        try:
            signal.pidfd_send_signal(fd, signal.SIGKILL)
            select.select([fd], [], [], _DEAD_S)
        except ProcessLookupError:
            continue
        finally:
            os.close(fd)


def _remove(record: dict[str, Any], folder: Path, flags: Flags) -> None:
    runsc = Global(
        binary=shutil.which(_settings().get("runsc", {}).get("binary", "runsc")) or "runsc",
        root=str(folder.parents[2] / "runsc" / flags.namespace),
    )
    statefile.before_delete(Path(runsc.root), runsc_id(flags.id))
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        subprocess.run(
            runsc.argv("delete", *delete(flags.id)),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=_RUNSC_S,
            env=environment(),
            umask=CHILD_UMASK,
            check=False,
        )
    with contextlib.suppress(CryoError):
        if record.get("mounts"):
            mounts.unmount(Path(record["rootfs"]), lazy=True)
    _remove_staging(folder)
    image = str(record.get("image_path", ""))
    if bundle_files.is_unpacked(str(record.get("bundle", "")), image):
        with contextlib.suppress(CryoError):
            files.remove_tree(Path(image))
    with contextlib.suppress(CryoError):
        files.remove_tree(folder)


def _remove_staging(folder: Path) -> None:
    """Close an open journal: an image that was being made goes; a complete one stays."""
    try:
        journal = json.loads(files.read_bounded(folder / "journal.json", _RECORD_LIMIT))
    except (CryoError, ValueError, RecursionError):
        return
    if not isinstance(journal, dict):
        return
    staging = journal.get("staging", "")
    if staging and not journal.get("committed"):
        with contextlib.suppress(CryoError):
            files.remove_tree(Path(staging))


def _answer(record: dict[str, Any], otherwise: int) -> shim_pb2.DeleteResponse:
    ended = record.get("exit") or {}
    answer = shim_pb2.DeleteResponse(
        pid=int(record.get("pid", 0)), exit_status=int(ended.get("status", otherwise))
    )
    at = datetime.fromisoformat(ended["at"]) if ended.get("at") else datetime.now(UTC)
    answer.exited_at.FromDatetime(at)
    return answer
