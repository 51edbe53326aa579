"""Where a sandbox listens, and what one that never was whole has left."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest

from shim.config import Config
from shim.runsc.client import Runsc
from shim.runsc.control import control_socket
from shim.runsc.open_streams import OpenStreams
from tests.unit.fakes_runsc import FakeSupervisor, capabilities


@pytest.mark.parametrize(
    "text",
    (
        "",
        "{",
        "[]",
        "{}",
        '{"sandbox": null}',
        '{"sandbox": {}}',
        '{"sandbox": {"controlSocketPath": 7}}',
        '{"sandbox": {"controlSocketPath": ""}}',
    ),
)
def test_a_state_file_without_it(tmp_path: Path, text: str) -> None:
    """Then it is where runsc puts it first."""
    file = tmp_path / "state"
    file.write_text(text)

    assert control_socket(tmp_path, "a+", [tmp_path / "none", file]) == tmp_path / "runsc-a+.sock"


def test_a_socket_elsewhere(tmp_path: Path) -> None:
    """Where runsc's root has no room, or a long name, the state file says where it went."""
    file, there = tmp_path / "state", "/var/run/runsc-a+.sock"
    file.write_text(json.dumps({"sandbox": {"controlSocketPath": there}}))

    assert control_socket(tmp_path, "a+", [file]) == Path(there)


async def test_what_a_killed_runsc_has_left(tmp_path: Path) -> None:
    """A delete removes a socket that is not served, but none that is, nor a file."""
    runsc = Runsc(Config(), capabilities(), tmp_path, FakeSupervisor(), OpenStreams())
    dead, alive, file = (tmp_path / f"runsc-{name}+.sock" for name in ("dead", "alive", "file"))
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(dead))
    file.write_text("")
    with socket.socket(socket.AF_UNIX) as served:
        served.bind(str(alive))
        served.listen()

        for name in ("dead", "alive", "file", "none"):
            await runsc.delete(name)

        assert sorted(tmp_path.glob("*.sock")) == [alive, file]
