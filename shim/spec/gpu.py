"""Which GPUs a spec asks for, and in which of the three languages. Pure."""

from __future__ import annotations

import re

from shim.errors import InvalidArgument
from shim.model import Value
from shim.spec.document import Spec

VISIBLE = "NVIDIA_VISIBLE_DEVICES"
_CDI_PREFIX = "cdi.k8s.io/"
_NONE = frozenset({"", "none", "void"})
_INDEX = re.compile(r"[0-9]{1,4}")
_UUID = re.compile(r"GPU-[0-9A-Fa-f-]{4,64}")
_MIG = re.compile(r"MIG-.*|[0-9]+:[0-9]+")


class GpuRequest(Value):
    """What a container wants. `source` is `devices`, `cdi`, `env`, or empty when it wants none.

    `devices` are device paths, qualified CDI names, or indices, UUIDs and `all`, by source.
    """

    wanted: bool = False
    devices: tuple[str, ...] = ()
    source: str = ""


def gpu_request(spec: Spec) -> GpuRequest:
    """Tell what the spec asks for: device nodes count before CDI names, those before the variable.

    Raises:
        InvalidArgument: NVIDIA_VISIBLE_DEVICES or a CDI annotation says what cannot be understood.
    """
    nodes = tuple(d.path for d in spec.devices if d.path.startswith("/dev/nvidia"))
    if nodes:
        return GpuRequest(wanted=True, devices=nodes, source="devices")
    if names := _annotated(spec):
        return GpuRequest(wanted=True, devices=names, source="cdi")
    return _visible(spec.variable(VISIBLE) or "")


def is_nvidia(name: str) -> bool:
    """Whether a qualified CDI name is of NVIDIA's; other vendors' are the caller's business."""
    vendor = name.partition("/")[0]
    return vendor == "nvidia.com" or vendor.endswith(".nvidia.com")


def _annotated(spec: Spec) -> tuple[str, ...]:
    values = [v for k, v in sorted(spec.annotations.items()) if k.startswith(_CDI_PREFIX)]
    return tuple(name for name in _unique(",".join(values)) if is_nvidia(name))


def _visible(text: str) -> GpuRequest:
    if text.strip() in _NONE:
        return GpuRequest()
    names = _unique(text)
    if names and all("=" in name for name in names):
        return GpuRequest(wanted=True, devices=names, source="cdi")
    for name in names:
        _check_visible(name, text)
    devices = ("all",) if "all" in names else names
    return GpuRequest(wanted=bool(devices), devices=devices, source="env" if devices else "")


def _check_visible(name: str, text: str) -> None:
    if name == "all" or _INDEX.fullmatch(name) or _UUID.fullmatch(name):
        return
    if _MIG.fullmatch(name):
        message = f"{VISIBLE} names the MIG device {name}, which gVisor does not support"
        raise InvalidArgument(message, remedy="give the container whole GPUs")
    message = f"{VISIBLE}={text[:200]!r} is not understood at {name[:80]!r}"
    raise InvalidArgument(message, remedy="use all, none, indices such as 0,1, or GPU-... UUIDs")


def _unique(text: str) -> tuple[str, ...]:
    names = (part.strip() for part in text.split(","))
    return tuple(dict.fromkeys(name for name in names if name))
