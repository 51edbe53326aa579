"""Plans a new task: prepares its spec before anything is changed."""

from __future__ import annotations

from pathlib import Path

import msgspec

from shim import bundle as bundle_files
from shim.config import Config
from shim.cuda.inject import find_helper, find_tool, helper_in, prepare
from shim.errors import InvalidArgument, InvalidBundle
from shim.image.manifest import Manifest, Member
from shim.model import CreateRequest, Value
from shim.oci import document, host_access, pod
from shim.oci.annotations import read_annotations
from shim.oci.atomic_volumes import DataFolder, to_provide
from shim.oci.compare import check_same, differences
from shim.oci.copy_identity import CopyIdentity
from shim.oci.difference import describe
from shim.oci.document import Spec
from shim.oci.gpu import gpu_request
from shim.oci.restorable import fitted, restorable
from shim.runsc import host_network, overlay, settings
from shim.runsc.host_network import NETWORK
from shim.task.instance import with_instance
from shim.task.pod_volumes import TaskFolder, with_volumes

# Remedies for a bundle that does not match an image: of a restore, and of a create.
_REMEDY_OF_RESTORE = (
    "leave out --bundle to restore with the saved spec, or give these the saved values "
    "('cryo checkpoints inspect' shows them)"
)
_REMEDY_OF_CREATE = (
    "create the container with the saved values of these ('cryo checkpoints inspect' shows them)"
)


class Plan(Value):
    """A spec ready for runsc.

    `guest_tool` is cuda-checkpoint's path inside the container. `overlay2` is the flag for its root
    filesystem, `network` that for its sandbox; empty if the operator sets it, or for the default.
    `data_folders` are those of an image that its volumes need before the image is loaded.
    """

    spec: Spec
    gpu: bool
    guest_tool: str
    sandbox_id: str = ""
    overlay2: str = ""
    network: str = ""
    data_folders: tuple[DataFolder, ...] = ()
    warnings: tuple[str, ...] = ()


class Joining(Value):
    """Which container of a pod's image a task becomes, and in whose sandbox."""

    name: str
    sandbox_id: str


class ImageSource(Value):
    """The image that a task is made from, and how.

    Without `own_bundle` the spec is the image's, and its hooks are left out unless `image_hooks`
    asks for them. Without `joining` the spec's annotations select the container of the image that
    the task becomes. `identity` replaces what the spec has of it. `one_call` is whether the caller
    requested a restore, rather than a container created from an image.
    """

    manifest: Manifest
    own_bundle: bool = True
    joining: Joining | None = None
    identity: CopyIdentity = CopyIdentity()
    one_call: bool = False
    image_hooks: bool = False


def plan(
    config: Config,
    request: CreateRequest,
    task_folder: TaskFolder,
    source: ImageSource | None = None,
) -> Plan:
    """Read the spec of the bundle or of the image, and prepare it.

    `task_folder` finds the sandbox that a container of a pod joins, and its volumes.

    Raises:
        InvalidBundle: config.json is missing or broken, or the root filesystem does not exist.
        InvalidArgument: the bundle's path is relative, it does not match the image, a GPU
            request is malformed, or one of our annotations has an unknown value.
    """
    saved = was = None
    if source is None:
        spec = _bundle_spec(request)
    else:
        spec, saved, was = _from_image(request, source)
    if not request.rootfs and not spec.rootfs.is_dir():
        message = f"the root filesystem {spec.rootfs} does not exist"
        raise InvalidBundle(message, remedy="mount it, or correct root.path in config.json")
    read_annotations(spec)  # a mistake in them is reported now, not at the first checkpoint
    if source is None or source.own_bundle:  # the spec of an image has what it was saved with
        spec = with_volumes(spec, config.pods, request.ref, task_folder, was)
    spec = with_instance(spec, task_folder(request.ref))
    gpu = gpu_request(spec, config.cuda.from_environment)
    ready = prepare(
        spec,
        cuda=config.cuda,
        tool=find_tool(config.cuda) if gpu.wanted else None,
        gpu=gpu,
        recorded_tool=saved.guest_tool if saved else "",
        helper=find_helper(config.cuda) if gpu.wanted else "",
        recorded_helper=helper_in(was) if was else None,
        deadlines=config.timeouts,
    )
    planned = Plan(
        spec=restorable(ready.spec),
        gpu=ready.gpu_wanted,
        guest_tool=ready.guest_tool,
        sandbox_id=pod.sandbox_of(spec),
        overlay2=_overlay2(config, request, source),
        network=_network(config, spec, source),
        warnings=ready.warnings,
    )
    if source is None or saved is None or was is None or not request.checkpoint:
        return planned
    return _fitted(planned, saved, was, config, one_call=source.one_call)


def _fitted(planned: Plan, saved: Member, was: Spec, config: Config, *, one_call: bool) -> Plan:
    """Return a plan whose container can be restored from an image; `was` is its saved spec."""
    spec = fitted(planned.spec, was)
    return msgspec.structs.replace(
        planned,
        spec=spec,
        data_folders=to_provide(planned.spec, config.pods.kubelet, saved.data_folders),
        warnings=(*planned.warnings, *_compare(was, spec, config, one_call=one_call)),
    )


def _from_image(request: CreateRequest, source: ImageSource) -> tuple[Spec, Member, Spec]:
    """Return the spec of a container of an image, its entry in the manifest, and its saved spec."""
    manifest, joining = source.manifest, source.joining
    if not source.own_bundle:
        saved = manifest.member(joining.name) if joining else manifest.root
        _check_absolute(request)
        spec = was = _spec_of(saved)
        if joining is None:
            _check_own_sandbox(spec)
        if not source.image_hooks:
            spec = host_access.without_hooks(spec)
    else:
        spec = _bundle_spec(request)
        if joining is not None:
            saved = manifest.member(joining.name)
        else:
            in_pod = pod.sandbox_of(spec)
            saved = manifest.member(pod.name_of(spec)) if in_pod else manifest.root
        was = _spec_of(saved)
    # The sandbox's name is the current one, not the saved one.
    if joining is not None:
        spec = pod.joined(spec, joining.name, joining.sandbox_id)
    elif not pod.sandbox_of(spec):
        spec = pod.leading(spec, request.ref.id)
    return source.identity.given_to(spec), saved, was


def _check_own_sandbox(spec: Spec) -> None:
    """Check that the first container of an image has a sandbox of its own.

    Raises:
        InvalidArgument: it would join one that exists.
    """
    if sandbox := pod.sandbox_of(spec):
        message = f"the first container of the image would join the sandbox {sandbox}"
        raise InvalidArgument(message, remedy="use an image that `cryo tasks checkpoint` made")


def _overlay2(config: Config, request: CreateRequest, source: ImageSource | None) -> str:
    """Choose where rootfs changes are stored: in the bundle, or in the scratch directory.

    An image that was saved with another medium is restored with that one.
    """
    if overlay.is_set(config.runsc.flags):
        return ""
    saved = source.manifest.runsc_flags.get(overlay.FLAG, "") if source else ""
    work = _work(request) if source is None or source.own_bundle else ""
    return overlay.fitting(saved, work or config.paths.scratch)


def _network(config: Config, spec: Spec, source: ImageSource | None) -> str:
    """Choose the network of the sandbox; that of an image remains as it was saved."""
    if NETWORK in config.runsc.flags:
        return ""
    if source is None:
        return host_network.flag(spec)
    return host_network.restored_flag(source.manifest.runsc_flags, lambda: spec)


def _work(request: CreateRequest) -> str:
    """Return the work directory of containerd's own bundle, which it removes with that."""
    work = Path(request.bundle) / bundle_files.WORK
    theirs = bundle_files.is_containerds(request.bundle) and work.is_dir()
    return str(work.resolve()) if theirs else ""


def _compare(saved: Spec, given: Spec, config: Config, *, one_call: bool) -> tuple[str, ...]:
    """Compare as strictly as runsc's flags demand; return the warnings."""
    was, policy = restorable(saved), settings.validation(config.runsc.flags)
    if policy == "enforce":
        check_same(was, given, remedy=_REMEDY_OF_RESTORE if one_call else _REMEDY_OF_CREATE)
    found = differences(was, given) if policy == "warning" else ()
    return (f"the bundle differs from the image: {describe(found)}",) if found else ()


def _spec_of(saved: Member) -> Spec:
    return document.parse(saved.spec, Path(saved.bundle), restoring=True)


def _bundle_spec(request: CreateRequest) -> Spec:
    _check_absolute(request)
    spec = document.load(Path(request.bundle), restoring=bool(request.checkpoint))
    return document.annotated(spec, request.annotations)


def _check_absolute(request: CreateRequest) -> None:
    if not Path(request.bundle).is_absolute():
        message = f"bundle {request.bundle!r} is not an absolute path"
        raise InvalidArgument(message, remedy="use an absolute path")
