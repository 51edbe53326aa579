"""Volumes whose files the kubelet replaces as a whole: config maps, secrets, tokens, downward API.

The files are in a folder with the time of the last update in its name, such as
`..2026_11_28_12_11_10.1234`, to which the link `..data` points. A file that was open in it is
looked for under that name in a restore, while the folder of the new pod has another one. So an
image records the name, and the volume of the new pod gets a second folder of it, with links to the
current files. At an update the kubelet removes only its own folder, and at the end both with the
volume.

Source: pkg/volume/util/atomic_writer.go of Kubernetes.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path

from shim.errors import FailedPrecondition, ResourceExhausted
from shim.host import files
from shim.host.oserror import typed
from shim.model import Value
from shim.oci.document import Spec
from shim.oci.kubelet import ATOMIC, pod_folder

_DATA = "..data"
FOLDER = re.compile(r"\.\.[0-9]{4}(_[0-9]{2}){5}\.[0-9]{1,20}")
_MAX_DEPTH = 16
_MAX_FILES = 10_000


class DataFolder(Value):
    """The folder with the files of a volume: its name at the save of the container."""

    volume: str
    name: str


def data_folders(spec: Spec, kubelet: str) -> dict[str, str]:
    """Return the names of the current folders of the volumes that a container mounts.

    The keys are the destinations of the mounts.
    """
    found = {}
    for destination, volume in _mounted(spec, kubelet).items():
        with contextlib.suppress(OSError):  # removed meanwhile, or not written yet
            name = str(Path(volume, _DATA).readlink())
            if FOLDER.fullmatch(name):
                found[destination] = name
    return found


def to_provide(spec: Spec, kubelet: str, saved: Mapping[str, str]) -> tuple[DataFolder, ...]:
    """Return which volumes need the folders of an image; `saved` is as `data_folders`."""
    mounted = _mounted(spec, kubelet)
    return tuple(
        DataFolder(volume=mounted[destination], name=name)
        for destination, name in saved.items()
        if destination in mounted and FOLDER.fullmatch(name)
    )


def _mounted(spec: Spec, kubelet: str) -> dict[str, str]:
    """Return the paths of the container's volumes of this kind, by destination."""
    folder = pod_folder(kubelet, spec)
    if folder is None:
        return {}
    uses = ((mount, folder.use_of(mount.source)) for mount in spec.mounts)
    return {
        mount.destination: mount.source
        for mount, use in uses
        if use and use.kind in ATOMIC and not use.part
    }


def provide(one: DataFolder) -> None:
    """Give a volume the folder of an image, with its current files; safe to repeat.

    Raises:
        CryoError: the volume has no files, or the folder cannot be made.
    """
    made = f"..cryo-{secrets.token_hex(8)}"
    try:
        with _opened(one.volume) as volume:
            current = os.readlink(_DATA, dir_fd=volume)
            if current == one.name:
                return
            _check(current, one)
            try:
                _Links().make(volume, current, volume, made)
                files.remove_tree(Path(one.volume, one.name))
                os.rename(made, one.name, src_dir_fd=volume, dst_dir_fd=volume)
            except BaseException:
                files.remove_tree(Path(one.volume, made))
                raise
    except OSError as error:
        raise typed(error, f"make the folder {one.name} of an image in {one.volume}") from error


def _check(current: str, one: DataFolder) -> None:
    if not FOLDER.fullmatch(current):
        message = f"{one.volume}/{_DATA} is a link to {current!r}, which the kubelet does not make"
        raise FailedPrecondition(message, remedy="create the pod again")


class _Links:
    """Copies a folder, with hard links to its files; symbolic links in it are left out."""

    def __init__(self) -> None:
        self._left = _MAX_FILES

    def make(self, parent: int, name: str, into: int, made: str, depth: int = 0) -> None:
        """Copy folder `name` in one folder to `made` in another, both given by descriptors."""
        os.mkdir(made, 0o700, dir_fd=into)
        with _opened(name, parent) as source, _opened(made, into) as target:
            with os.scandir(source) as entries:
                for entry in entries:
                    self._copy(source, entry.name, target, depth)
            found = os.fstat(source)
            os.fchown(target, found.st_uid, found.st_gid)
            os.fchmod(target, stat.S_IMODE(found.st_mode))

    def _copy(self, source: int, entry: str, target: int, depth: int) -> None:
        self._left -= 1
        if self._left < 0 or depth > _MAX_DEPTH:
            message = f"it has more than {_MAX_FILES} files, or {_MAX_DEPTH} nested folders"
            raise ResourceExhausted(message, remedy="save the pod without open files in it")
        mode = os.stat(entry, dir_fd=source, follow_symlinks=False).st_mode
        if stat.S_ISDIR(mode):
            self.make(source, entry, target, entry, depth + 1)
        elif stat.S_ISREG(mode):
            where = {"src_dir_fd": source, "dst_dir_fd": target}
            os.link(entry, entry, follow_symlinks=False, **where)


@contextlib.contextmanager
def _opened(name: str, parent: int | None = None) -> Iterator[int]:
    """Open a folder, not through a link."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(name, flags, dir_fd=parent)
    try:
        yield fd
    finally:
        os.close(fd)
