"""An image whose second half a gate holds back: what it is made from, and whether it is in use."""

from __future__ import annotations

from pathlib import Path

from shim.errors import Busy
from shim.image import in_use

FILL_BYTES = 32 << 20
# runsc needs some pages to begin with; the last ones are of the container's file.
HELD_BACK = FILL_BYTES // 2
FILL = f"head -c {FILL_BYTES} /dev/urandom > /tmp/data; touch /tmp/ready; exec sleep 1000"


def is_in_use(image: Path) -> bool:
    """Whether a removal would be refused."""
    try:
        with in_use.alone(image):
            return False
    except Busy:
        return True
