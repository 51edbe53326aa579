"""Files in an image's folder that are not part of its content, and that verification ignores."""

from __future__ import annotations

LABELS = ".cryo-labels.json"
SIGNATURES = ".cryo-signatures.json"
# Which parts of the files have which digest, for pulls that need the same.
CHUNKS = ".cryo-chunks.jsonl"
_NAMES = (LABELS, SIGNATURES, CHUNKS)
_TEMPORARY = ".tmp"


def is_side_file(name: str) -> bool:
    """Whether a file has labels, signatures or chunks of an image, or is left of writing them."""
    return name in _NAMES or (
        name.endswith(_TEMPORARY) and name.startswith(tuple(f".{one}." for one in _NAMES))
    )
