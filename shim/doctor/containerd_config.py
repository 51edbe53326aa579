"""containerd's config.toml with its imports: the handlers that have our runtime."""

from __future__ import annotations

import glob
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from shim.doctor.host import Host
from shim.errors import CryoError, InvalidArgument
from shim.host import files
from shim.model import Value

TYPE = "io.containerd.cryo.v1"
_MAX_BYTES = 4 << 20
# containerd 1.x, and 2.x.
_PLUGINS = ("io.containerd.grpc.v1.cri", "io.containerd.cri.v1.runtime")


class Handler(Value):
    """A runtime of the CRI plugin, by which a RuntimeClass of Kubernetes names it."""

    name: str
    path: str = ""
    pod_annotations: tuple[str, ...] = ()
    container_annotations: tuple[str, ...] = ()


class Configuration(Value):
    """What is read of the files: the version of their format, and the handlers.

    `lost` are the names of handlers in files whose tables a later file replaces.
    """

    version: int = 0
    handlers: tuple[Handler, ...] = ()
    lost: tuple[str, ...] = ()


def read(host: Host, path: Path, *, merges: bool) -> Configuration:
    """Read config.toml and what it imports, the way this containerd does.

    Containerd 2.x `merges` the tables of a plugin; with 1.x the last file with one replaces it.

    Raises:
        InvalidArgument: a file is not TOML.
    """
    tables = list(_tables(host, path))
    found, all_ = _handlers(tables, merges=merges), _handlers(tables, merges=True)
    version = tables[0].get("version", 0)
    names = {one.name for one in found}
    return Configuration(
        version=version if isinstance(version, int) else 0,
        handlers=found,
        lost=tuple(one.name for one in all_ if one.name not in names),
    )


def _handlers(tables: Sequence[Mapping[str, Any]], *, merges: bool) -> tuple[Handler, ...]:
    plugins: dict[str, Any] = {}
    for table in tables:
        plugins = _joined(plugins, _table(table, "plugins"), deep=merges)
    runtimes = [
        item
        for name in _PLUGINS
        for item in _table(plugins, name, "containerd", "runtimes").items()
    ]
    found = (_handler(name, one) for name, one in runtimes if isinstance(one, Mapping))
    return tuple(one for one in found if one is not None)


def _handler(name: str, runtime: Mapping[str, Any]) -> Handler | None:
    if runtime.get("runtime_type") != TYPE:
        return None
    return Handler(
        name=name,
        path=str(runtime.get("runtime_path", "")),
        pod_annotations=tuple(map(str, runtime.get("pod_annotations") or ())),
        container_annotations=tuple(map(str, runtime.get("container_annotations") or ())),
    )


def _joined(old: Mapping[str, Any], new: Mapping[str, Any], *, deep: bool) -> dict[str, Any]:
    joined = dict(old)
    for key, value in new.items():
        before = joined.get(key)
        if deep and isinstance(before, Mapping) and isinstance(value, Mapping):
            joined[key] = _joined(before, value, deep=True)
        else:
            joined[key] = value
    return joined


def _table(table: Mapping[str, Any], *keys: str) -> Mapping[str, Any]:
    """Return a table within another; an empty one if there is none."""
    found: Any = table
    for key in keys:
        found = found.get(key) if isinstance(found, Mapping) else None
    return found if isinstance(found, Mapping) else {}


def _tables(host: Host, path: Path) -> Iterator[Mapping[str, Any]]:
    main = _parsed(path)
    yield main
    for pattern in main.get("imports", []):
        absolute = host.at(pattern) if str(pattern).startswith("/") else path.parent / pattern
        for each in sorted(glob.glob(str(absolute))):  # noqa: PTH207 - an absolute pattern
            yield _parsed(Path(each))


def _parsed(path: Path) -> Mapping[str, Any]:
    try:
        return tomllib.loads(files.read_bounded(path, _MAX_BYTES, nofollow=False).decode("utf-8"))
    except (CryoError, ValueError, RecursionError) as error:
        message = f"{path} cannot be read: {error}"
        raise InvalidArgument(message, remedy="correct it, and restart containerd") from error


def passes(patterns: Sequence[str], annotation: str) -> bool:
    """Whether containerd passes an annotation on; its patterns are those of path.Match in Go."""
    return any(_matches(pattern, annotation) for pattern in patterns)


def _matches(pattern: str, annotation: str) -> bool:
    before, star, after = pattern.partition("*")
    if not star:
        return pattern == annotation
    return annotation.startswith(before) and annotation.endswith(after)
