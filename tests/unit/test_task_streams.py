"""The streams of a process of a task."""

from __future__ import annotations

from pathlib import Path

import pytest

from shim.errors import DeadlineExceeded
from shim.model import Stdio, TaskRef
from shim.task.streams import ProcessStreams
from tests.unit.fakes_tasks import FakeKeeper


async def test_terminal_that_runsc_does_not_send_is_given_up(tmp_path: Path) -> None:
    """A terminal is waited for as long as `timeouts.console` says, and its socket is removed."""
    stdio, ref = Stdio(terminal=True), TaskRef(namespace="ns", id="a")
    streams = ProcessStreams(FakeKeeper(), ref, "", stdio, tmp_path)
    await streams.listen()

    with pytest.raises(DeadlineExceeded, match=r"no terminal within 0\.01 s"):
        await streams.connect(0.01)

    assert list(tmp_path.iterdir()) == []
