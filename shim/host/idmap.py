"""Idmapped mounts, as requested by `uidmap=` and `gidmap=` in containerd's mounts.

The kernel takes the id mapping from a user namespace, so one is created, with a single process that
sleeps until its namespace has been opened. Source: mount_setattr(2), open_tree(2).
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import re
import signal
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, NoReturn

from shim.errors import InvalidArgument, Unimplemented
from shim.host.oserror import typed, typed_number

# The same numbers on every architecture that gVisor runs on, except for clone.
_OPEN_TREE, _MOVE_MOUNT, _MOUNT_SETATTR = 428, 429, 442
_CLONE = {"x86_64": 56, "aarch64": 220}
_CLONE_NEWUSER = 0x10000000
_WCLONE = 0x80000000 - (1 << 32)  # as a C int: children without an exit signal
_PR_SET_PDEATHSIG = 1
_AT_FDCWD, _AT_EMPTY_PATH = -100, 0x1000
_OPEN_TREE_CLONE, _MOVE_MOUNT_F_EMPTY_PATH = 1, 4
_MOUNT_ATTR_IDMAP = 0x00100000
_MNT_DETACH, _UMOUNT_NOFOLLOW = 2, 8
_OPTION = re.compile(r"(?P<kind>uid|gid)map=(?P<rows>.*)", re.DOTALL)
_ROWS = re.compile(r"[0-9]{1,10}:[0-9]{1,10}:[0-9]{1,10}(,[0-9]{1,10}:[0-9]{1,10}:[0-9]{1,10})*")

_libc = ctypes.CDLL(None, use_errno=True)
# Holds the GIL during the call: the new process has only this thread, and must not wait for a lock
# that another thread held.
_held = ctypes.PyDLL(None, use_errno=True)


class _Attributes(ctypes.Structure):
    _fields_ = (
        ("attr_set", ctypes.c_uint64),
        ("attr_clr", ctypes.c_uint64),
        ("propagation", ctypes.c_uint64),
        ("userns_fd", ctypes.c_uint64),
    )


class Maps(NamedTuple):
    """Mappings of user and group ids, as lines of /proc/PID/uid_map and gid_map."""

    uids: str
    gids: str


def kernel_has_it() -> bool:
    """Whether the kernel has idmapped mounts (5.12 and newer, for some filesystems)."""
    _libc.syscall(ctypes.c_long(_MOUNT_SETATTR), -1, b"", 0, None, ctypes.c_size_t(0))
    return ctypes.get_errno() != errno.ENOSYS


def taken_out(options: Sequence[str]) -> tuple[tuple[str, ...], Maps | None]:
    """Return the options without `uidmap=` and `gidmap=`, and the mappings in these two.

    Raises:
        InvalidArgument: one of the two without the other, or not as inside:outside:count.
    """
    found = {match["kind"]: match["rows"] for each in options if (match := _OPTION.match(each))}
    rest = tuple(each for each in options if not _OPTION.match(each))
    if not found:
        return rest, None
    if len(found) != 2 or not all(map(_ROWS.fullmatch, found.values())):  # noqa: PLR2004 - uid, gid
        message = f"mount options {sorted(set(options) - set(rest))} are not a valid id mapping"
        remedy = "give uidmap= and gidmap=, each as inside:outside:count"
        raise InvalidArgument(message, remedy=remedy)
    return rest, Maps(_lines(found["uid"]), _lines(found["gid"]))


def _lines(rows: str) -> str:
    return "".join(f"{row.replace(':', ' ')}\n" for row in rows.split(","))


def mount_mapped(source: Path, target: Path, maps: Maps) -> None:
    """Make an idmapped bind mount of `source` at `target`.

    Raises:
        Unimplemented: this kernel, or the filesystem of the source, has no idmapped mounts.
    """
    with _namespace(maps) as namespace:
        _attach(source, target, namespace)


@contextlib.contextmanager
def mapped_layers(data: str, folder: Path, maps: Maps) -> Iterator[str]:
    """Yield an overlay's options with each lower layer replaced by an idmapped mount of it.

    These mounts are made below `folder` and removed once the overlay is mounted.
    """
    words = data.split(",")
    at = next((n for n, word in enumerate(words) if word.startswith("lowerdir=")), None)
    if at is None:
        yield data
        return
    with contextlib.ExitStack() as undo:
        namespace = undo.enter_context(_namespace(maps))
        place = Path(tempfile.mkdtemp(prefix=".idmap-", dir=folder))
        undo.callback(place.rmdir)
        layers = []
        for number, layer in enumerate(words[at].removeprefix("lowerdir=").split(":")):
            mapped = place / str(number)
            mapped.mkdir()
            undo.callback(mapped.rmdir)
            _attach(Path(layer), mapped, namespace)
            undo.callback(_detach, mapped)
            layers.append(str(mapped))
        words[at] = f"lowerdir={':'.join(layers)}"
        yield ",".join(words)


def _detach(path: Path) -> None:
    _libc.umount2(os.fsencode(path), _MNT_DETACH | _UMOUNT_NOFOLLOW)


def _attach(source: Path, target: Path, namespace: int) -> None:
    doing = f"make an idmapped mount of {source}"
    flags = ctypes.c_uint(_OPEN_TREE_CLONE | os.O_CLOEXEC)
    tree = _call(doing, _OPEN_TREE, _AT_FDCWD, os.fsencode(source), flags)
    try:
        attributes = _Attributes(attr_set=_MOUNT_ATTR_IDMAP, userns_fd=namespace)
        size = ctypes.c_size_t(ctypes.sizeof(attributes))
        _call(doing, _MOUNT_SETATTR, tree, b"", _AT_EMPTY_PATH, ctypes.byref(attributes), size)
        to = os.fsencode(target)
        _call(doing, _MOVE_MOUNT, tree, b"", _AT_FDCWD, to, _MOVE_MOUNT_F_EMPTY_PATH)
    finally:
        os.close(tree)


def _call(doing: str, number: int, *arguments: object) -> int:
    result = int(_libc.syscall(ctypes.c_long(number), *arguments))
    if result >= 0:
        return result
    failed = ctypes.get_errno()
    if failed in {errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP}:
        message = f"cannot {doing}: {os.strerror(failed)}"
        remedy = "use a kernel and a filesystem with idmapped mounts, or no user namespace"
        raise Unimplemented(message, remedy=remedy)
    raise typed_number(failed, doing)


@contextlib.contextmanager
def _namespace(maps: Maps) -> Iterator[int]:
    """Yield a descriptor of a user namespace with these mappings."""
    pid = _sleeper()
    try:
        fd = _opened(pid, maps)
    finally:
        os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, _WCLONE)
    try:
        yield fd
    finally:
        os.close(fd)


def _opened(pid: int, maps: Maps) -> int:
    process = Path(f"/proc/{pid}")
    try:
        (process / "uid_map").write_text(maps.uids, "ascii")
        (process / "gid_map").write_text(maps.gids, "ascii")
        return os.open(process / "ns" / "user", os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise typed(error, "set the id mapping of a mount") from error


def _sleeper() -> int:
    """Clone this thread into a new user namespace, as a process that sleeps until it is killed.

    It has no exit signal, so code that reaps this process's children does not see it.
    """
    number = _CLONE.get(os.uname().machine)
    if number is None:
        message = f"idmapped mounts are not supported on {os.uname().machine}"
        raise Unimplemented(message, remedy="run the container without a user namespace")
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    pid = -1
    try:
        pid = int(_held.syscall(ctypes.c_long(number), ctypes.c_ulong(_CLONE_NEWUSER), 0, 0, 0, 0))
        if pid == 0:
            _sleep()
    finally:
        if pid != 0:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
    if pid < 0:
        raise typed_number(ctypes.get_errno(), "make a user namespace")
    return pid


def _sleep() -> NoReturn:
    _held.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL.value, 0, 0, 0)
    while True:
        _held.pause()
