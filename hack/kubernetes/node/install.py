"""Installs the runtime on a node and removes it again, without touching running pods.

Both are idempotent, and may be killed anywhere: the next run completes them. containerd is
restarted only when its configuration has changed; its running tasks are not affected by that.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from hack.kubernetes.node import containerd, runsc
from hack.kubernetes.node.bundle import described
from hack.kubernetes.node.daemon import Daemon
from hack.kubernetes.node.paths import PATH, Node, read, write
from hack.kubernetes.node.versions import Versions, wait_for_exit
from shim import config
from shim.config import Config
from shim.errors import CryoError, FailedPrecondition

# The first line of a config.toml of ours that this program may replace and remove.
MARK = "# Written by the Cryoshim installer of this node; change its source instead.\n"
_RESTART = "restart-containerd"
_OWNER = "owner"
_LOCK = "lock"


@dataclass(frozen=True)
class Installer:
    """What is installed where: `settings` is the text of our config.toml, `daemon` containerd.

    Without a daemon nothing is restarted, and the report says that this remains to be done.
    `owner` names who installs: of two installers on a node the last one is the owner, and only
    that one removes the runtime when it ends.
    """

    node: Node
    daemon: Daemon | None = None
    owner: str = ""

    def install(self, bundle: Path, settings: Path | None = None) -> Generator[str]:
        """Install a bundle with these settings, and yield what was done, a line each.

        Raises:
            CryoError: the node lacks something, or containerd did not start with the new
                configuration, which is then undone.
        """
        with self._locked():
            self._check(bundle, settings)
            versions = Versions(self.node)
            name = versions.add(bundle)
            versions.activate(name)
            yield f"{described(bundle)} is installed in {self.node.prefix}"
            text = settings.read_text("utf-8") if settings else ""
            write(self.node.at(self.node.settings), MARK + text)
            yield from self._configure(containerd.enabled(self.node))
            write(self._ours(_OWNER), self.owner)
            yield from (f"version {old} is still used by running pods" for old in _others(versions))

    def remove(self) -> Iterator[str]:
        """Remove all of it and yield what was done.

        Raises:
            FailedPrecondition: pods use it. containerd needs the runtime for their execs, and
                their shims need the files, so nothing was removed.
            CryoError: containerd did not restart.
        """
        with self._locked():
            versions = Versions(self.node)
            if used := [name for name in versions.names() if versions.users(name)]:
                message = f"running pods use {', '.join(used)}; nothing was removed"
                raise FailedPrecondition(message, remedy="delete these pods and remove it again")
            yield from self._configure(containerd.disabled(self.node))
            if self._settings_are_ours():
                write(self.node.at(self.node.settings), None)
            versions.clear()
            shutil.rmtree(self.node.at(self.node.prefix))
            yield f"removed {self.node.prefix}"

    def wait_until_unused(self, timeout_s: float) -> None:
        """Return when no pod uses any version, or after the timeout."""
        deadline = time.monotonic() + timeout_s
        while users := Versions(self.node).all_users():
            left_s = deadline - time.monotonic()
            if left_s <= 0 or not wait_for_exit(users[0], left_s):
                return

    def is_owner(self) -> bool:
        """Return whether no other installer came after this one."""
        return read(self._ours(_OWNER)) == self.owner

    def _check(self, bundle: Path, settings: Path | None) -> None:
        """Check what the node must have before anything is changed."""
        text = read(self.node.at(self.node.settings))
        if text is not None and not text.startswith(MARK):
            message = f"{self.node.settings} was not written by this installer"
            raise FailedPrecondition(message, remedy="move its settings into the ConfigMap")
        binary = (config.load(settings) if settings else Config()).runsc.binary
        is_bundled = binary == runsc.NAME and runsc.programs(bundle)
        on_node = (os.access(self.node.at(path), os.X_OK) for path in _candidates(binary))
        if not is_bundled and not any(on_node):
            message = f"this node has no runsc: {binary} is not executable, or not on {PATH}"
            remedy = "use an image with a runsc, install gVisor's runsc, or set [runsc] binary"
            raise FailedPrecondition(message, remedy=remedy)
        containerd.enabled(self.node)

    def _configure(self, wanted: containerd.Texts) -> Iterator[str]:
        """Write containerd's files; restart it if they changed, now or before an earlier end."""
        before = containerd.changes(self.node, wanted)
        pending = self._ours(_RESTART)
        if before:
            write(pending, "")
            self._write(wanted)
            yield f"changed {', '.join(str(path) for path in before)}"
        if not pending.exists():
            return
        if self.daemon is not None:
            self._restart(self.daemon, before)
        pending.unlink()
        must = "restart containerd on this node: its configuration has changed"
        yield "containerd was restarted" if self.daemon else must

    def _restart(self, daemon: Daemon, before: containerd.Texts) -> None:
        """Restart containerd; if that fails restore its files and restart it with them."""
        try:
            daemon.restart()
        except CryoError:
            self._write(before)
            daemon.restart()
            self._ours(_RESTART).unlink()
            raise

    def _write(self, texts: containerd.Texts) -> None:
        for path, text in texts.items():
            write(self.node.at(path), text)

    def _settings_are_ours(self) -> bool:
        return (read(self.node.at(self.node.settings)) or "").startswith(MARK)

    def _ours(self, name: str) -> Path:
        return self.node.at(self.node.prefix) / name

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self.node.at(self.node.prefix).mkdir(parents=True, exist_ok=True)
        with self._ours(_LOCK).open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def _others(versions: Versions) -> list[str]:
    return [name for name in versions.prune() if name != versions.active()]


def _candidates(binary: str) -> list[Path]:
    if "/" in binary:
        return [Path(binary)]
    return [Path(folder) / binary for folder in PATH.split(":")]
