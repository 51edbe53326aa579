"""What an installation or a removal changes, before it is done."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from shim.install.config_file import Change
from shim.install.links import Link


@dataclass(frozen=True)
class Plan:
    """The changes of files, whether the link is made or removed, and what remains to be done.

    `restart` is the command after which the change is in effect, `notes` are sentences.
    """

    changes: tuple[Change, ...]
    make: Link | None = None
    remove: Link | None = None
    restart: str = ""
    notes: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        """Return whether there is anything to do."""
        return bool(self.changes or self.make or self.remove)

    @property
    def diff(self) -> str:
        """The changes of files as one unified diff."""
        return "".join(change.diff for change in self.changes)

    @classmethod
    def of_removal(
        cls, changes: tuple[Change, ...], link: Link, restart: str, *, link_is_used: bool
    ) -> Plan:
        """Plan a removal: of the link too if it is ours and nothing else uses it."""
        note = f"{link.path} stays: another configuration names the runtime"
        return cls(
            changes,
            remove=link if link.is_removable and not link_is_used else None,
            restart=restart if changes else "",
            notes=(note,) if link.is_removable and link_is_used else (),
        )

    def check(self) -> None:
        """Check that all of it can be done.

        Raises:
            CryoError: something cannot.
        """
        for change in self.changes:
            change.check()

    def apply(self) -> Iterator[str]:
        """Do it, and yield what was done, a line each: the link is there before it is needed."""
        if self.make:
            self.make.make()
            yield f"made the link {self.make.path} to {self.make.target}"
        for change in self.changes:
            change.apply()
            yield f"{'removed' if change.after is None else 'changed'} {change.path}"
        if self.remove:
            self.remove.remove()
            yield f"removed the link {self.remove.path}"
