"""Named descriptors that the supervisor keeps open for clients that may die."""

from __future__ import annotations

import os

_NAMES_MAX = 1024
_NAME_MAX = 128


class FdStore:
    """Owns descriptors by name, until each is dropped or replaced."""

    def __init__(self) -> None:
        """Start empty."""
        self._fds: dict[str, int] = {}

    def hold(self, name: str, fd: int) -> None:
        """Store `fd` under `name` and close the one stored there before.

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
        """Return the descriptor, which remains stored."""
        return self._fds.get(name)

    def drop(self, name: str) -> None:
        """Close the descriptor of this name, if there is one."""
        fd = self._fds.pop(name, None)
        if fd is not None:
            os.close(fd)

    @property
    def empty(self) -> bool:
        """Return whether nothing is held."""
        return not self._fds
