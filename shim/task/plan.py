"""What a new task will be: its prepared spec, decided before anything is touched."""

from __future__ import annotations

from pathlib import Path

from shim import bundle as bundle_files
from shim.config import Config
from shim.cuda.inject import find_helper, find_tool, helper_in, prepare
from shim.errors import InvalidArgument, InvalidBundle
from shim.image.manifest import Manifest, Member
from shim.model import CreateRequest, Value
from shim.runsc import overlay, settings
from shim.spec import document, host_access, pod, wishes
from shim.spec.compare import check_same, describe, differences
from shim.spec.document import Spec
from shim.spec.gpu import gpu_request
from shim.spec.restorable import fitted, restorable

# What can be done about a bundle that does not fit an image, by who named the bundle.
_REMEDY_OF_RESTORE = (
    "leave out --bundle to restore with the saved spec, or give these the saved values "
    "('cryo checkpoints inspect' shows them)"
)
_REMEDY_OF_CREATE = (
    "create the container with the saved values of these ('cryo checkpoints inspect' shows them)"
)


class Plan(Value):
    """A spec ready for runsc.

    `guest_tool` is cuda-checkpoint's path inside the container, `overlay2` the flag for its root
    filesystem, empty where that is not ours to say.
    """

    spec: Spec
    gpu: bool
    guest_tool: str
    sandbox_id: str = ""
    overlay2: str = ""
    warnings: tuple[str, ...] = ()


class Joining(Value):
    """Which container of a pod's image a task becomes, and in whose sandbox."""

    name: str
    sandbox_id: str


def plan(
    config: Config,
    request: CreateRequest,
    manifest: Manifest | None,
    *,
    own_bundle: bool = True,
    joining: Joining | None = None,
    one_call: bool = False,
    image_hooks: bool = False,
) -> Plan:
    """Read the bundle's spec, or without `own_bundle` the image's, and prepare it.

    Hooks of the image's spec are left out unless `image_hooks` asks for them.

    Which container of the image it is, its annotations say where `joining` does not. `one_call` is
    whether the caller asked for a restore, rather than for a container to be created from an image.

    Raises:
        InvalidBundle: config.json is missing or broken, or the root filesystem is not there.
        InvalidArgument: the bundle's path is relative, it does not fit the image, a GPU is asked
            for in no known way, or an annotation of ours says something unknown.
    """
    saved = manifest.member(joining.name) if manifest and joining else None
    if saved is None and manifest is not None and not own_bundle:
        saved = manifest.own
    spec = _spec(request, None if own_bundle else saved)
    if not own_bundle and not image_hooks:
        spec = host_access.without_hooks(spec)
    if manifest is not None:
        saved = saved or _meant(manifest, spec)
        spec = _in_place(spec, request, joining)
    if not request.rootfs and not spec.rootfs.is_dir():
        message = f"the root filesystem {spec.rootfs} is not there"
        raise InvalidBundle(message, remedy="mount it, or correct root.path in config.json")
    wishes.read(spec)  # a mistake in them is told now, not when the container shall be saved
    wish = gpu_request(spec, config.cuda.from_environment)
    was = _spec_of(saved) if saved else None
    ready = prepare(
        spec,
        cuda=config.cuda,
        tool=find_tool(config.cuda) if wish.wanted else None,
        gpu=wish,
        recorded_tool=saved.guest_tool if saved else "",
        helper=find_helper(config.cuda) if wish.wanted else "",
        recorded_helper=helper_in(was) if was else None,
        deadlines=config.timeouts,
    )
    final = restorable(ready.spec)
    warnings = ready.warnings
    if was is not None and request.checkpoint:
        final = fitted(final, was)
        warnings += _compare(was, final, config, one_call=one_call)
    return Plan(
        spec=final,
        gpu=ready.gpu_wanted,
        guest_tool=ready.guest_tool,
        sandbox_id=pod.sandbox_of(spec),
        overlay2=_overlay2(config, manifest, _work(request) if own_bundle else ""),
        warnings=warnings,
    )


def _overlay2(config: Config, manifest: Manifest | None, work: str) -> str:
    """Choose where the container's changes to its root filesystem lie: in `work`, else in ours.

    An image whose operator had chosen another medium is restored with that one.
    """
    if overlay.is_set(config.runsc.flags):
        return ""
    saved = manifest.runsc_flags.get(overlay.FLAG, "") if manifest else ""
    return overlay.fitting(saved, work or config.paths.scratch)


def _work(request: CreateRequest) -> str:
    """Find the folder on disk that containerd has for a bundle of its own, and removes with it."""
    work = Path(request.bundle) / bundle_files.WORK
    theirs = bundle_files.is_containerds(request.bundle) and work.is_dir()
    return str(work.resolve()) if theirs else ""


def _compare(saved: Spec, given: Spec, config: Config, *, one_call: bool) -> tuple[str, ...]:
    """Compare as strictly as runsc is set up to; return what is worth a warning."""
    was, policy = restorable(saved), settings.validation(config.runsc.flags)
    if policy == "enforce":
        check_same(was, given, remedy=_REMEDY_OF_RESTORE if one_call else _REMEDY_OF_CREATE)
    found = differences(was, given) if policy == "warning" else ()
    return (f"the bundle differs from the image: {describe(found)}",) if found else ()


def _in_place(spec: Spec, request: CreateRequest, joining: Joining | None) -> Spec:
    """Name the sandbox of today in a spec that comes from an image, or is to fit one."""
    if joining is not None:
        return pod.joined(spec, joining.name, joining.sandbox_id)
    return spec if pod.sandbox_of(spec) else pod.leading(spec, request.ref.id)


def _spec_of(saved: Member) -> Spec:
    return document.parse(saved.spec, Path(saved.bundle), restoring=True)


def _meant(manifest: Manifest, spec: Spec) -> Member:
    return manifest.member(pod.name_of(spec)) if pod.sandbox_of(spec) else manifest.own


def _spec(request: CreateRequest, saved: Member | None) -> Spec:
    if not Path(request.bundle).is_absolute():
        message = f"bundle {request.bundle!r} is not an absolute path"
        raise InvalidArgument(message, remedy="name it from the root")
    bundle = Path(request.bundle)
    if saved is not None:
        return document.parse(saved.spec, bundle, restoring=True)
    return document.load(bundle, restoring=bool(request.checkpoint))
