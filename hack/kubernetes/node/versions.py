"""The installed versions: a directory for each, and a link to the one that new pods get.

The shims of running pods keep using the version that they were started from, so a version is
removed only when no process runs from it.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from hack.kubernetes.node import runsc
from hack.kubernetes.node.bundle import LIBRARIES, LOADER, NATIVE, VERSION, launch
from hack.kubernetes.node.paths import SHIM, Node
from hack.kubernetes.node.users import User, end, idle_fork_servers, running

PROGRAMS = {SHIM: "shim.entry.shimbin.main", "cryo": "shim.entry.cli"}


class Versions:
    """The versions below a node's prefix."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._folder = node.prefix / "versions"

    def names(self) -> list[str]:
        """Return the versions that are installed completely."""
        folder = self._node.at(self._folder)
        return sorted(p.name for p in folder.glob("*") if not p.name.startswith("."))

    def add(self, bundle: Path) -> str:
        """Copy a bundle to the node, unless it is there; return its version."""
        name = (bundle / VERSION).read_text("utf-8").strip()
        folder = self._node.at(self._folder)
        if not (folder / name).exists():
            staging = self._staging(name)
            shutil.copytree(bundle, staging)
            self._write_launchers(staging, self._folder / name)
            os.sync()  # after a power failure a version is complete, or it is not there
            staging.rename(folder / name)
        return name

    def _staging(self, name: str) -> Path:
        """Return the directory of an incomplete version, which does not exist."""
        staging = self._node.at(self._folder / f".{name}")
        if staging.exists():
            shutil.rmtree(staging)
        return staging

    def _write_launchers(self, staging: Path, place: Path) -> None:
        python = " ".join(launch(place))
        scripts = staging / "libexec"
        scripts.mkdir(exist_ok=True)
        (packages,) = staging.glob("lib/python3*/site-packages")
        _write_program(staging / "bin/python3", f'#!/bin/sh\nexec {python} "$@"\n')
        for name, module in PROGRAMS.items():
            where = place / packages.relative_to(staging)
            script = f"import sys\n\nsys.path.insert(0, {str(where)!r})\n{_main_of(module)}"
            (scripts / name).write_text(script, "utf-8")
            launcher = f'#!/bin/sh\nexec {python} -I {place}/libexec/{name} "$@"\n'
            _write_program(staging / "bin" / name, launcher)
        native = packages / NATIVE
        if native.exists():
            # It runs the script where it needs Python.
            (staging / "bin" / SHIM).rename(staging / "bin" / f"{SHIM}-python")
            shutil.copy2(native, staging / "bin" / SHIM)

    def activate(self, name: str) -> None:
        """Let new pods use this version."""
        link = self._node.at(self._node.current)
        if self.active() != name:
            temporary = link.with_name(".current")
            temporary.unlink(missing_ok=True)
            temporary.symlink_to(f"versions/{name}")
            temporary.replace(link)

    def active(self) -> str | None:
        """Return the version that new pods use."""
        try:
            return self._node.at(self._node.current).readlink().name
        except OSError:
            return None

    def prune(self) -> list[str]:
        """Remove the versions that are neither active nor used; return those that remain."""
        for name in self.names():
            if name != self.active() and not self.users(name):
                self._discard(name)
        return self.names()

    def clear(self) -> None:
        """Remove all versions, and end their fork servers, which have no shim left.

        Raises:
            Unavailable: one does not end.
        """
        for name in self.names():
            for pid in idle_fork_servers(self._loader(name)):
                end(pid)
            self._discard(name)

    def _loader(self, name: str) -> Path:
        return self._node.at(self._folder / name) / LIBRARIES / LOADER

    def _discard(self, name: str) -> None:
        staging = self._staging(name)
        self._node.at(self._folder / name).rename(staging)
        shutil.rmtree(staging)

    def all_users(self) -> list[User]:
        """Return the processes that run from any version."""
        return [user for name in self.names() for user in self.users(name)]

    def users(self, name: str) -> list[User]:
        """Return the processes that run from a version, except for idle fork servers.

        They are those of its Python, and the sandboxes of its runsc.
        """
        folder = self._node.at(self._folder / name)
        return running(self._loader(name), runsc.programs(folder))


def _main_of(module: str) -> str:
    return f"from {module} import main\n\nmain()\n"


def _write_program(path: Path, text: str) -> None:
    path.write_text(text, "utf-8")
    path.chmod(0o755)
