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
from hack.kubernetes.node.daemon import Daemon, Service
from hack.kubernetes.node.paths import MARK, PATH, Node, read, write
from hack.kubernetes.node.sidecar import Sidecar
from hack.kubernetes.node.users import Kind, User, wait_for_exit
from hack.kubernetes.node.versions import Versions
from shim import config
from shim.config import Config
from shim.errors import CryoError, FailedPrecondition

_RESTART = "restart-containerd"
_OWNER = "owner"
_LOCK = "lock"


@dataclass(frozen=True)
class Installer:
    """What is installed where: `settings` is the text of our config.toml, `daemon` containerd.

    Without a daemon nothing is restarted, and the report says that this remains to be done.
    `service` is the unit of the sidecar, None with the same effect; there is none if not `sidecar`.
    `owner` names who installs: of two installers on a node the last one is the owner, and only
    that one removes the runtime when it ends.
    """

    node: Node
    daemon: Daemon | None = None
    owner: str = ""
    service: Service | None = None
    sidecar: bool = True

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
            text = MARK + (settings.read_text("utf-8") if settings else "")
            old_text = read(self.node.at(self.node.settings))
            if self.sidecar:
                changed = (versions.active(), old_text) != (name, text)
                due = changed or self._sidecar.keeps_old_version(name)
                self._sidecar.prepare(bundle, changed=due)
            versions.activate(name)
            yield f"{described(bundle)} is installed in {self.node.prefix}"
            write(self.node.at(self.node.settings), text)
            yield from self._configure(containerd.enabled(self.node))
            write(self._ours(_OWNER), self.owner)
            if self.sidecar:
                yield from self._sidecar.start()
            else:
                self._sidecar.halt()
                yield from self._sidecar.remove()
            yield from _kept(versions)

    def remove(self) -> Iterator[str]:
        """Remove all of it and yield what was done.

        Raises:
            FailedPrecondition: pods or tasks of the sidecar use it. containerd needs the runtime
                for the execs of pods, and their shims need the files, so nothing was removed.
            CryoError: containerd did not restart, or the sidecar did not stop.
        """
        with self._locked():
            versions = Versions(self.node)
            self._sidecar.check_removal()
            _check_unused(versions)
            self._sidecar.halt()
            try:
                yield from self._disable(versions)
            except CryoError:
                self._sidecar.resume()
                raise
            yield from self._sidecar.remove()
            if self._settings_are_ours():
                write(self.node.at(self.node.settings), None)
            versions.clear()
            shutil.rmtree(self.node.at(self.node.prefix))
            yield f"removed {self.node.prefix}"

    def _disable(self, versions: Versions) -> Iterator[str]:
        """Remove the runtime from containerd.

        Raises:
            FailedPrecondition: a pod was started before containerd had restarted; containerd has
                the runtime again.
        """
        yield from self._configure(containerd.disabled(self.node))
        try:
            _check_unused(versions)
        except FailedPrecondition:
            yield from self._configure(containerd.enabled(self.node))
            raise

    def wait_until_unused(self, timeout_s: float) -> None:
        """Return when neither a pod nor a task uses any version, or after the timeout."""
        deadline = time.monotonic() + timeout_s
        while users := _needed(Versions(self.node).all_users()):
            left_s = deadline - time.monotonic()
            if left_s <= 0 or not wait_for_exit(users[0].pid, left_s):
                return

    def is_owner(self) -> bool:
        """Return whether no other installer came after this one."""
        return read(self._ours(_OWNER)) == self.owner

    def _check(self, bundle: Path, settings: Path | None) -> None:
        """Check what the node must have before anything is changed."""
        if self.sidecar:
            self._sidecar.check()
        elif self._sidecar.is_installed():
            self._sidecar.check_removal()
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

    @property
    def _sidecar(self) -> Sidecar:
        return Sidecar(self.node, self.service)

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


def _kept(versions: Versions) -> Iterator[str]:
    """Remove the versions that are not used, and say why the others are kept."""
    for name in versions.prune():
        if name != versions.active():
            pods = any(user.kind is Kind.POD for user in versions.users(name))
            what = "running pods" if pods else "tasks of the sidecar"
            yield f"version {name} is still used by {what}"


def _check_unused(versions: Versions) -> None:
    """Check that no pod uses a version.

    Raises:
        FailedPrecondition: one does.
    """
    if used := [name for name in versions.names() if _needed(versions.users(name))]:
        message = f"running pods use {', '.join(used)}; nothing was removed"
        raise FailedPrecondition(message, remedy="delete these pods and remove it again")


def _needed(users: list[User]) -> list[User]:
    """Return those that need a version: not the sidecar itself, which a removal stops."""
    return [user for user in users if user.kind in {Kind.POD, Kind.TASK}]


def _candidates(binary: str) -> list[Path]:
    if "/" in binary:
        return [Path(binary)]
    return [Path(folder) / binary for folder in PATH.split(":")]
