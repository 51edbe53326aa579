"""Which GPUs a spec requests, and in which of three ways. Pure."""

from __future__ import annotations

import re

from shim.errors import InvalidArgument
from shim.model import FromEnvironment, Value
from shim.oci.document import Spec

VISIBLE = "NVIDIA_VISIBLE_DEVICES"
GPU_KIND = "nvidia.com/gpu"
CDI_PREFIX = "cdi.k8s.io/"
NO_GPUS = frozenset({"", "none", "void"})
_INDEX = re.compile(r"[0-9]{1,4}")
_UUID = re.compile(r"GPU-[0-9A-Fa-f-]{4,64}")
_MIG = re.compile(r"MIG-.*|[0-9]+:[0-9]+")


class GpuRequest(Value):
    """A container's GPU request. `source` is `devices`, `cdi` or `env`, or empty without one.

    `devices` are device paths, qualified CDI names, or indices, UUIDs and `all`, by source.
    `ignored` describes a request that the settings do not allow; empty if there is none.
    """

    wanted: bool = False
    devices: tuple[str, ...] = ()
    source: str = ""
    ignored: str = ""


def gpu_request(
    spec: Spec, from_environment: FromEnvironment = FromEnvironment.ALWAYS
) -> GpuRequest:
    """Return the spec's request: device nodes take precedence, then CDI names, then the variable.

    The variable may come from the container's image, which its user chooses. `from_environment`
    selects the containers whose variable counts, and it can name only NVIDIA GPUs.

    Raises:
        InvalidArgument: NVIDIA_VISIBLE_DEVICES or a CDI annotation has an invalid value.
    """
    nodes = tuple(d.path for d in spec.devices if d.path.startswith("/dev/nvidia"))
    if nodes:
        return GpuRequest(wanted=True, devices=nodes, source="devices")
    if names := _annotated(spec):
        return GpuRequest(wanted=True, devices=names, source="cdi")
    request = _visible(spec.variable(VISIBLE) or "")
    if not request.wanted or _accepted(spec, from_environment):
        return request
    reason = f'cuda.from_environment is "{from_environment}"'
    return GpuRequest(ignored=f"{VISIBLE} is ignored and the container gets no GPU: {reason}")


def is_nvidia(name: str) -> bool:
    """Whether a qualified CDI name is NVIDIA's; the caller handles other vendors' names."""
    vendor = name.partition("/")[0]
    return vendor == "nvidia.com" or vendor.endswith(".nvidia.com")


def _accepted(spec: Spec, from_environment: FromEnvironment) -> bool:
    """Whether the variable counts; privileged means CAP_SYS_ADMIN, as in the NVIDIA toolkit."""
    if from_environment is FromEnvironment.PRIVILEGED:
        return "CAP_SYS_ADMIN" in spec.bounding_capabilities
    return from_environment is FromEnvironment.ALWAYS


def _annotated(spec: Spec) -> tuple[str, ...]:
    values = [v for k, v in sorted(spec.annotations.items()) if k.startswith(CDI_PREFIX)]
    return tuple(name for name in _unique(",".join(values)) if is_nvidia(name))


def _visible(text: str) -> GpuRequest:
    if text.strip() in NO_GPUS:
        return GpuRequest()
    names = _unique(text)
    if names and all("=" in name for name in names):
        _check_kind(names)
        return GpuRequest(wanted=True, devices=names, source="cdi")
    for name in names:
        _check_visible(name, text)
    devices = ("all",) if "all" in names else names
    return GpuRequest(wanted=bool(devices), devices=devices, source="env" if devices else "")


def _check_kind(names: tuple[str, ...]) -> None:
    """Reject devices that are not NVIDIA GPUs: any CDI device can mount folders of the host."""
    others = [name for name in names if name.partition("=")[0] != GPU_KIND]
    if others:
        message = f"{VISIBLE} names the CDI device {others[0][:80]!r}, which is not {GPU_KIND}"
        remedy = f"name {GPU_KIND}=... there, and other devices in a {CDI_PREFIX} annotation"
        raise InvalidArgument(message, remedy=remedy)


def _check_visible(name: str, text: str) -> None:
    if name == "all" or _INDEX.fullmatch(name) or _UUID.fullmatch(name):
        return
    if _MIG.fullmatch(name):
        message = f"{VISIBLE} names the MIG device {name}, which gVisor does not support"
        raise InvalidArgument(message, remedy="give the container whole GPUs")
    message = f"{VISIBLE}={text[:200]!r} is not valid at {name[:80]!r}"
    raise InvalidArgument(message, remedy="use all, none, indices such as 0,1, or GPU-... UUIDs")


def _unique(text: str) -> tuple[str, ...]:
    names = (part.strip() for part in text.split(","))
    return tuple(dict.fromkeys(name for name in names if name))
