"""The files of a container: directory, prepared spec, rootfs, cgroups, containerd's link."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from shim import bundle as bundle_files
from shim.config import Config
from shim.host import cgroup, files
from shim.host.filecalls import file_call
from shim.host.oserror import typed
from shim.oci import document
from shim.oci.document import Spec
from shim.oci.hooks import Names, wrapped
from shim.oci.pod import SANDBOX_ID
from shim.runsc import overlay
from shim.runsc.argv import runsc_id
from shim.task import rootfs
from shim.task.instance import Instance
from shim.task.record_store import RecordStore


class ContainerFiles:
    """The files of one container; `bundle` is the folder that runsc reads."""

    def __init__(self, folder: Path, config: Config, store: RecordStore) -> None:
        """Take the task's folder, and the record of what else belongs to it."""
        self.folder = folder
        self.bundle = folder / "bundle"
        self.log = folder / "runsc.log"
        self.pid_file = folder / "init.pid"
        self.instance = Instance(folder)
        self._config = config
        self._store = store
        self._new_cgroups: list[Path] = []
        self._spec: Spec | None = None

    # -- spec ----------------------------------------------------------------------------------

    @property
    def spec(self) -> Spec:
        """Return the prepared spec: the caller's, with the edits for its GPUs. It is read once."""
        if self._spec is None:
            # An earlier release wrote only the copy for runsc.
            whole = (self.folder / document.CONFIG).exists()
            self._spec = document.load(self.folder if whole else self.bundle, restoring=True)
        return self._spec

    async def prepare(self, spec: Spec) -> None:
        """Write the spec and the files of the instance, and mount the rootfs."""
        self._write_specs(spec)
        self.instance.write(spec, restored=bool(self._store.record.image_path))
        scratch = self._config.paths.scratch
        if overlay.folder(self._store.record.overlay2) == scratch:
            files.private_dir(Path(scratch))
        record = self._store.record
        if record.mounts:
            timeout_s = self._config.timeouts.command
            await rootfs.mount(record.mounts, Path(record.rootfs), timeout_s)

    def _write_specs(self, spec: Spec) -> None:
        """Write the prepared spec, and the copy of it that runsc reads."""
        record = self._store.record
        whole = document.placed(spec, self.folder)
        _write(self.folder / document.CONFIG, whole.data)
        self._spec, data = whole, dict(whole.data)
        sandbox = spec.annotations.get(SANDBOX_ID, "")
        if sandbox:
            # runsc finds a pod's sandbox by this, under the id that we passed to it.
            data["annotations"] = {**spec.annotations, SANDBOX_ID: runsc_id(sandbox)}
        if path := self._cgroups_path(spec):
            data["linux"] = {**(data.get("linux") or {}), "cgroupsPath": path}
        if hooks := data.get("hooks"):
            names = Names(task=record.ref.id, bundle=record.bundle, sandbox=sandbox)
            data["hooks"], links = wrapped(hooks, names, self.bundle)
            for link, target in links.items():
                link.unlink(missing_ok=True)
                link.symlink_to(target)
        _write(self.bundle / document.CONFIG, data)

    def write_resources(self, resources: Mapping[str, Any]) -> Path:
        """Write LinuxResources for `runsc update`."""
        path = self.folder / "resources.json"
        _write(path, resources)
        return path

    # -- cgroups -------------------------------------------------------------------------------

    def _cgroups_path(self, spec: Spec) -> str:
        """Return a cgroup path if the spec has none: runsc would use the container's id.

        The id alone is not unique: another namespace, or the host, may have such a cgroup.
        """
        ref, flags = self._store.record.ref, self._config.runsc.flags
        if spec.cgroups_path or self._store.record.sandbox_id or "systemd-cgroup" in flags:
            return spec.cgroups_path
        return f"/cryo@{ref.namespace}@{ref.id}"

    def note_cgroups(self) -> None:
        """Record the cgroups that runsc will create: a killed runsc leaves them behind."""
        path = self._cgroups_path(self.spec)
        self._new_cgroups = [one for one in cgroup.paths(path) if not one.exists()]

    # -- the link in containerd's bundle -------------------------------------------------------

    def link(self) -> None:
        """Link the folder in containerd's bundle: `delete` finds it there after a crash."""
        if self._is_linked:
            self._link.unlink(missing_ok=True)
            self._link.symlink_to(self.folder)

    @property
    def _is_linked(self) -> bool:
        """Whether the bundle is one of containerd's; a path from an image is untrusted."""
        record = self._store.record
        if record.from_image:
            return False
        return bool(record.owner) or bundle_files.is_containerds(record.bundle)

    @property
    def _link(self) -> Path:
        return Path(self._store.record.bundle) / bundle_files.LINK

    # -- removal -------------------------------------------------------------------------------

    async def remove_cgroups(self) -> None:
        """Remove the recorded cgroups that are empty."""
        await asyncio.to_thread(cgroup.remove_empty, self._new_cgroups)

    async def remove(self) -> None:
        """Unmount the rootfs, and remove the folder and the link; safe to repeat."""
        record = self._store.record
        if record.mounts:
            await rootfs.unmount(Path(record.rootfs), self._config.timeouts.command)
        await self.remove_unpacked()
        await asyncio.to_thread(files.remove_tree, self.folder)
        if self._is_linked:
            self._link.unlink(missing_ok=True)

    async def remove_unpacked(self) -> None:
        """Remove the image if containerd unpacked it for this container alone."""
        record = self._store.record
        if not record.from_image and bundle_files.is_unpacked(record.bundle, record.image_path):
            image = Path(record.image_path)
            await file_call(lambda: files.remove_tree(image), doing=f"remove {image}")


def _write(path: Path, data: Mapping[str, Any]) -> None:
    try:
        path.write_text(json.dumps(data), "utf-8")
    except OSError as error:
        raise typed(error, f"write {path}") from error
