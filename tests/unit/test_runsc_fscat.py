"""Files that the sentry reads for us, and a sentry that is not what it should be."""

from __future__ import annotations

import os

import pytest

from shim.errors import Unavailable
from shim.runsc.fscat import _LIMIT_BYTES, _Sink


@pytest.mark.timeout(60)
async def test_a_sentry_that_keeps_the_pipe_open() -> None:
    """After its answer nothing more comes, and nothing is waited for."""
    reading, writing = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    sink = _Sink(reading)
    try:
        os.write(writing, b"text")
        assert sink.rest() == b"text"
    finally:
        sink.close()
        os.close(writing)


async def test_a_file_that_is_too_large() -> None:
    """It is refused."""
    reading, writing = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    sink = _Sink(reading)
    try:
        sink._data += bytes(_LIMIT_BYTES)
        os.write(writing, b"more")
        with pytest.raises(Unavailable, match="larger"):
            sink.rest()
    finally:
        sink.close()
        os.close(writing)
