"""Converts the messages about the image store to plain values and back."""

from __future__ import annotations

import os
from pathlib import Path

from shim.api.cryo.v1 import cryo_pb2
from shim.host.text import printable
from shim.image.eviction import Kept, Pruned
from shim.image.retention import Removal

_TEXT_MAX = 4096


def to_pruned(pruned: Pruned) -> cryo_pb2.PruneImagesResponse:
    """Encode the result of a prune."""
    return cryo_pb2.PruneImagesResponse(
        removed=[
            cryo_pb2.PrunedImage(
                path=_text(one.path),
                size_bytes=one.size_bytes,
                reason=printable(one.reason, _TEXT_MAX),
            )
            for one in pruned.removed
        ],
        kept=[
            cryo_pb2.PrunedImage(path=_text(one.path), reason=printable(one.reason, _TEXT_MAX))
            for one in pruned.kept
        ],
        missing_bytes=pruned.missing_bytes,
    )


def from_pruned(message: cryo_pb2.PruneImagesResponse) -> Pruned:
    """Decode the result of a prune."""
    return Pruned(
        removed=tuple(
            Removal(path=Path(one.path), size_bytes=one.size_bytes, reason=one.reason)
            for one in message.removed
        ),
        kept=tuple(Kept(path=Path(one.path), reason=one.reason) for one in message.kept),
        missing_bytes=message.missing_bytes,
    )


def _text(path: Path) -> str:
    """Return a path as text that a message can carry, even if it is not UTF-8."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")
