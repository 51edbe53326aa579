"""Additions to a spec, applied idempotently. Pure."""

from __future__ import annotations

import copy
from typing import Any

from shim.model import Value
from shim.oci import document
from shim.oci.document import Spec


class DeviceNode(Value):
    """A device node to add, with the device numbers of the host's node."""

    path: str
    type: str
    major: int
    minor: int
    file_mode: int | None = None
    uid: int | None = None
    gid: int | None = None
    permissions: str = "rwm"


class BindMount(Value):
    """A host path to mount into the container."""

    destination: str
    source: str
    type: str = "bind"
    options: tuple[str, ...] = ("rbind", "ro", "nosuid", "nodev")


class Edits(Value):
    """The additions; `hooks` are only listed, since runtime hooks cannot change a sandbox."""

    devices: tuple[DeviceNode, ...] = ()
    mounts: tuple[BindMount, ...] = ()
    env: tuple[str, ...] = ()
    gids: tuple[int, ...] = ()
    hooks: tuple[str, ...] = ()

    def __add__(self, other: Edits) -> Edits:
        return Edits(
            devices=self.devices + other.devices,
            mounts=self.mounts + other.mounts,
            env=self.env + other.env,
            gids=self.gids + other.gids,
            hooks=self.hooks + other.hooks,
        )


def apply(spec: Spec, edits: Edits) -> Spec:
    """Return the spec with the additions; the same object if it has them all."""
    data = copy.deepcopy(spec.data)
    for device in edits.devices:
        _add_device(data, device)
    for mount in edits.mounts:
        _put(_list(data, "mounts"), "destination", _mount(mount))
    for line in edits.env:
        _set_variable(_list(_child(data, "process"), "env"), line)
    for gid in edits.gids:
        _add_gid(data, gid)
    return spec if data == spec.data else document.parse(data, spec.bundle, restoring=True)


def _add_device(data: dict[str, Any], device: DeviceNode) -> None:
    linux = _child(data, "linux")
    _put(_list(linux, "devices"), "path", _node(device))
    rules = _list(_child(linux, "resources"), "devices")
    rule = {
        "allow": True,
        "type": device.type,
        "major": device.major,
        "minor": device.minor,
        "access": device.permissions,
    }
    if rule not in rules:
        rules.append(rule)


def _node(device: DeviceNode) -> dict[str, Any]:
    optional = {"fileMode": device.file_mode, "uid": device.uid, "gid": device.gid}
    return {
        "path": device.path,
        "type": device.type,
        "major": device.major,
        "minor": device.minor,
        **{key: value for key, value in optional.items() if value is not None},
    }


def _mount(mount: BindMount) -> dict[str, Any]:
    return {
        "destination": mount.destination,
        "type": mount.type,
        "source": mount.source,
        "options": list(mount.options),
    }


def _put(entries: list[Any], key: str, entry: dict[str, Any]) -> None:
    """Replace the entry with the same key in place, or append it, so that the order is stable."""
    for at, old in enumerate(entries):
        if isinstance(old, dict) and old.get(key) == entry[key]:
            entries[at] = entry
            return
    entries.append(entry)


def _set_variable(env: list[Any], line: str) -> None:
    name = line.partition("=")[0] + "="
    same = [at for at, old in enumerate(env) if isinstance(old, str) and old.startswith(name)]
    if not same:
        env.append(line)
    for at in same:
        env[at] = line


def _add_gid(data: dict[str, Any], gid: int) -> None:
    gids = _list(_child(_child(data, "process"), "user"), "additionalGids")
    if gid not in gids:
        gids.append(gid)


def _child(data: dict[str, Any], key: str) -> dict[str, Any]:
    """Return the object at `key`, creating it if the spec has none or null."""
    found = data.get(key)
    if not isinstance(found, dict):
        found = data[key] = {}
    return found


def _list(data: dict[str, Any], key: str) -> list[Any]:
    found = data.get(key)
    if not isinstance(found, list):
        found = data[key] = []
    return found
