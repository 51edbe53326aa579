"""How an image is sent: how many transfers at once, and what is compressed."""

from __future__ import annotations

import enum

JOBS = 4


class Compress(enum.StrEnum):
    """Which chunks are compressed: those for which it is faster than to send them as they are."""

    AUTO = "auto"
    ALWAYS = "always"
    NEVER = "never"
