"""How real images are read: which way, and what is in the page cache afterwards."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from shim.host import page_cache
from shim.model import Direct, RestoreResult, Verify
from shim.simgpu.simulation import wait_until
from tests.half_loaded import FILL
from tests.real.helpers_rig import WAIT_S, Rig

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def image(rig: Rig) -> Path:
    """Give an image with pages that can be dropped from the page cache."""
    rig.program("saved", "/bin/sh", "-c", FILL)
    wait_until(
        lambda: rig.behind.exec("saved", ["/bin/test", "-e", "/tmp/ready"]).status == 0,
        "the data",
        WAIT_S,
    )
    made = Path(rig.checkpoint("saved").image_path)
    rig.end("saved")
    if cached(made, drop=True) != 0:
        pytest.skip("the images are in memory, or the kernel has no cachestat")
    return made


def cached(image: Path, *, drop: bool = False) -> int | None:
    """Return how much of the pages is in the page cache, after dropping them if wanted."""
    fd = os.open(image / "pages.img", os.O_RDONLY)
    try:
        if drop:
            os.fsync(fd)
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        return page_cache.cached_bytes(fd)
    finally:
        os.close(fd)


def restored(rig: Rig, image: Path, direct: Direct) -> RestoreResult:
    """Restore it, and end the task."""
    result = rig.restore("copy", image, direct=direct, verify=Verify.NONE)
    rig.end("copy")
    return result


def test_cold_pages_are_read_by_way_of_the_cache(rig: Rig, image: Path) -> None:
    """There is room for them, and the next restore finds them there."""
    result = restored(rig, image, Direct.AUTO)

    assert not result.direct
    assert "0% of its pages are in the page cache" in result.direct_reason
    size = (image / "pages.img").stat().st_size
    # Memory may become scarce meanwhile, and the kernel drop single pages.
    assert (cached(image) or 0) > 0.99 * size
    again = restored(rig, image, Direct.AUTO)
    assert again.direct_reason == "100% of its pages are in the page cache"


def test_direct_reads_leave_the_cache_alone(rig: Rig, image: Path) -> None:
    """As requested."""
    result = restored(rig, image, Direct.ON)

    assert (result.direct, result.direct_reason) == (True, "it was requested")
    assert cached(image) == 0
