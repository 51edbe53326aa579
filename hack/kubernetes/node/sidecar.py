"""The sidecar of a node: `cryo serve` as a unit of systemd, which runs the version in use.

It is restarted when the version, its settings or the unit have changed; its tasks run on meanwhile.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from hack.kubernetes.node import tasks
from hack.kubernetes.node.daemon import Service
from hack.kubernetes.node.paths import MARK, Node, read, write
from hack.kubernetes.node.users import Kind, User, end
from hack.kubernetes.node.versions import Versions
from shim.config import DEFAULT_CONFIG
from shim.errors import FailedPrecondition

NAME = "cryo.service"
# Where packages and administrators have units; the first is ours.
_FOLDERS = ("usr/local/lib", "lib", "usr/lib", "run")
_PENDING = "restart-sidecar"
_PROGRAM = "ExecStart=/usr/local/bin/cryo serve\n"


@dataclass(frozen=True)
class Sidecar:
    """The sidecar's unit. Without a service nothing is started, and the report says so."""

    node: Node
    service: Service | None

    def check(self) -> None:
        """Check that the node has no other sidecar: neither a unit of this name, nor a process.

        Raises:
            FailedPrecondition: it has.
        """
        places = [Path("/") / folder / "systemd/system" / NAME for folder in _FOLDERS]
        places += [] if self._is_ours() else [self.node.units / NAME]
        for path in places:
            if os.path.lexists(self.node.at(path)):
                message = f"{path} was not written by this installer: this node has a sidecar"
                remedy = "remove it, with its package if it has one, or install with --no-sidecar"
                raise FailedPrecondition(message, remedy=remedy)
        if self.service is not None:
            self._check_others("changed")

    def check_removal(self) -> None:
        """Check that no task needs the sidecar, and that no sidecar runs but that of the unit.

        Raises:
            FailedPrecondition: one does.
        """
        if found := tasks.running(self.node, self._users()):
            message = f"tasks of the sidecar run: {', '.join(found)}; nothing was removed"
            remedy = "end them: `cryo tasks ls` lists them, `cryo tasks kill` ends one"
            raise FailedPrecondition(message, remedy=remedy)
        self._check_others("removed")

    def keeps_old_version(self, name: str) -> bool:
        """Return whether a supervisor without tasks runs from an old version.

        It runs for as long as the sidecar does, so a restart is due.
        """
        versions = Versions(self.node)
        old = [user for each in versions.names() if each != name for user in versions.users(each)]
        is_kept = any(user.kind is Kind.SUPERVISOR for user in old)
        return self.service is not None and is_kept and not tasks.running(self.node, self._users())

    def prepare(self, bundle: Path, *, changed: bool) -> None:
        """Write the unit; note that a restart is due if it or what it runs has changed."""
        text = self._text(bundle)
        if changed or read(self._unit) != text:
            write(self._pending, "")
        write(self._unit, text)

    def start(self) -> Iterator[str]:
        """Start or restart it if that is due, and yield what was done."""
        if not self._pending.exists():
            return
        if self.service is None:
            self._pending.unlink()
            yield "start the sidecar on this node: systemctl daemon-reload; systemctl restart cryo"
            return
        self.service.reload()
        self.service.enable()
        self._stop(self.service)
        self.service.start()
        self._pending.unlink()
        yield "the sidecar was started"

    def halt(self) -> None:
        """Stop it before it is removed.

        Raises:
            FailedPrecondition: a task was created meanwhile; the sidecar runs again.
        """
        if self.service is None or not self._is_ours():
            return
        self._stop(self.service)
        try:
            self.check_removal()
        except FailedPrecondition:
            self.resume()
            raise

    def resume(self) -> None:
        """Start it again: it is not removed."""
        if self.service is not None and self._is_ours():
            self.service.start()

    def remove(self) -> Iterator[str]:
        """Remove the unit, if that is ours, of a sidecar that was stopped; yield what was done."""
        if self._is_ours():
            if self.service is not None:
                self.service.disable()
            write(self._pending, "")
            self._unit.unlink()
            (self._unit.parent / "multi-user.target.wants" / NAME).unlink(missing_ok=True)
            yield f"removed {NAME}"
        if self._pending.exists():
            if self.service is not None:
                self.service.reload()
            self._pending.unlink()

    def is_installed(self) -> bool:
        """Return whether there is something to remove."""
        return self._is_ours() or self._pending.exists()

    def _stop(self, service: Service) -> None:
        """Stop it, and its supervisor, which has no task: the next one is of the version in use."""
        service.stop()
        if not self._others() and not tasks.running(self.node, self._users()):
            for user in self._users():
                if user.kind is Kind.SUPERVISOR:
                    end(user.pid)

    def _check_others(self, verb: str) -> None:
        if others := self._others():
            which = f"a sidecar that is not that of {NAME} runs as process {others[0]}"
            message = f"{which}; nothing was {verb}"
            remedy = f"end it: `systemctl stop cryo`, or `kill {others[0]}`"
            raise FailedPrecondition(message, remedy=remedy)

    def _others(self) -> list[int]:
        """Return the sidecars that the unit has not started."""
        own = self.service.main_pid() if self.service else 0
        return [user.pid for user in self._users() if user.kind is Kind.SIDECAR and user.pid != own]

    def _users(self) -> list[User]:
        return Versions(self.node).all_users()

    def _text(self, bundle: Path) -> str:
        given = (bundle / NAME).read_text("utf-8")
        node = self.node
        more = "" if node.settings == DEFAULT_CONFIG else f" --config {node.settings}"
        return MARK + given.replace(_PROGRAM, f"ExecStart={node.current}/bin/cryo serve{more}\n")

    def _is_ours(self) -> bool:
        return not self._unit.is_symlink() and (read(self._unit) or "").startswith(MARK)

    @property
    def _unit(self) -> Path:
        return self.node.at(self.node.units / NAME)

    @property
    def _pending(self) -> Path:
        return self.node.at(self.node.prefix / _PENDING)
