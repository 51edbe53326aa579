"""Files in an image's folder that are not part of its content, and that verification ignores."""

from __future__ import annotations

LABELS = ".cryo-labels.json"
SIGNATURES = ".cryo-signatures.json"
# Which parts of the files have which digest, for pulls that need the same.
CHUNKS = ".cryo-chunks.jsonl"
# Where the time of its checkpoint went, to the end.
TIMELINE = ".cryo-timeline.json"
_NAMES = (LABELS, SIGNATURES, CHUNKS, TIMELINE)
_TEMPORARY = ".tmp"


def is_side_file(name: str) -> bool:
    """Whether a file belongs to an image without being its content, or is left of writing one."""
    return name in _NAMES or (
        name.endswith(_TEMPORARY) and name.startswith(tuple(f".{one}." for one in _NAMES))
    )
