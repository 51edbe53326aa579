"""The runtime `cryo` in containerd's configuration.

It is a drop-in file where config.toml imports a directory and has version 3 or newer, else a block
at the end of config.toml: with containerd 1.x a drop-in replaces all settings of the CRI plugin.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hack.kubernetes.node.paths import Node, read
from shim.errors import FailedPrecondition

HANDLER = "cryo"
DROP_IN = "cryoshim.toml"
_BEGIN = "# BEGIN cryoshim: written by its installer"
_END = "# END cryoshim"
_PLUGINS = {2: "io.containerd.grpc.v1.cri", 3: "io.containerd.cri.v1.runtime"}
# containerd 1.x and 2.x read a configuration of this version.
_OLDEST = 2

Texts = Mapping[Path, str | None]


def enabled(node: Node) -> Texts:
    """Return the files that define the runtime, by path; None is a file that must not exist.

    Raises:
        FailedPrecondition: config.toml cannot be read, or defines another runtime of this name.
    """
    main = _without_block(read(node.at(node.containerd)) or "")
    config = _parse(main, node.containerd)
    version = int(config.get("version", 0 if main.strip() else _OLDEST))
    if version < _OLDEST:
        message = f"{node.containerd} has the format of version {version}"
        raise FailedPrecondition(message, remedy="convert it with `containerd config migrate`")
    tables = _tables(min(version, 3), node.shim)
    folder = _imported(config) if version > _OLDEST else None
    if folder is not None:
        return {node.containerd: main, folder / DROP_IN: f"version = {version}\n\n{tables}"}
    if _handler(config) == tomllib.loads(_runtime(node.shim)):
        return {node.containerd: main}  # a program that drops comments has written it again
    if _handler(config) is not None:
        message = f"{node.containerd} already defines a runtime {HANDLER}"
        raise FailedPrecondition(message, remedy="remove that table")
    head = "" if main.strip() else f"version = {version}\n"
    text = f"{main}{_newline(main)}{_BEGIN}\n{head}{tables}{_END}\n"
    _parse(text, node.containerd)
    return {node.containerd: text}


def disabled(node: Node) -> Texts:
    """Return the same files without the runtime."""
    main = _without_block(read(node.at(node.containerd)) or "")
    folder = _imported(_parse(main, node.containerd))
    drop_in = {folder / DROP_IN: None} if folder else {}
    return {node.containerd: main or None, **drop_in}


def changes(node: Node, wanted: Texts) -> dict[Path, str | None]:
    """Return the files of `wanted` that differ from the node's, with the node's text."""
    found = {path: read(node.at(path)) for path in wanted}
    return {path: text for path, text in found.items() if (text or None) != (wanted[path] or None)}


def _tables(version: int, shim: Path) -> str:
    name = f'plugins."{_PLUGINS[version]}".containerd.runtimes.{HANDLER}'
    return f"[{name}]\n{_runtime(shim)}"


def _runtime(shim: Path) -> str:
    lines = (
        'runtime_type = "io.containerd.cryo.v1"',
        f'runtime_path = "{shim}"',
        'pod_annotations = ["io.cryo.*"]',
        'container_annotations = ["io.cryo.*"]',
    )
    return "".join(f"  {line}\n" for line in lines)


def _without_block(text: str) -> str:
    before, begin, rest = text.partition(f"{_BEGIN}\n")
    if not begin:
        return text
    return before + rest.partition(f"{_END}\n")[2]


def _newline(text: str) -> str:
    return "\n" if text and not text.endswith("\n") else ""


def _parse(text: str, path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        message = f"{path} would not be valid TOML: {error}"
        raise FailedPrecondition(message, remedy="define each runtime in a table") from error


def _imported(config: Mapping[str, Any]) -> Path | None:
    """Return the first directory whose .toml files config.toml imports."""
    patterns = [Path(pattern) for pattern in config.get("imports", [])]
    return next((p.parent for p in patterns if p.is_absolute() and p.name == "*.toml"), None)


def _handler(config: Mapping[str, Any]) -> object:
    for name in _PLUGINS.values():
        plugin = config.get("plugins", {}).get(name, {})
        found = plugin.get("containerd", {}).get("runtimes", {}).get(HANDLER)
        if found is not None:
            return found
    return None
