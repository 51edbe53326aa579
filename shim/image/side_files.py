"""Files in an image's folder that are not part of its content, and that verification ignores."""

from __future__ import annotations

LABELS = ".cryo-labels.json"
SIGNATURES = ".cryo-signatures.json"
_NAMES = (LABELS, SIGNATURES)
_TEMPORARY = ".tmp"


def is_side_file(name: str) -> bool:
    """Whether a file has the labels or signatures of an image, or is left of writing them."""
    return name in _NAMES or (
        name.endswith(_TEMPORARY) and name.startswith(tuple(f".{one}." for one in _NAMES))
    )
