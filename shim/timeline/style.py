"""What a stream can show, and how durations are written."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TextIO


def duration(seconds: float) -> str:
    """Format a duration."""
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.2f} s"


@dataclass(frozen=True)
class Style:
    """What the output stream can show."""

    color: bool = False
    unicode: bool = True
    live: bool = False

    @classmethod
    def of(cls, stream: TextIO) -> Style:
        """Detect it from the stream and from NO_COLOR."""
        terminal = stream.isatty() and os.environ.get("TERM") != "dumb"
        encoding = (stream.encoding or "").lower().replace("-", "")
        color = terminal and not os.environ.get("NO_COLOR")
        return cls(color=color, unicode=encoding == "utf8", live=terminal)

    def paint(self, code: str, text: str) -> str:
        """Color a text, if the stream has colors."""
        return f"\x1b[{code}m{text}\x1b[0m" if self.color and text else text

    def dim(self, text: str) -> str:
        """Dim a text."""
        return self.paint("2", text)

    def good(self, text: str) -> str:
        """Color a text as a success."""
        return self.paint("32", text)

    def bad(self, text: str) -> str:
        """Color a text as a failure."""
        return self.paint("1;31", text)

    def strong(self, text: str) -> str:
        """Make a text bold."""
        return self.paint("1", text)

    def mark(self, *, good: bool) -> str:
        """Return a tick or a cross."""
        ticks = ("✓", "✗") if self.unicode else ("ok", "LOST")
        return self.good(ticks[0]) if good else self.bad(ticks[1])
