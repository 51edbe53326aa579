"""Compares a bundle with an image, in every field that runsc's restore validation compares.

Source: gVisor runsc/specutils/restore.go, whose comparisons and exemptions are mirrored:
what may differ (environment, host and domain name, mount sources, namespace paths, cgroups,
resources, hooks, internal annotations) is not compared. Newer runsc stops at the first difference,
after creating the sandbox; older ones restore the saved values and ignore the given ones.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

from shim.errors import InvalidArgument
from shim.oci.difference import Difference, changes, describe, shown
from shim.oci.document import Spec

_SECCOMP = "dev.gvisor.internal.seccomp."
_NAME = "io.kubernetes.cri.container-name"
# Prefixes of gVisor's annotations that may differ.
_FREE_ANNOTATIONS = ("dev.gvisor.internal.", "dev.gvisor.container-name-remap.")
_FREE_FLAGS = frozenset(
    f"dev.gvisor.flag.{name}"
    for name in (
        "debug",
        "debug-log",
        "debug-command",
        "debug-log-format",
        "strace",
        "strace-syscalls",
        "strace-log-size",
        "log-packets",
    )
)
_NVIDIA_GPU = re.compile(r"nvidia[0-9]+")
_NVIDIA_MAJOR = 195
_NVIDIA_REGULAR_MAX = 247
_CAPABILITY_SETS = ("bounding", "effective", "inheritable", "permitted", "ambient")
# Fields that runsc compares whole.
_PROCESS_REST = (
    "apparmorProfile",
    "commandLine",
    "consoleSize",
    "execCPUAffinity",
    "ioPriority",
    "noNewPrivileges",
    "oomScoreAdj",
    "scheduler",
    "selinuxLabel",
)
_LINUX_REST = (
    "intelRdt",
    "maskedPaths",
    "memoryPolicy",
    "mountLabel",
    "netDevices",
    "personality",
    "readonlyPaths",
    "rootfsPropagation",
    "timeOffsets",
)
_SPEC_REST = ("freebsd", "solaris", "vm", "windows", "zos")


def check_same(saved: Spec, given: Spec, *, remedy: str) -> None:
    """Check that runsc can restore a container saved with the spec `saved` using `given`.

    Raises:
        InvalidArgument: it cannot; the message lists the fields that differ.
    """
    found = differences(saved, given)
    if found:
        message = f"the bundle differs from the one in the image: {describe(found)}"
        raise InvalidArgument(message, remedy=remedy)


def differences(saved: Spec, given: Spec) -> tuple[Difference, ...]:
    """List every field that prevents `given` from replacing `saved`."""
    if saved.data == given.data:
        return ()
    old, new = compared(saved), compared(given)
    changed = changes(old, new)
    known = conflicts(saved)
    return (*changed, *(one for one in conflicts(given) if one not in known))


def conflicts(spec: Spec) -> tuple[Difference, ...]:
    """List what runsc's validation rejects even when a spec is compared with itself.

    A runsc that validates can never restore an image made with such a spec.
    """
    return (*_repeated_mounts(spec), *_repeated(spec))


def compared(spec: Spec) -> dict[str, Any]:
    """Return each compared field, normalized so that values equal for runsc are equal."""
    data = spec.data
    process, linux = _object(data, "process"), _object(data, "linux")
    found: dict[str, Any] = {
        "ociVersion": data.get("ociVersion", ""),
        "root.readonly": spec.readonly,
        "process.terminal": spec.terminal,
        "process.cwd": process.get("cwd", ""),
        "process.user": {"uid": 0, "gid": 0, **_meaning(_object(process, "user"))},
        "process.rlimits": sorted(_rlimit(one) for one in _objects(process, "rlimits")),
        "process.args": _args(spec.args),
        "linux.sysctl": _object(linux, "sysctl"),
        "linux.seccomp": _seccomp(spec, linux),
        "linux.devices": _devices(linux),
        "linux.uidMappings": _set_of(linux.get("uidMappings")),
        "linux.gidMappings": _set_of(linux.get("gidMappings")),
        "linux.namespaces": sorted(_namespaces(linux)),
    }
    found |= _capabilities(process)
    found |= {f"process.{name}": _meaning(process.get(name)) for name in _PROCESS_REST}
    found |= {f"linux.{name}": _meaning(linux.get(name)) for name in _LINUX_REST}
    found |= {name: _meaning(data.get(name)) for name in _SPEC_REST}
    found |= {f"mounts {where}": how for where, how in _mounts(data).items()}
    found |= {f"annotations {key}": text for key, text in _annotations(spec).items()}
    # runsc finds the container in the image by this name.
    found[f"annotations {_NAME}"] = spec.annotations.get(_NAME, "")
    return found


def _mounts(data: dict[str, Any]) -> dict[str, Any]:
    """Return the mounts by destination, without sources; the last of several wins."""
    return {str(one.get("destination", "")): _mount(one) for one in _objects(data, "mounts")}


def _mount(mount: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": mount.get("type") or "",
        "options": sorted(map(str, _list(mount, "options"))),
        "uidMappings": _set_of(mount.get("uidMappings")),
        "gidMappings": _set_of(mount.get("gidMappings")),
    }


def _annotations(spec: Spec) -> dict[str, str]:
    return {key: text for key, text in spec.annotations.items() if _is_compared(key)}


def _is_compared(key: str) -> bool:
    if not key.startswith("dev.gvisor.") or key.startswith(_FREE_ANNOTATIONS):
        return False
    source = key.startswith("dev.gvisor.spec.mount.") and key.endswith(".source")
    return not source and key not in _FREE_FLAGS


def _args(args: tuple[str, ...]) -> list[str]:
    """Return the command line with the program's base name: runsc may have resolved its path."""
    return [PurePosixPath(args[0]).name or args[0], *args[1:]] if args else []


def _capabilities(process: dict[str, Any]) -> dict[str, Any]:
    sets = _object(process, "capabilities")
    found: dict[str, Any] = {
        f"process.capabilities.{name}": sorted(map(str, _list(sets, name)))
        for name in _CAPABILITY_SETS
    }
    # No capabilities object differs from one with five empty sets.
    found["process.capabilities"] = "none" if process.get("capabilities") is None else "some"
    return found


def _rlimit(limit: dict[str, Any]) -> str:
    return f"{limit.get('type', '')} soft {limit.get('soft', 0)} hard {limit.get('hard', 0)}"


def _seccomp(spec: Spec, linux: dict[str, Any]) -> Any:
    """Return the filter; runsc ignores it if an annotation marks it as RuntimeDefault."""
    name = spec.annotations.get(_NAME, "")
    if name and spec.annotations.get(_SECCOMP + name) == "RuntimeDefault":
        return None
    return _meaning(linux.get("seccomp"))


def _devices(linux: dict[str, Any]) -> list[list[str]]:
    """Return the path and type of each device, without GPUs, which may change."""
    found = (one for one in _objects(linux, "devices") if not _is_gpu(one))
    return sorted([str(one.get("path", "")), str(one.get("type", ""))] for one in found)


def _namespaces(linux: dict[str, Any]) -> list[str]:
    return [str(one.get("type", "")) for one in _objects(linux, "namespaces")]


def _is_gpu(device: dict[str, Any]) -> bool:
    name, minor = PurePosixPath(str(device.get("path", ""))).name, device.get("minor", 0)
    return (
        bool(_NVIDIA_GPU.fullmatch(name))
        and device.get("major") == _NVIDIA_MAJOR
        and name == f"nvidia{minor}"
        and minor <= _NVIDIA_REGULAR_MAX
    )


def _repeated_mounts(spec: Spec) -> Iterator[Difference]:
    """Find destinations with two different mounts: runsc compares the first with the last."""
    seen: dict[str, dict[str, Any]] = {}
    for one in _objects(spec.data, "mounts"):
        where = str(one.get("destination", ""))
        whole = {**_mount(one), "source": one.get("source", "")}
        if seen.setdefault(where, whole) != whole:
            yield Difference(field=f"mounts {where}", detail="two different mounts at one place")


def _repeated(spec: Spec) -> Iterator[Difference]:
    process, linux = _object(spec.data, "process"), _object(spec.data, "linux")
    sets = _object(process, "capabilities")
    lists: dict[str, list[Any]] = {
        "process.rlimits": _list(process, "rlimits"),
        **{f"process.capabilities.{name}": _list(sets, name) for name in _CAPABILITY_SETS},
        "linux.uidMappings": _list(linux, "uidMappings"),
        "linux.gidMappings": _list(linux, "gidMappings"),
        "linux.devices": _devices(linux),
        "linux.namespaces": _namespaces(linux),
    }
    for name, entries in lists.items():
        texts = [_text(one) for one in entries]
        if again := sorted({text for text in texts if texts.count(text) > 1}):
            yield Difference(field=name, detail=f"names {shown(again[0])} twice")


def _meaning(value: Any) -> Any:
    """Drop what Go decodes as a zero value: null, empty strings and lists, and false."""
    if isinstance(value, dict):
        plain = {key: _meaning(one) for key, one in value.items()}
        return {key: one for key, one in plain.items() if one is not None}
    if isinstance(value, list):
        return [_meaning(one) for one in value] or None
    return None if value == "" or value is False else value


def _set_of(value: Any) -> list[Any]:
    entries = value if isinstance(value, list) else []
    return sorted((_meaning(one) for one in entries), key=_text)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)


def _object(data: dict[str, Any], key: str) -> dict[str, Any]:
    return _object_of(data.get(key))


def _object_of(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _objects(data: dict[str, Any], key: str) -> list[dict[str, Any]]:
    return [one for one in _list(data, key) if isinstance(one, dict)]


def _list(data: dict[str, Any], key: str) -> list[Any]:
    value = data.get(key)
    return value if isinstance(value, list) else []
