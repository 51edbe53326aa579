"""The path of a sandbox's control socket.

runsc puts it into its root directory, or if that path is too long, into a folder shared by all
roots of the host. The state file records which. Source: createControlSocket and Sandbox in
runsc/sandbox/sandbox.go.
"""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Iterable
from pathlib import Path

from shim.errors import CryoError
from shim.host.files import read_bounded
from shim.runsc import urpc

_STATE_LIMIT_BYTES = 16 << 20
_PROBE_S = 1.0


def control_socket(root: Path, sandbox: str, state_files: Iterable[Path]) -> Path:
    """Return a sandbox's socket path, from the state file of one of its containers."""
    recorded = (_recorded(path) for path in state_files)
    return next((path for path in recorded if path), _usual(root, sandbox))


def remove_dead(root: Path, sandbox: str) -> None:
    """Remove the socket left by a runsc that was killed before its sandbox was complete.

    Otherwise the next sandbox of that name has to use another path. Nothing is removed from the
    shared folders: a sandbox that has just bound its socket there does not listen yet.
    """
    path = _usual(root, sandbox)
    if path.is_socket() and not _listens(path):
        with contextlib.suppress(OSError):
            path.unlink()


def _usual(root: Path, sandbox: str) -> Path:
    return root / f"runsc-{sandbox}.sock"


def _recorded(state_file: Path) -> Path | None:
    try:
        state = json.loads(read_bounded(state_file, _STATE_LIMIT_BYTES))
        recorded = state["sandbox"]["controlSocketPath"]
        return Path(recorded) if recorded else None
    except (CryoError, ValueError, RecursionError, LookupError, TypeError):
        return None


def _listens(path: Path) -> bool:
    with (
        contextlib.suppress(OSError),
        urpc.reachable(path) as address,
        socket.socket(socket.AF_UNIX) as probe,
    ):
        probe.settimeout(_PROBE_S)
        probe.connect(address)
        return True
    return False
