"""What a spec requests of the host or of its runtime, for a spec whose author is not trusted. Pure.

A restore from an image alone uses the spec in the image. A sandbox has its own proc, sysfs, tmpfs
and devpts; capabilities, seccomp filters and sysctls only have an effect inside it. Everything that
is not known to stay inside is a request.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from shim.oci import host_access
from shim.oci.annotation_names import PREFIX
from shim.oci.document import Spec
from shim.oci.gpu import CDI_PREFIX, NO_GPUS, VISIBLE

# Filesystems of the sandbox's own.
_INSIDE = frozenset({"proc", "sysfs", "tmpfs", "devpts", "devtmpfs", "mqueue", "cgroup", "cgroup2"})
_ANNOTATIONS = {
    "dev.gvisor.": "changes runsc",
    # runsc reads from these, too, which sandbox a container joins.
    "io.kubernetes.cri-o.": "changes runsc",
    PREFIX: "changes how it is saved and restored",
}
_FIELDS = frozenset(
    {
        "annotations",
        "domainname",
        "hooks",
        "hostname",
        "linux",
        "mounts",
        "ociVersion",
        "process",
        "root",
    }
)
_LINUX_FIELDS = frozenset(
    {
        "cgroupsPath",
        "devices",
        "gidMappings",
        "maskedPaths",
        "mountLabel",
        "namespaces",
        "personality",
        "readonlyPaths",
        "resources",  # without a cgroup path there is no cgroup to which they apply
        "rootfsPropagation",
        "seccomp",
        "sysctl",
        "timeOffsets",
        "uidMappings",
    }
)


def of(spec: Spec) -> tuple[str, ...]:
    """List all requests of a spec but its root filesystem, each as a short text."""
    return tuple(_all(spec))


def _all(spec: Spec) -> Iterator[str]:
    found = host_access.of("", spec)
    for hook in found.hooks:
        yield f"hook {hook}"
    for mount in found.mounts:
        yield f"bind mount of {mount.source} at {mount.destination}"
    for other in spec.mounts:
        if other.type not in _INSIDE and not host_access.is_bind(other):
            yield f"mount of type {other.type!r} at {other.destination}"
    for path in found.devices:
        yield f"device {path}"
    for path in found.namespaces:
        yield f"namespace {path}"
    if found.host_network:
        yield "network of the host"
    if spec.cgroups_path:
        yield f"cgroup {spec.cgroups_path}"
    yield from _annotations(spec.annotations)
    if (spec.variable(VISIBLE) or "").strip() not in NO_GPUS:
        yield f"GPUs {VISIBLE}={spec.variable(VISIBLE)}"
    yield from _other_fields(spec.data)


def _annotations(annotations: Mapping[str, str]) -> Iterator[str]:
    for name, value in annotations.items():
        if name.startswith(CDI_PREFIX):
            yield f"CDI devices {value} (annotation {name})"
        for prefix, what in _ANNOTATIONS.items():
            if name.startswith(prefix):
                yield f"annotation {name}={value}, which {what}"


def _other_fields(data: Mapping[str, Any]) -> Iterator[str]:
    linux, process = data.get("linux"), data.get("process")
    for name, value in data.items():
        if value and name not in _FIELDS:
            yield f"field {name}"
    for name, value in (linux if isinstance(linux, dict) else {}).items():
        if value and name not in _LINUX_FIELDS:
            yield f"field linux.{name}"
    score = process.get("oomScoreAdj") if isinstance(process, dict) else None
    if isinstance(score, int) and score < 0:
        yield f"process.oomScoreAdj {score}, which makes the kernel end other processes first"
