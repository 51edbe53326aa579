"""The runtime `cryo` in the configuration of a node's containerd.

It is a drop-in file where config.toml imports a directory and has version 3 or newer, else tables
at the end of config.toml; `shim.install.containerd` says what is in them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from hack.kubernetes.node.paths import Node, read
from shim.install import containerd
from shim.install.containerd import DROP_IN
from shim.install.runtime import HANDLER, Runtime

__all__ = ("DROP_IN", "HANDLER", "changes", "disabled", "enabled")

Texts = Mapping[Path, str | None]


def enabled(node: Node) -> Texts:
    """Return the files that define the runtime, by path; None is a file that must not exist.

    Raises:
        CryoError: config.toml cannot be read, or defines another runtime of this name.
    """
    file, runtime = node.containerd, Runtime(str(node.shim))
    text = read(node.at(file))
    folder = containerd.drop_in_folder(text, file)
    if folder is None or containerd.handler(containerd.parsed(text, file)) is not None:
        return {file: containerd.added(text, runtime, file)}
    version = containerd.version_of(text, file)
    return {file: text, folder / DROP_IN: containerd.drop_in(version, runtime)}


def disabled(node: Node) -> Texts:
    """Return the same files without the runtime."""
    text = read(node.at(node.containerd))
    folder = containerd.drop_in_folder(text, node.containerd)
    drop_in = {folder / DROP_IN: None} if folder else {}
    return {node.containerd: containerd.removed(text, node.containerd), **drop_in}


def changes(node: Node, wanted: Texts) -> dict[Path, str | None]:
    """Return the files of `wanted` that differ from the node's, with the node's text."""
    found = {path: read(node.at(path)) for path in wanted}
    return {path: text for path, text in found.items() if (text or None) != (wanted[path] or None)}
