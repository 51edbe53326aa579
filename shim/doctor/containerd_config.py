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


def handlers(host: Host, path: Path) -> tuple[Handler, ...]:
    """Return the handlers with our runtime; later files replace those of earlier ones.

    Raises:
        InvalidArgument: a file is not TOML.
    """
    found: dict[str, Handler] = {}
    for table in _tables(host, path):
        for name, runtime in _runtimes(table):
            found.pop(name, None)
            if runtime.get("runtime_type") == TYPE:
                found[name] = _handler(name, runtime)
    return tuple(found.values())


def _handler(name: str, runtime: Mapping[str, Any]) -> Handler:
    return Handler(
        name=name,
        path=str(runtime.get("runtime_path", "")),
        pod_annotations=tuple(map(str, runtime.get("pod_annotations") or ())),
        container_annotations=tuple(map(str, runtime.get("container_annotations") or ())),
    )


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


def _runtimes(table: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for name in _PLUGINS:
        at: Any = table
        for key in ("plugins", name, "containerd", "runtimes"):
            at = at.get(key, {}) if isinstance(at, Mapping) else {}
        if isinstance(at, Mapping):
            yield from ((key, one) for key, one in at.items() if isinstance(one, Mapping))


def passes(patterns: Sequence[str], annotation: str) -> bool:
    """Whether containerd passes an annotation on; its patterns are those of path.Match in Go."""
    return any(_matches(pattern, annotation) for pattern in patterns)


def _matches(pattern: str, annotation: str) -> bool:
    before, star, after = pattern.partition("*")
    if not star:
        return pattern == annotation
    return annotation.startswith(before) and annotation.endswith(after)
