"""The names of annotations that are used apart from their values. It imports nothing."""

from __future__ import annotations

PREFIX = "io.cryo."
RESTORE = f"{PREFIX}restore"
WARM = f"{PREFIX}warm"
WARM_WHEN = f"{PREFIX}warm-when"
