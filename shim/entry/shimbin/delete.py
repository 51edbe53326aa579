"""`delete`: cleans up after a shim that has died. Idempotent.

containerd runs it after every task, with a timeout of five seconds. So it loads neither asyncio nor
grpc, and changes only what the task's record names.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import NamedTuple

from shim import bundle as bundle_files
from shim.api.containerd.task.v3 import shim_pb2
from shim.config import Paths, Runsc
from shim.entry.shimbin import paths
from shim.entry.shimbin.flags import Flags
from shim.errors import CryoError
from shim.host import files, mounts, pid_identity
from shim.host.environment import CHILD_UMASK, environment
from shim.host.exit_status import SIGKILL_STATUS, UNKNOWN_STATUS
from shim.model import Exit, utcnow
from shim.runsc import statefile
from shim.runsc.argv import Global, delete, runsc_id
from shim.runsc.program import which
from shim.task import record as records
from shim.task.record import CleanupRecord
from shim.transaction.journal import Entry, Journal

_RUNSC_TIMEOUT_S = 3.0
_KILL_TIMEOUT_S = 1.0


class _Settings(NamedTuple):
    """The settings that `delete` needs."""

    state: str
    runsc: str


def run(flags: Flags) -> None:
    """Remove what is left of the task and print a DeleteResponse."""
    bundle = Path(flags.bundle) if flags.bundle else Path.cwd()
    settings = _settings(paths.config_of(str(bundle)))
    link = bundle / bundle_files.LINK
    folder = link.readlink() if link.is_symlink() else _folder(settings, flags)
    record = _record(folder)
    if record is not None and not record.owner:
        # A task of the sidecar, which adopts it when it restarts: it keeps running.
        _print_response(record, UNKNOWN_STATUS)
        return
    if record is not None:
        entry = _journal(folder)
        _kill(record, entry)
        _remove(record, entry, folder, settings, flags)
    elif flags.id and not (folder / records.NAME).exists():
        # A shim that was killed before it wrote its record.
        with contextlib.suppress(CryoError):
            files.remove_tree(folder)
    with contextlib.suppress(CryoError):
        mounts.unmount(bundle / "rootfs", lazy=True)
    for path in (record.owner if record else None, paths.socket_of(str(bundle))):
        if path and paths.is_stale(path):
            Path(path).unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        link.unlink()
    _print_response(record, SIGKILL_STATUS)


def _settings(config: str) -> _Settings:
    """Read the settings; an invalid file gives the defaults."""
    try:
        found = tomllib.loads(Path(config).read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        found = {}
    state = found.get("paths", {}).get("state", Paths().state)
    return _Settings(state, found.get("runsc", {}).get("binary", Runsc().binary))


def _folder(settings: _Settings, flags: Flags) -> Path:
    part = paths.of_containerd(settings.state, flags.address)
    return Path(part) / "tasks" / flags.namespace / flags.id


def _record(folder: Path) -> CleanupRecord | None:
    with contextlib.suppress(CryoError):
        return records.load_for_cleanup(folder)
    return None


def _journal(folder: Path) -> Entry | None:
    with contextlib.suppress(CryoError):
        return Journal(folder).load()
    return None


def _kill(record: CleanupRecord, entry: Entry | None) -> None:
    """Kill the sandbox, and the runsc that creates or saves it, and wait until they exit.

    One that saves it makes the folder of the image again if that is removed before.
    """
    known = [(record.creator_pid, record.creator_start), (record.pid, record.start)]
    if entry is not None:
        known.insert(0, (entry.save_pid, entry.save_start))
    for pid, start in known:
        fd = pid_identity.open_pidfd(pid, start) if pid else None
        if fd is None:
            continue
        try:
            signal.pidfd_send_signal(fd, signal.SIGKILL)
            select.select([fd], [], [], _KILL_TIMEOUT_S)
        except ProcessLookupError:
            continue
        finally:
            os.close(fd)


def _remove(
    record: CleanupRecord, entry: Entry | None, folder: Path, settings: _Settings, flags: Flags
) -> None:
    runsc = Global(
        binary=which(settings.runsc) or "runsc",
        root=str(folder.parents[2] / "runsc" / flags.namespace),
    )
    statefile.before_delete(Path(runsc.root), runsc_id(flags.id))
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        subprocess.run(
            runsc.argv("delete", *delete(flags.id)),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=_RUNSC_TIMEOUT_S,
            env=environment(),
            umask=CHILD_UMASK,
            check=False,
        )
    with contextlib.suppress(CryoError):
        if record.mounts:
            mounts.unmount(Path(record.rootfs), lazy=True)
    with contextlib.suppress(CryoError):
        if entry is not None and (staging := entry.unfinished_image) is not None:
            files.remove_tree(staging)
    if bundle_files.is_unpacked(record.bundle, record.image_path):
        with contextlib.suppress(CryoError):
            files.remove_tree(Path(record.image_path))
    with contextlib.suppress(CryoError):
        files.remove_tree(folder)


def _print_response(record: CleanupRecord | None, status: int) -> None:
    """Print the exit in the record, or else `status` with the current time."""
    exit_ = (record.exit if record else None) or Exit(status=status, at=utcnow())
    response = shim_pb2.DeleteResponse(pid=record.pid if record else 0, exit_status=exit_.status)
    response.exited_at.FromDatetime(exit_.at)
    sys.stdout.buffer.write(response.SerializeToString())
