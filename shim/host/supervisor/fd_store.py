"""Named descriptors that the supervisor keeps open for clients that may die."""

from __future__ import annotations

import os

_NAMES_MAX = 1024
_NAME_MAX = 128


class FdStore:
    """Descriptors by name; each is owned here until it is dropped or replaced."""

    def __init__(self) -> None:
        """Begin with none."""
        self._fds: dict[str, int] = {}

    def hold(self, name: str, fd: int) -> None:
        """Take `fd` under `name`, in place of an earlier one.

        Raises:
            ValueError: the name is too long, or there are too many.
        """
        if len(name) > _NAME_MAX or not (name.isascii() and name.isprintable()):
            text = f"a name is at most {_NAME_MAX} printable ASCII characters"
            raise ValueError(text)
        if len(self._fds) >= _NAMES_MAX and name not in self._fds:
            text = f"{_NAMES_MAX} descriptors are held already"
            raise ValueError(text)
        self.drop(name)
        self._fds[name] = fd

    def fetch(self, name: str) -> int | None:
        """Show the descriptor; it stays here."""
        return self._fds.get(name)

    def drop(self, name: str) -> None:
        """Close it; one that is not there is fine."""
        fd = self._fds.pop(name, None)
        if fd is not None:
            os.close(fd)

    @property
    def empty(self) -> bool:
        """Return whether nothing is held."""
        return not self._fds
