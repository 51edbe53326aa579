"""What a container can learn about itself, and ask for: the mounts of io.cryo.instance.

    /run/cryo/checkpoint       the application creates it to ask for its checkpoint
    /run/cryo/instance/id      of this start or restore
    /run/cryo/instance/environ the environment of this start or restore, as in /proc/PID/environ
    /run/cryo/instance/random  32 bytes of this start or restore
    /run/cryo/instance/result  of the last checkpoint: empty, resume, restore, or error and why

The first folder is in the memory of the sandbox, so nothing on the host can be filled through it;
the second is read-only. Both are the same in every copy, so that their images fit.
"""

from __future__ import annotations

import logging
import os
import secrets
from pathlib import Path

from shim.errors import CryoError, InvalidArgument
from shim.host import files
from shim.host.text import printable
from shim.oci import pod
from shim.oci.annotations import read_annotations
from shim.oci.document import Spec
from shim.oci.edits import BindMount, Edits, apply

FOLDER = "/run/cryo"
REQUEST = f"{FOLDER}/checkpoint"
_FILES = f"{FOLDER}/instance"
_NAME = "instance"
_RANDOM_BYTES = 32
_RESULT_MAX = 500
_MOUNT_OPTIONS = ("nosuid", "nodev", "noexec", "mode=1777", "size=64k")
_FILES_OPTIONS = ("rbind", "ro", "nosuid", "nodev", "noexec")
_log = logging.getLogger(__name__)


def with_instance(spec: Spec, task_folder: Path) -> Spec:
    """Return the spec with the mounts, if its annotations ask for them.

    Raises:
        InvalidArgument: it has other mounts there.
    """
    if not read_annotations(spec).wants_instance or pod.is_sandbox(spec):
        return spec
    requests = BindMount(destination=FOLDER, type="tmpfs", source="tmpfs", options=_MOUNT_OPTIONS)
    own = BindMount(destination=_FILES, source=str(task_folder / _NAME), options=_FILES_OPTIONS)
    for found in spec.mounts:
        if Path(found.destination).is_relative_to(FOLDER) and (
            found.options not in {_MOUNT_OPTIONS, _FILES_OPTIONS}
        ):
            message = f"the spec has a mount at {found.destination}, which io.cryo.instance uses"
            raise InvalidArgument(message, remedy="mount it elsewhere, or leave out the annotation")
    return apply(spec, Edits(mounts=(requests, own)))


class Instance:
    """The files of one container on the host."""

    def __init__(self, task_folder: Path) -> None:
        self._folder = task_folder / _NAME

    def write(self, spec: Spec, *, restored: bool) -> None:
        """Write what a new start or restore of the container finds, if it has the mounts.

        Raises:
            CryoError: a file cannot be written.
        """
        if not any(mount.source == str(self._folder) for mount in spec.mounts):
            return
        files.private_dir(self._folder, mode=0o755)
        self._put("id", f"{secrets.token_hex(16)}\n".encode())
        self._put("result", b"restore\n" if restored else b"")
        user = (spec.data.get("process") or {}).get("user") or {}
        environ = "".join(f"{line}\0" for line in spec.env).encode("utf-8", "surrogateescape")
        self._put("environ", environ, user.get("uid", 0))
        self._put("random", secrets.token_bytes(_RANDOM_BYTES), user.get("uid", 0))

    def _put(self, name: str, data: bytes, owner: int | None = None) -> None:
        """Write a file that all may read, or only one user."""
        path = self._folder / name
        files.write_atomic(path, data, 0o444 if owner is None else 0o400)
        if owner:
            os.chown(path, owner, -1, follow_symlinks=False)

    def set_result(self, text: str) -> None:
        """Write the result of a checkpoint, if the container has the mounts."""
        if not self._folder.is_dir():
            return
        try:
            self._put("result", f"{printable(text, _RESULT_MAX)}\n".encode() if text else b"")
        except CryoError as error:
            _log.warning("the result of a checkpoint cannot be written: %s", error)
