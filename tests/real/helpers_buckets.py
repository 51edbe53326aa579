"""The S3 server of tests, or the reason why there is none."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from hack.tools.running import NotHere
from tests.builds import excuse
from tests.s3_server import S3Server


@contextlib.contextmanager
def s3_server(folder: Path) -> Iterator[S3Server]:
    """Run a server within the block; the test is skipped if there is none."""
    try:
        started = S3Server(folder)
    except NotHere as no:
        excuse(str(no))
    try:
        yield started
    finally:
        started.stop()
