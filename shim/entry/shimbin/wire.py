"""What the fork server is sent: texts that end in a NUL, lists of them with their count first.

Arguments, variables and paths contain no NUL, so nothing needs to be escaped.
"""

from __future__ import annotations

import os

LIMIT = 16 << 20
# The first bytes of a request to fork a shim, which has two descriptors: the shim's socket, and a
# memory file with the rest.
SHIM_MARK = b"CRYOSHIM"
# The first bytes of a request of the launcher (native/launcher), and of the answer.
RUN_MARK = b"CRYO-RUN"
RAN_MARK = b"CRYO-RAN"
MARK_BYTES = 8


def write_text(text: str) -> bytes:
    """Encode a text."""
    return os.fsencode(text) + b"\0"


def write_texts(texts: list[str]) -> bytes:
    """Encode a list of texts."""
    return b"".join([write_text(str(len(texts))), *map(write_text, texts)])


class Reader:
    """Reads texts in their order.

    Its methods raise ValueError when the data is malformed.
    """

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def text(self) -> str:
        """Return the next text."""
        end = self._data.find(b"\0", self._at)
        if end < 0:
            message = "the request is truncated"
            raise ValueError(message)
        found = os.fsdecode(self._data[self._at : end])
        self._at = end + 1
        return found

    def number(self) -> int:
        """Return the next text, a number."""
        text = self.text()
        if not (text.isascii() and text.isdigit()):
            message = f"the request has {text[:20]!r} in place of a number"
            raise ValueError(message)
        return int(text)

    def texts(self) -> list[str]:
        """Return the next list."""
        return [self.text() for _ in range(self.number())]

    def variables(self) -> dict[str, str]:
        """Return the next list, of environment variables; without `=` it is none."""
        pairs = (line.partition("=") for line in self.texts())
        return {name: value for name, equals, value in pairs if name and equals}

    def rest(self) -> bytes:
        """Return what is left."""
        return self._data[self._at :]
