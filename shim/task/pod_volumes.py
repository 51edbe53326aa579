"""The volumes of a pod in the specs of its containers: what is kept in the sandbox.

The decision on each volume is a link in the folder of the sandbox's task: made once, atomically,
and kept for containers that join or are restarted later, also after a restart of the owner.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

from shim.config import Pods
from shim.host import files
from shim.host.oserror import typed
from shim.model import TaskRef
from shim.oci import document, pod
from shim.oci.annotations import host_volumes
from shim.oci.document import Spec
from shim.oci.kubelet import pod_folder
from shim.oci.member_volumes import View, share
from shim.oci.volumes import add_hints

_VIEWS = "volumes"

TaskFolder = Callable[[TaskRef], Path]
"""Returns the folder of a task."""


def with_volumes(
    spec: Spec, pods: Pods, ref: TaskRef, folder_of: TaskFolder, saved: Spec | None = None
) -> Spec:
    """Return the spec of a container of a Kubernetes pod with the volumes that its sandbox keeps.

    `saved` is its spec in the image that it is restored from. Other containers are left unchanged.

    Raises:
        FailedPrecondition: it uses a volume in another way than the containers before it.
    """
    folder = pod_folder(pods.kubelet, spec)
    if folder is None:
        return spec
    if pod.is_sandbox(spec):
        on_host = {path.name for path in folder.empty_dirs()} if pods.empty_dirs == "host" else ()
        return add_hints(spec, folder, host_volumes(spec).union(on_host), saved)
    root = folder_of(TaskRef(namespace=ref.namespace, id=pod.sandbox_of(spec)))
    root_spec = _spec_of(root)
    if root_spec is None:
        return spec
    return share(spec, root_spec, folder, lambda name, view: _decide(root, name, view), saved)


def _spec_of(folder: Path) -> Spec | None:
    """Return the prepared spec of a task; None if there is no such task."""
    if not (folder / document.CONFIG).exists():
        return None
    return document.load(folder, restoring=True)


def _decide(root: Path, name: str, view: View) -> View:
    """Decide how the pod sees a volume, unless that is decided; return the decision."""
    link = files.private_dir(root / _VIEWS) / name
    try:
        with contextlib.suppress(FileExistsError):
            link.symlink_to(view)
        return View.SANDBOX if link.readlink().name == View.SANDBOX else View.HOST
    except OSError as error:
        raise typed(error, f"record the use of volume {name}") from error
