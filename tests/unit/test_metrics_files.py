"""Where metrics may be served, and what they read of the state directory."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path

import pytest
from msgspec.structs import replace

from shim.errors import InvalidArgument
from shim.metrics import address
from shim.metrics.shim_timelines import ShimTimelines
from shim.model import utcnow
from shim.service.listen_address import ListenAddress
from shim.task.state_files import StateFiles
from shim.transaction import timeline_file
from shim.transaction.journal import Journal, Operation
from tests.unit.test_metrics_observer import SAVED


@pytest.mark.parametrize(
    ("text", "host", "port", "path"),
    (
        ("127.0.0.1:9464", "127.0.0.1", 9464, ""),
        ("127.1.2.3:0", "127.1.2.3", 0, ""),
        ("[::1]:9464", "::1", 9464, ""),
        ("unix:/run/cryo/m.sock", "", 0, "/run/cryo/m.sock"),
        ("unix:///run/m.sock", "", 0, "/run/m.sock"),
    ),
)
def test_an_address_of_this_host(text: str, host: str, port: int, path: str) -> None:
    """The loopback interface and unix sockets are accepted."""
    assert address.parse(text) == ListenAddress(host=host, port=port, path=path)


@pytest.mark.parametrize(
    "text",
    (
        "0.0.0.0:9464",
        "[::]:9464",
        "10.0.0.1:9464",
        "example.com:9464",
        ":9464",
        "9464",
        "127.0.0.1",
        "127.0.0.1:",
        "127.0.0.1:-1",
        "127.0.0.1:65536",
        "127.0.0.1:+9464",
        "unix:relative",
    ),
)
def test_an_address_that_others_reach_is_refused(text: str) -> None:
    """The error has a remedy."""
    with pytest.raises(InvalidArgument) as caught:
        address.parse(text)
    assert "unix:" in caught.value.remedy


def test_open_journals(tmp_path: Path) -> None:
    """Those of the sidecar's tasks and of the shims', with their age; a damaged one is no error."""
    own, of_shim, damaged = (
        tmp_path / "tasks" / "ns" / "a",
        tmp_path / "shims" / "s" / "tasks" / "k8s.io" / "b",
        tmp_path / "tasks" / "ns" / "c",
    )
    for folder in (own, of_shim, damaged):
        folder.mkdir(parents=True)
    Journal(own).open(Operation.CHECKPOINT, "/i")
    parked = Journal(of_shim)
    parked.open(Operation.PARK, "")
    parked.note(committed=True)
    (damaged / "journal.json").write_text("{")
    files = StateFiles(tmp_path)

    found = files.open_journals(utcnow() + timedelta(seconds=60))

    assert {(one.operation, one.is_parked) for one in found} == {
        ("checkpoint", False),
        ("park", True),
    }
    assert all(60 <= one.age_s < 90 for one in found)
    assert files.namespaces() == {"ns", "k8s.io"}


def test_a_timeline_of_a_shim_counts_once(tmp_path: Path) -> None:
    """What was there before the sidecar does not count, nor what was read before."""
    task = tmp_path / "shims" / "s" / "tasks" / "ns" / "a"
    task.mkdir(parents=True)
    since = utcnow()
    timeline_file.add(task, replace(SAVED, began_at=since - timedelta(seconds=1)))
    timelines = ShimTimelines(StateFiles(tmp_path), since)
    assert timelines.new() == []

    first, second = (replace(SAVED, began_at=since + timedelta(seconds=n)) for n in (1, 2))
    timeline_file.add(task, first)
    assert timelines.new() == [first]
    assert timelines.new() == []

    # Two changes within the granularity of the clock of the filesystem must not matter.
    os.utime(task / timeline_file.NAME)
    timeline_file.add(task, second)
    assert timelines.new() == [second]
    (task / timeline_file.NAME).unlink()
    assert timelines.new() == []
