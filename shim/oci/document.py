"""A bundle's config.json: read with a size limit, checked once, edited only as a copy."""

from __future__ import annotations

import re
import stat
from pathlib import Path
from typing import Any

import msgspec

from shim.errors import CryoError, InvalidBundle
from shim.host import files
from shim.model import Value
from shim.oci import canonical, field_names, untrusted_json

CONFIG = "config.json"
MAX_SPEC_BYTES = 8 << 20
_NUL = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")


class Device(Value):
    """The fields in use of an OCI `linux.devices` entry."""

    path: str
    type: str = ""
    major: int = 0
    minor: int = 0


class SpecMount(Value):
    """The fields in use of an OCI `mounts` entry."""

    destination: str
    type: str = ""
    source: str = ""
    options: tuple[str, ...] | None = None


class _Capabilities(Value):
    bounding: tuple[str, ...] | None = None


class _Process(Value):
    args: tuple[str, ...] | None = None
    env: tuple[str, ...] | None = None
    terminal: bool = False
    capabilities: _Capabilities | None = None


class _Root(Value):
    path: str = ""
    readonly: bool = False


class _SpecNamespace(Value):
    type: str = ""
    path: str = ""


class _Linux(Value, rename="camel"):
    cgroups_path: str | None = None
    devices: tuple[Device, ...] | None = None
    namespaces: tuple[_SpecNamespace, ...] | None = None


class _View(Value, rename="camel"):
    """The part of a spec that this project reads; everything else is kept unchanged."""

    oci_version: str = ""
    process: _Process | None = None
    root: _Root | None = None
    mounts: tuple[SpecMount, ...] | None = None
    annotations: dict[str, str] | None = None
    linux: _Linux | None = None


class Spec(Value):
    """A spec and the folder that its relative paths are relative to; `data` is never changed."""

    bundle: Path
    data: dict[str, Any]
    view: _View

    @property
    def args(self) -> tuple[str, ...]:
        """Return the command line of the init process."""
        return self._process.args or ()

    @property
    def env(self) -> tuple[str, ...]:
        """Return the environment as `NAME=value` strings."""
        return self._process.env or ()

    @property
    def terminal(self) -> bool:
        """Whether the init process has a terminal."""
        return self._process.terminal

    @property
    def bounding_capabilities(self) -> frozenset[str]:
        """Return the container's bounding set of capabilities."""
        return frozenset((self._process.capabilities or _Capabilities()).bounding or ())

    @property
    def annotations(self) -> dict[str, str]:
        """Return a copy of the annotations."""
        return dict(self.view.annotations or {})

    @property
    def mounts(self) -> tuple[SpecMount, ...]:
        """Return the mounts, in order."""
        return self.view.mounts or ()

    @property
    def devices(self) -> tuple[Device, ...]:
        """Return the device nodes."""
        return (self.view.linux and self.view.linux.devices) or ()

    @property
    def cgroups_path(self) -> str:
        """Return the path of the cgroup; empty if unset."""
        return (self.view.linux and self.view.linux.cgroups_path) or ""

    @property
    def shares_pids(self) -> bool:
        """Whether the container joins an existing pid namespace."""
        spaces = (self.view.linux and self.view.linux.namespaces) or ()
        return any(space.type == "pid" and space.path for space in spaces)

    @property
    def joined_namespaces(self) -> tuple[str, ...]:
        """List the paths of the namespaces that the container joins."""
        spaces = (self.view.linux and self.view.linux.namespaces) or ()
        return tuple(space.path for space in spaces if space.path)

    @property
    def has_network_namespace(self) -> bool:
        """Whether it has a network namespace, new or joined; else it is on the host's network."""
        spaces = (self.view.linux and self.view.linux.namespaces) or ()
        return any(space.type == "network" for space in spaces)

    @property
    def network_namespace(self) -> str:
        """Return the path of the network namespace that it joins; empty for a new one."""
        spaces = (self.view.linux and self.view.linux.namespaces) or ()
        return next((space.path for space in spaces if space.type == "network"), "")

    @property
    def readonly(self) -> bool:
        """Whether the root filesystem is read-only."""
        return self._root.readonly

    @property
    def rootfs(self) -> Path:
        """Return the absolute path of the root filesystem on the host."""
        return self.bundle / self._root.path

    @property
    def has_nvidia_devices(self) -> bool:
        """Whether the devices include an NVIDIA device node."""
        return any(device.path.startswith("/dev/nvidia") for device in self.devices)

    def variable(self, name: str) -> str | None:
        """Return an environment variable; the last of several wins, as in the NVIDIA toolkit."""
        prefix = f"{name}="
        found = [line.removeprefix(prefix) for line in self.env if line.startswith(prefix)]
        return found[-1] if found else None

    @property
    def _process(self) -> _Process:
        return self.view.process or _Process()

    @property
    def _root(self) -> _Root:
        return self.view.root or _Root()


def load(bundle: Path, *, restoring: bool = False) -> Spec:
    """Read and check `bundle`/config.json; with `restoring` it may lack the command line.

    Raises:
        InvalidBundle: missing, too large, not a JSON object, or without a field that runsc needs.
    """
    if not bundle.is_absolute():
        message = f"bundle {bundle} is not an absolute path"
        raise InvalidBundle(message, remedy="give the bundle's absolute path")
    path = bundle / CONFIG
    try:
        data = untrusted_json.decode(files.read_bounded(path, MAX_SPEC_BYTES, nofollow=False))
    except CryoError as error:
        remedy = f"put an OCI config.json in {bundle}"
        raise InvalidBundle(error.message, remedy=remedy) from error
    except ValueError as error:
        message = f"{path} is not JSON: {error}"
        raise InvalidBundle(message, remedy="correct the file") from error
    return parse(data, bundle, restoring=restoring)


def parse(data: Any, bundle: Path, *, restoring: bool = False) -> Spec:
    """Check spec `data` that belongs to `bundle`.

    Raises:
        InvalidBundle: a required field is missing or of the wrong type.
    """
    where = bundle / CONFIG
    if not isinstance(data, dict):
        message = f"{where} is not a JSON object"
        raise InvalidBundle(message, remedy="write an OCI runtime spec")
    try:
        encoded = canonical.encode(data)
        spec = Spec(bundle=bundle, data=data, view=msgspec.convert(data, _View))
    except (ValueError, msgspec.ValidationError) as error:
        message = f"{where}: {error}"
        raise InvalidBundle(message, remedy="correct the spec") from error
    if _NUL.search(encoded):
        message = f"{where} has a NUL character, which no path, argument or variable can contain"
        raise InvalidBundle(message, remedy="remove \\u0000 from the file")
    if name := field_names.misspelt(data):
        message = f"{where} has {name!r}, which runsc takes for {field_names.correct(name)!r}"
        raise InvalidBundle(message, remedy="write the names of fields as the OCI spec does")
    if missing := _missing(spec, restoring=restoring):
        message = f"{where} has no {missing}"
        raise InvalidBundle(message, remedy=f"set {missing} in the spec")
    return spec


def annotated(spec: Spec, more: dict[str, str]) -> Spec:
    """Return the spec with annotations added, or changed."""
    annotations = spec.annotations | more
    if annotations == spec.annotations:
        return spec
    return parse({**spec.data, "annotations": annotations}, spec.bundle, restoring=True)


def placed(spec: Spec, bundle: Path) -> Spec:
    """Return the spec as it is written into another bundle: with the whole path of its root."""
    data = {**spec.data, "root": {**spec.data["root"], "path": str(spec.rootfs)}}
    return Spec(bundle=bundle, data=data, view=msgspec.convert(data, _View))


class _Annotated(Value):
    annotations: dict[str, str] | None = None


def read_annotations(bundle: Path) -> dict[str, str]:
    """Read only the annotations of `bundle`/config.json; none if it cannot be read.

    It is much faster than `load`, which is to report what is wrong with the file.
    """
    try:
        data = files.read_bounded(bundle / CONFIG, MAX_SPEC_BYTES, nofollow=False)
        return msgspec.json.decode(data, type=_Annotated).annotations or {}
    except (CryoError, msgspec.MsgspecError, ValueError, RecursionError):
        return {}


def digest(spec: Spec) -> str:
    """Return the BLAKE3 hash of the spec in hexadecimal, independent of the key order."""
    return canonical.digest(canonical.encode(spec.data))


def write(spec: Spec) -> None:
    """Atomically replace the bundle's config.json with this spec, keeping its mode."""
    path = spec.bundle / CONFIG
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
    except OSError:
        mode = 0o600
    files.write_atomic(path, canonical.encode(spec.data) + b"\n", mode)


def _missing(spec: Spec, *, restoring: bool) -> str:
    if not spec.view.oci_version:
        return "ociVersion"
    if spec.view.root is None or not spec.view.root.path:
        return "root.path"
    if not restoring and not spec.args:
        return "process.args"
    return ""
