"""Mounting a rootfs: containerd's list of mounts, by mount(2) and umount2(2)."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import NamedTuple

from shim.errors import InvalidArgument, Unimplemented
from shim.host import idmap
from shim.host.oserror import typed, typed_number
from shim.model import Mount

_libc = ctypes.CDLL(None, use_errno=True)

_RDONLY, _NOSUID, _NODEV, _NOEXEC = 1, 2, 4, 8
_SYNCHRONOUS, _REMOUNT, _MANDLOCK, _DIRSYNC = 16, 32, 64, 128
_NOSYMFOLLOW, _NOATIME, _NODIRATIME = 256, 1024, 2048
_BIND, _REC, _SILENT = 4096, 16384, 32768
_UNBINDABLE, _PRIVATE, _SLAVE, _SHARED = 1 << 17, 1 << 18, 1 << 19, 1 << 20
_RELATIME, _STRICTATIME, _LAZYTIME = 1 << 21, 1 << 24, 1 << 25
_MNT_DETACH, _UMOUNT_NOFOLLOW = 2, 8
_STACKED_MAX = 128
# The kernel copies one page of options and reserves its last byte.
_DATA_MAX = 4095

_SET = {
    "ro": _RDONLY,
    "nosuid": _NOSUID,
    "nodev": _NODEV,
    "noexec": _NOEXEC,
    "sync": _SYNCHRONOUS,
    "mand": _MANDLOCK,
    "dirsync": _DIRSYNC,
    "nosymfollow": _NOSYMFOLLOW,
    "noatime": _NOATIME,
    "nodiratime": _NODIRATIME,
    "bind": _BIND,
    "rbind": _BIND | _REC,
    "silent": _SILENT,
    "relatime": _RELATIME,
    "strictatime": _STRICTATIME,
    "lazytime": _LAZYTIME,
    "remount": _REMOUNT,
    "defaults": 0,
}
_CLEAR = {
    "rw": _RDONLY,
    "suid": _NOSUID,
    "dev": _NODEV,
    "exec": _NOEXEC,
    "async": _SYNCHRONOUS,
    "nomand": _MANDLOCK,
    "symfollow": _NOSYMFOLLOW,
    "atime": _NOATIME,
    "diratime": _NODIRATIME,
    "loud": _SILENT,
    "norelatime": _RELATIME,
    "nostrictatime": _STRICTATIME,
    "nolazytime": _LAZYTIME,
}
# Propagation options are ignored: mounts in a rootfs must not propagate to the host.
_PROPAGATION = frozenset(
    prefix + name for prefix in ("", "r") for name in ("private", "shared", "slave", "unbindable")
)
_UNSUPPORTED = frozenset({"loop"})


class Options(NamedTuple):
    """Mount options as mount(2) takes them."""

    flags: int
    data: str


def parse_options(options: Sequence[str]) -> Options:
    """Split options into flags and filesystem-specific data.

    Raises:
        Unimplemented: an option that mount(8) implements itself, such as a loop device.
    """
    flags, data = 0, []
    for option in options:
        if option in _UNSUPPORTED:
            message = f"mount option {option!r} is not supported"
            raise Unimplemented(message, remedy="choose a snapshotter without loop devices")
        if option in _SET:
            flags |= _SET[option]
        elif option in _CLEAR:
            flags &= ~_CLEAR[option]
        elif option not in _PROPAGATION:
            data.append(option)
    return Options(flags, ",".join(data))


def mount_all(mounts: Sequence[Mount], rootfs: Path) -> None:
    """Mount the list onto `rootfs`, each at its target below it; on error all are unmounted.

    Raises:
        InvalidArgument: a target leads out of the rootfs, or the options are not valid.
        NotFound: a source does not exist.
    """
    with contextlib.ExitStack() as undo:
        for each in mounts:
            target = _inside(rootfs, each.target)
            mount(each, target)
            undo.callback(_detach, target)
        undo.pop_all()


def _inside(rootfs: Path, target: str) -> Path:
    path = rootfs
    for part in Path(target.lstrip("/")).parts:
        path /= part
        if part == ".." or path.is_symlink():
            message = f"mount target {target!r} leads out of the rootfs"
            raise InvalidArgument(message, remedy="name a folder below the rootfs")
    return path


def mount(entry: Mount, target: Path) -> None:
    """Mount one entry at `target`, privately.

    Raises:
        Unimplemented: it has an id mapping, and is neither a bind mount nor an overlay.
    """
    options, maps = idmap.taken_out(entry.options)
    flags, data = parse_options(options)
    bind = entry.type == "bind" or bool(flags & _BIND)
    if maps is not None and not bind and entry.type != "overlay":
        message = f"a mount of type {entry.type!r} cannot be idmapped"
        raise Unimplemented(message, remedy="use the overlayfs snapshotter, or no user namespace")
    with contextlib.ExitStack() as undo:
        if bind:
            if maps is not None:
                idmap.mount_mapped(Path(entry.source), target, maps)
            else:
                _mount(entry.source, target, "", _BIND | (flags & _REC), "")
            undo.callback(_detach, target)
            # The kernel ignores other flags on a new bind mount: they need a second call.
            if others := flags & ~(_BIND | _REC | _SILENT):
                _mount(entry.source, target, "", _BIND | _REMOUNT | others, "")
        else:
            with _layers(data, target, maps) as layers, _fitting(layers) as fitting:
                _mount(entry.source, target, entry.type, flags, fitting)
            undo.callback(_detach, target)
        _mount(entry.source, target, "", _PRIVATE | (flags & _REC), "")
        undo.pop_all()


def _layers(data: str, target: Path, maps: idmap.Maps | None) -> AbstractContextManager[str]:
    if maps is None:
        return contextlib.nullcontext(data)
    return idmap.mapped_layers(data, target.parent, maps)


def _mount(source: str, target: Path, kind: str, flags: int, data: str) -> None:
    if "\0" in f"{source}{target}{kind}{data}":
        message = f"cannot mount {source!r}: source, target, type or options contain a NUL"
        raise InvalidArgument(message)
    texts = (os.fsencode(text) for text in (source, target, kind))
    if _libc.mount(*texts, ctypes.c_ulong(flags), os.fsencode(data) if data else None):
        raise typed_number(ctypes.get_errno(), f"mount {source} on {target}")


def _detach(target: Path) -> None:
    """Unmount the topmost mount at `target`; mounts below it remain."""
    _libc.umount2(os.fsencode(target), _MNT_DETACH | _UMOUNT_NOFOLLOW)


@contextlib.contextmanager
def _fitting(data: str) -> Iterator[str]:
    """Yield options that fit in a page, with an overlay's common layer folder shortened."""
    if len(os.fsencode(data)) <= _DATA_MAX:
        yield data
        return
    shared = _shared_folder(data)
    try:
        fd = os.open(shared, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise typed(error, f"open {shared}") from error
    try:
        yield _within_page(data.replace(f"{shared}/", f"/proc/self/fd/{fd}/"))
    finally:
        os.close(fd)


def _shared_folder(data: str) -> str:
    """Return the common parent folder of an overlay's layers."""
    for option in data.split(","):
        if option.startswith("lowerdir=/"):
            return os.path.commonpath(option.removeprefix("lowerdir=").split(":"))
    return "/"


def _within_page(data: str) -> str:
    size = len(os.fsencode(data))
    if size > _DATA_MAX:
        message = f"mount options of {size} bytes are too long (at most {_DATA_MAX})"
        raise InvalidArgument(message, remedy="use an image with fewer layers")
    return data


def unmount(path: Path, *, lazy: bool = False) -> None:
    """Unmount everything mounted at `path`, including stacked mounts.

    A path that is not a mount point or does not exist is fine, since clean-up may run twice. `lazy`
    detaches the mount now and unmounts it once it is no longer in use.

    Raises:
        Busy: the mount is in use.
    """
    flags = _UMOUNT_NOFOLLOW | (_MNT_DETACH if lazy else 0)
    for _ in range(_STACKED_MAX):
        if _libc.umount2(os.fsencode(path), flags):
            number = ctypes.get_errno()
            if number in {errno.EINVAL, errno.ENOENT}:
                return
            raise typed_number(number, f"unmount {path}")
