"""The program that a sandbox runs: the runsc that created it, whatever is at its path by now.

Only the runsc that wrote an image can read it, and a runsc of another version may not know what a
sandbox answers. A package may have replaced the file since the sandbox was created.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import BinaryIO

from shim.errors import CryoError, Refused
from shim.host import pid_identity
from shim.host.filecalls import file_call
from shim.host.oserror import typed
from shim.host.process_id import ProcessId
from shim.runsc import probe
from shim.runsc.probe import UNVERSIONED, Capabilities

_PIECE_BYTES = 1 << 20
_DELETED = " (deleted)"
# Releases since 2026-07-31 have the sentry in a file of its own, beside runsc.
_FOLDER, _SENTRY = "gvisor-bin", "gvisor_sentry"
# A copy in memory: then nothing says from which file it is.
_IN_MEMORY = "/memfd:"
_SCRIPT = b"#!"
# Pairs of files that have the same content, by their identities.
_same: set[tuple[tuple[int, ...], tuple[int, ...]]] = set()


async def current(able: Capabilities, task: str) -> Capabilities:
    """Return what runsc can do now: `able`, unless its file was replaced.

    Raises:
        Refused: the file is gone.
        Unavailable: what is there now is no runsc.
    """
    try:
        if probe.identity(able.binary) == able.identity:
            return able
    except FileNotFoundError as error:
        message = f"{able.binary}, which the sandbox of task {task} runs, is gone"
        raise Refused(message, remedy=_remedy(able.binary)) from error
    except OSError as error:
        raise typed(error, f"look at {able.binary}") from error
    return await probe.probe(able.binary)


async def check(sandbox: ProcessId, able: Capabilities, task: str) -> None:
    """Check that a sandbox runs the runsc that is in use; nothing is read if it is the same file.

    Raises:
        Refused: it runs another one.
    """
    try:
        if probe.identity(_running(sandbox)) == able.identity:
            return
    except (FileNotFoundError, ProcessLookupError):
        return  # it has exited, which whatever needs it will report
    except OSError as error:
        raise typed(error, f"look at the program of process {sandbox.pid}") from error
    binary = Path(able.binary)
    replaced = await file_call(
        lambda: _replaced(sandbox, binary), doing=f"compare {binary} with what a sandbox runs"
    )
    if replaced is not None:
        saved, now = await _version(sandbox), able.version
        runs = "another build of it" if saved == now else f"runsc {saved}, and not {now}"
        message = f"{replaced} was replaced: the sandbox of task {task} runs {runs}"
        raise Refused(message, remedy=_remedy(str(replaced)))


def _remedy(binary: str) -> str:
    return (
        f"put the runsc that created it back at {binary}, or end the task and start it with the "
        "new one"
    )


def _running(sandbox: ProcessId) -> str:
    return f"/proc/{sandbox.pid}/exe"


def _replaced(sandbox: ProcessId, binary: Path) -> Path | None:
    """Return the file of the runsc in use that is not what the sandbox runs; blocks."""
    try:
        with Path(_running(sandbox)).open("rb") as running:
            name = str(Path(f"/proc/self/fd/{running.fileno()}").readlink())
            if not _is_alive(sandbox) or name.startswith(_IN_MEMORY):
                return None
            other = _counterpart(Path(name.removesuffix(_DELETED)), binary)
            return None if _has_content(other, running) else other
    except (FileNotFoundError, ProcessLookupError):
        return None  # it has exited
    except OSError as error:
        raise typed(error, f"compare {binary} with process {sandbox.pid}") from error


def _counterpart(running: Path, binary: Path) -> Path:
    """Return the file that would be started as a sentry now.

    What a script starts is taken to be at its place still.
    """
    if running.name.startswith(_SENTRY):
        return binary.parent / _FOLDER / running.name
    with binary.open("rb") as file:
        return running if file.read(len(_SCRIPT)) == _SCRIPT else binary


def _has_content(path: Path, of: BinaryIO) -> bool:
    try:
        with path.open("rb") as file:
            return _have_same_content(of, file)
    except FileNotFoundError:
        return False


def _have_same_content(one: BinaryIO, other: BinaryIO) -> bool:
    found = os.fstat(one.fileno()), os.fstat(other.fileno())
    pair = probe.identity_of(found[0]), probe.identity_of(found[1])
    if pair[0] == pair[1] or pair in _same:
        return True
    if found[0].st_size != found[1].st_size:
        return False
    while piece := one.read(_PIECE_BYTES):
        if piece != other.read(_PIECE_BYTES):
            return False
    _same.add(pair)
    return True


def _is_alive(sandbox: ProcessId) -> bool:
    return pid_identity.is_alive(sandbox.pid, sandbox.start)


async def _version(sandbox: ProcessId) -> str:
    """Ask the program of the sandbox, by a descriptor that cannot be of another process."""
    try:
        fd = os.open(_running(sandbox), os.O_PATH | os.O_CLOEXEC)
    except (FileNotFoundError, ProcessLookupError):
        return UNVERSIONED
    try:
        if not _is_alive(sandbox):
            return UNVERSIONED
        return await probe.ask_version(f"/proc/{os.getpid()}/fd/{fd}")
    except CryoError:  # a sentry without that flag: the message says less
        return UNVERSIONED
    finally:
        os.close(fd)
