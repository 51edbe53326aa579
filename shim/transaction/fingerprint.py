"""The fingerprint of a container: what decides whether an image fits it on this host.

It is computed from what is known before a container is created, without a command of runsc. A new
build, flag, driver, GPU model or CPU, or a template with another command line, mounts or image
makes another fingerprint, and so another image. The environment is no part of it, as runsc
does not compare it: it differs between the copies of one template.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from shim.config import Config
from shim.cuda import inventory
from shim.image.named import Fingerprint
from shim.model import Mount
from shim.oci import compare, difference, pod
from shim.oci.document import Spec
from shim.oci.restorable import FITTED
from shim.runsc import settings
from shim.runsc.container_flags import ContainerFlags
from shim.runsc.probe import UNVERSIONED, Capabilities
from shim.transaction import hostfacts

_LOWER = "lowerdir="


def fingerprint(
    spec: Spec,
    mounts: Sequence[Mount],
    config: Config,
    capabilities: Capabilities,
    *,
    gpu: bool,
    own_flags: ContainerFlags,
) -> Fingerprint:
    """Return the fingerprint of a container that is to be created from this prepared spec.

    `mounts` are those of its root filesystem, as containerd passes them.
    """
    parts = {
        f"spec {name}": value
        for name, value in compare.compared(spec).items()
        if value not in (None, []) and name not in FITTED
    }
    parts["image"] = _image(spec, mounts)
    parts["runsc"] = _build(capabilities)
    parts |= {f"flag {name}": text for name, text in _flags(config, own_flags)}
    host = hostfacts.read_host()
    parts["architecture"], parts["CPU"] = host.arch, list(host.cpu_features)
    if gpu:
        parts |= _gpus(config, spec)
    return Fingerprint(parts=parts)


def describe(image: Fingerprint | None, container: Fingerprint) -> str:
    """List how an image's fingerprint differs from a container's."""
    if image is None:
        return "it is not recorded what the image was made from"
    return difference.describe(difference.changes(image.parts, container.parts))


def _image(spec: Spec, mounts: Sequence[Mount]) -> str:
    """Return the reference of the container's image, or else the layers of its root filesystem."""
    if name := spec.annotations.get(pod.IMAGE_NAME):
        return name
    options = [option for mount in mounts if mount.type == "overlay" for option in mount.options]
    return next((one for one in options if one.startswith(_LOWER)), "")


def _build(capabilities: Capabilities) -> str:
    if capabilities.version != UNVERSIONED:
        return capabilities.version
    return f"{UNVERSIONED} {capabilities.identity}"


def _flags(config: Config, own: ContainerFlags) -> Iterator[tuple[str, str]]:
    """Yield the flags that a restore depends on; the folder of an overlay may differ."""
    for name, text in settings.recorded(own.added_to(config.runsc.flags)).items():
        where, dir_, _ = text.partition("dir=")
        yield name, f"{where}{dir_}"


def _gpus(config: Config, spec: Spec) -> dict[str, Any]:
    found = inventory.read(config.cuda.nvidia_proc)
    models = Counter(gpu.model for gpu in inventory.visible(found.gpus, spec.devices))
    return {"NVIDIA driver": found.driver, "GPUs": dict(models)}
