"""What a new task will be: its prepared spec, decided before anything is touched."""

from __future__ import annotations

from pathlib import Path

from shim.checkpoint.manifest import Manifest
from shim.config import Config
from shim.cuda.inject import find_tool, prepare
from shim.errors import InvalidArgument, InvalidBundle
from shim.model import CreateRequest, Value
from shim.spec import document, pod, wishes
from shim.spec.compare import check_same
from shim.spec.document import Spec
from shim.spec.gpu import gpu_request


class Plan(Value):
    """A spec ready for runsc. `guest_tool` is cuda-checkpoint's path inside the container."""

    spec: Spec
    gpu: bool
    guest_tool: str
    sandbox_id: str = ""
    warnings: tuple[str, ...] = ()


def plan(
    config: Config, request: CreateRequest, manifest: Manifest | None, *, own_bundle: bool = True
) -> Plan:
    """Read the bundle's spec, or without `own_bundle` the image's, and prepare it.

    Raises:
        InvalidBundle: config.json is missing or broken, or the root filesystem is not there.
        InvalidArgument: the bundle's path is relative, it does not fit the image, a GPU is asked
            for in no known way, or an annotation of ours says something unknown.
    """
    spec = _spec(request, manifest, own_bundle=own_bundle)
    if not request.rootfs and not spec.rootfs.is_dir():
        message = f"the root filesystem {spec.rootfs} is not there"
        raise InvalidBundle(message, remedy="mount it, or correct root.path in config.json")
    wishes.read(spec)  # a mistake in them is told now, not when the container shall be saved
    wish = gpu_request(spec)
    ready = prepare(
        spec,
        cuda=config.cuda,
        tool=find_tool(config.cuda) if wish.wanted else None,
        gpu=wish,
        recorded_tool=manifest.guest_tool if manifest else "",
    )
    if manifest is not None and request.checkpoint:
        check_same(document.parse(manifest.spec, Path(manifest.bundle), restoring=True), ready.spec)
    return Plan(
        spec=ready.spec,
        gpu=ready.gpu_wanted,
        guest_tool=ready.guest_tool,
        sandbox_id=pod.sandbox_of(spec),
        warnings=ready.warnings,
    )


def _spec(request: CreateRequest, manifest: Manifest | None, *, own_bundle: bool) -> Spec:
    if not Path(request.bundle).is_absolute():
        message = f"bundle {request.bundle!r} is not an absolute path"
        raise InvalidArgument(message, remedy="name it from the root")
    bundle = Path(request.bundle)
    if manifest is not None and not own_bundle:
        return document.parse(manifest.spec, bundle, restoring=True)
    return document.load(bundle, restoring=bool(request.checkpoint))
