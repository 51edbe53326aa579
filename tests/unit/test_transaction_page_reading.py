"""How pages are read: which way, why, and whether they are read ahead."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from shim.model import Direct
from shim.transaction.page_reading import Pages, choose

GIB = 1 << 30
COLD = Pages(size_bytes=GIB, cached_bytes=0, room_bytes=4 * GIB, can_direct=True)


@pytest.mark.parametrize(
    ("changes", "direct", "ahead", "reason"),
    (
        ({}, False, True, "0% of its pages are in the page cache, and there is room for them"),
        ({"cached_bytes": GIB}, False, False, "100% of its pages are in the page cache"),
        ({"cached_bytes": GIB // 4}, False, True, "25% of its pages are in the page cache"),
        ({"background": True}, False, False, "there is room for them"),
        ({"room_bytes": GIB - 1}, True, False, "they do not fit there beside the task"),
        ({"room_bytes": GIB - 1, "cached_bytes": GIB // 2}, False, True, "50%"),
        ({"room_bytes": 0, "cached_bytes": GIB // 2}, False, False, "50%"),
        ({"room_bytes": 0, "can_direct": False}, False, False, "no direct I/O"),
        ({"cached_bytes": None, "room_bytes": 0}, False, False, "kernel does not say"),
        ({"size_bytes": 0, "room_bytes": 0}, False, False, "no uncompressed pages"),
        ({"room_bytes": 0, "shared": True}, False, False, "several tasks"),
        ({"room_bytes": 0, "verified_beside": True}, False, False, "verification reads them"),
    ),
)
def test_what_is_chosen(changes: dict[str, Any], direct: bool, ahead: bool, reason: str) -> None:
    """By what is cached and what fits; nothing is read twice or pushed out of memory."""
    chosen = choose(Direct.AUTO, msgspec.structs.replace(COLD, **changes))

    assert (chosen.direct, chosen.ahead) == (direct, ahead)
    assert reason in chosen.reason


def test_what_is_requested() -> None:
    """It is done, and the reason says so; pages that are read directly are not read ahead."""
    on, off = choose(Direct.ON, COLD), choose(Direct.OFF, COLD)

    assert (on.direct, on.ahead, on.reason) == (True, False, "it was requested")
    assert (off.direct, off.ahead, off.reason) == (False, True, "it was requested")
