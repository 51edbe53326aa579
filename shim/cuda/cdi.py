"""Container Device Interface: resolves qualified device names such as `nvidia.com/gpu=0`.

Source: the CDI specification, github.com/cncf-tags/container-device-interface, SPEC.md.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import msgspec

from shim.errors import CryoError, InvalidArgument
from shim.host import files
from shim.model import Value
from shim.oci import untrusted_json
from shim.oci.edits import BindMount, DeviceNode, Edits

MAX_FILE_BYTES = 8 << 20
_SUFFIXES = frozenset({".json", ".yaml", ".yml"})
_NAME = re.compile(
    r"(?P<kind>[A-Za-z][A-Za-z0-9_.-]*/[A-Za-z][A-Za-z0-9_.-]*)=(?P<device>[A-Za-z0-9][\w.:-]*)",
    re.ASCII,
)


class NodeNumbers(Value):
    """The type (`c` or `b`) and the numbers of a device node."""

    type: str
    major: int
    minor: int


Stat = Callable[[str], NodeNumbers | None]
"""Returns the type and numbers of a host device node; `None` if there is none."""


class _Node(Value, rename="camel"):
    path: str
    host_path: str = ""
    type: str = ""
    major: int | None = None
    minor: int | None = None
    file_mode: int | None = None
    permissions: str = "rwm"
    uid: int | None = None
    gid: int | None = None


class _Mount(Value, rename="camel"):
    host_path: str
    container_path: str
    options: tuple[str, ...] = ()
    type: str = ""


class _Hook(Value, rename="camel"):
    hook_name: str = ""
    path: str = ""
    args: tuple[str, ...] = ()


class _Edits(Value, rename="camel"):
    env: tuple[str, ...] | None = None
    device_nodes: tuple[_Node, ...] | None = None
    mounts: tuple[_Mount, ...] | None = None
    hooks: tuple[_Hook, ...] | None = None
    additional_gids: tuple[int, ...] | None = None


class _Device(Value, rename="camel"):
    name: str | int  # YAML reads an unquoted 0 as a number
    container_edits: _Edits = _Edits()


class _File(Value, rename="camel"):
    kind: str
    devices: tuple[_Device, ...] = ()
    container_edits: _Edits = _Edits()


class _Found(Value):
    """A device, the file that defines it, and that file's edits for all its devices."""

    file: Path
    common: _Edits
    own: _Edits


class Registry:
    """All devices of the CDI directories; a later directory overrides an earlier one."""

    def __init__(self, devices: dict[str, _Found], problems: tuple[str, ...], stat: Stat) -> None:
        self._devices = devices
        self._stat = stat
        self.problems = problems

    def names(self, kind: str) -> tuple[str, ...]:
        """List the devices of a kind such as `nvidia.com/gpu`, without the kind."""
        prefix = f"{kind}="
        return tuple(
            name.removeprefix(prefix) for name in sorted(self._devices) if name.startswith(prefix)
        )

    def edits(self, names: Iterable[str]) -> Edits:
        """Return everything that the devices with these qualified names add to a container.

        Raises:
            InvalidArgument: a name is malformed or unknown, or its device node does not exist.
        """
        found = [self._find(name) for name in names]
        total = Edits()
        done: set[Path] = set()
        for one in found:
            if one.file not in done:
                done.add(one.file)
                total += _edits(one.common, self._stat)
            total += _edits(one.own, self._stat)
        return total

    def _find(self, name: str) -> _Found:
        if _NAME.fullmatch(name) is None:
            message = f"CDI device {name[:200]!r} is not of the form vendor/class=name"
            raise InvalidArgument(message, remedy="write it as nvidia.com/gpu=0")
        if name in self._devices:
            return self._devices[name]
        known = ", ".join(sorted(self._devices)[:20]) or "none"
        broken = "".join(f"; {problem}" for problem in self.problems)
        message = f"no CDI device {name}; known devices: {known}{broken}"
        raise InvalidArgument(message, remedy="use one of these, or run: nvidia-ctk cdi generate")


def host_node(path: str) -> NodeNumbers | None:
    """Return the type and numbers of a device node of this host; None if there is none."""
    try:
        found = os.stat(path)  # noqa: PTH116 - a string from a file, used for nothing else
    except OSError:
        return None
    kinds = {stat.S_IFCHR: "c", stat.S_IFBLK: "b"}
    kind = kinds.get(stat.S_IFMT(found.st_mode))
    if kind is None:
        return None
    return NodeNumbers(type=kind, major=os.major(found.st_rdev), minor=os.minor(found.st_rdev))


def read(folders: Iterable[str], stat: Stat = host_node) -> Registry:
    """Read every CDI file; a broken one becomes a problem of the registry, not an error."""
    devices: dict[str, _Found] = {}
    problems: list[str] = []
    for folder in folders:
        here: dict[str, _Found] = {}
        for path in _paths(Path(folder)):
            _add(path, here, problems)
        devices.update(here)
    return Registry(devices, tuple(problems), stat)


def _paths(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if path.suffix in _SUFFIXES)
    except OSError:
        return []


def _add(path: Path, here: dict[str, _Found], problems: list[str]) -> None:
    try:
        file = _parse(path)
    except (CryoError, ValueError, msgspec.ValidationError) as error:
        problems.append(f"{path} cannot be read: {_line(error)}")
        return
    for device in file.devices:
        name = f"{file.kind}={device.name}"
        if name in here:
            problems.append(f"{path} defines {name}, as {here[name].file} already does")
            continue
        here[name] = _Found(file=path, common=file.container_edits, own=device.container_edits)


def _parse(path: Path) -> _File:
    data = files.read_bounded(path, MAX_FILE_BYTES, nofollow=False)
    plain = untrusted_json.decode(data) if path.suffix == ".json" else _yaml(data)
    return msgspec.convert(plain, _File)


def _yaml(data: bytes) -> Any:
    # Imported here: most hosts have no CDI file, and YAML is 20 ms of a short-lived process.
    import yaml  # noqa: PLC0415

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        return yaml.load(data, Loader=loader)  # noqa: S506 - one of the two safe loaders
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(_line(error)) from error


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]


def _edits(found: _Edits, stat: Stat) -> Edits:
    return Edits(
        devices=tuple(_node(node, stat) for node in found.device_nodes or ()),
        mounts=tuple(_mount(mount) for mount in found.mounts or ()),
        env=found.env or (),
        gids=tuple(gid for gid in found.additional_gids or () if gid),
        hooks=tuple(_hook(hook) for hook in found.hooks or ()),
    )


def _node(node: _Node, stat: Stat) -> DeviceNode:
    numbers = _numbers(node, stat)
    return DeviceNode(
        path=node.path,
        type=numbers.type,
        major=numbers.major,
        minor=numbers.minor,
        file_mode=node.file_mode,
        uid=node.uid,
        gid=node.gid,
        permissions=node.permissions,
    )


def _numbers(node: _Node, stat: Stat) -> NodeNumbers:
    """Return the numbers in the CDI file; if one is missing, those of the host's node."""
    if node.type and node.major is not None and node.minor is not None:
        return NodeNumbers(type=node.type, major=node.major, minor=node.minor)
    place = node.host_path or node.path
    found = stat(place)
    if found is None:
        message = f"a CDI file names the device node {place}, which this host does not have"
        raise InvalidArgument(message, remedy="load the driver, or run: nvidia-ctk cdi generate")
    return found


def _mount(mount: _Mount) -> BindMount:
    return BindMount(
        destination=mount.container_path,
        source=mount.host_path,
        type=mount.type or "bind",
        options=mount.options or ("rbind", "ro", "nosuid", "nodev"),
    )


def _hook(hook: _Hook) -> str:
    words = [word for word in hook.args if not word.startswith("-")]
    name = " ".join(words[:2]) if words else hook.path
    return f"{hook.hook_name}: {name}"
