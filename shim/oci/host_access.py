"""A spec's access to the host: hooks that run there, mounted folders, devices. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from shim.model import Value
from shim.oci import document
from shim.oci.document import Spec, SpecMount

_HOOKS = "hooks"
_BIND = frozenset({"bind", "rbind"})


class Hook(Value):
    """A program that the runtime runs on the host, as root."""

    when: str
    path: str
    args: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.when} {self.path}"


class HostMount(Value):
    """A file or folder of the host that is mounted into the container."""

    source: str
    destination: str
    writable: bool


class HostAccess(Value):
    """All host access of one container.

    `namespaces` are those that it joins; `host_network` is whether it asks for the host's network.
    """

    task: str
    rootfs: str
    hooks: tuple[Hook, ...] = ()
    mounts: tuple[HostMount, ...] = ()
    devices: tuple[str, ...] = ()
    namespaces: tuple[str, ...] = ()
    host_network: bool = False


def of(task: str, spec: Spec) -> HostAccess:
    """Return the host access of a task's container."""
    return HostAccess(
        task=task,
        rootfs=str(spec.rootfs),
        hooks=hooks(spec.data),
        mounts=tuple(_mount(spec, mount) for mount in spec.mounts if is_bind(mount)),
        devices=tuple(device.path for device in spec.devices),
        namespaces=spec.joined_namespaces,
        host_network=not spec.has_network_namespace,
    )


def hooks(data: Mapping[str, Any]) -> tuple[Hook, ...]:
    """List the hooks in the data of an untrusted spec, without invalid entries."""
    found = data.get(_HOOKS)
    if not isinstance(found, dict):
        return ()
    return tuple(
        _hook(str(when), one)
        for when, each in found.items()
        if isinstance(each, list)
        for one in each
        if isinstance(one, dict)
    )


def without_hooks(spec: Spec) -> Spec:
    """Return the spec without any hook."""
    if _HOOKS not in spec.data:
        return spec
    rest = {name: value for name, value in spec.data.items() if name != _HOOKS}
    return document.parse(rest, spec.bundle, restoring=True)


def _hook(when: str, found: dict[str, Any]) -> Hook:
    args = found.get("args")
    words = tuple(str(word) for word in args) if isinstance(args, list) else ()
    return Hook(when=when, path=str(found.get("path", "")), args=words)


def is_bind(mount: SpecMount) -> bool:
    """Whether a mount is a file or folder of the host."""
    return mount.type == "bind" or bool(_BIND & set(mount.options or ()))


def _mount(spec: Spec, mount: SpecMount) -> HostMount:
    return HostMount(
        source=str(spec.bundle / mount.source),
        destination=mount.destination,
        writable="ro" not in (mount.options or ()),
    )
