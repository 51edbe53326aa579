"""`start`: find or make the shim of a group, and print its address.

containerd waits for this before every container, so it loads almost nothing: it binds the shim's
socket, passes it with everything that containerd said to the nursery, which forks the shim, and
prints. The socket is bound first, so the peer may connect at once and wait in its backlog.
"""

from __future__ import annotations

import _socket
import os
import sys

from shim.entry.shimbin import given as containerd
from shim.entry.shimbin import nursery_client, places
from shim.entry.shimbin.flags import Flags

_STDIN_LIMIT = 4 << 20
_CONFIG_LIMIT = 8 << 20
_BACKLOG = 128
_GROUPS = ("io.containerd.runc.v2.group", "io.kubernetes.cri.sandbox-id")


def run(flags: Flags) -> None:
    """Print the address of the shim for this container, started when there was none."""
    given = sys.stdin.buffer.read(_STDIN_LIMIT) if sys.stdin is not None else b""
    try:
        places.use_settings(*containerd.settings(given, flags.id))
    except FileNotFoundError as error:
        raise SystemExit(str(error)) from None
    path = places.shim_socket(flags.address, flags.namespace, _group(flags.id))
    if not places.answers(path):
        _bring_up(path)
    sys.stdout.write(answer(places.write_address(path), given, flags.id))
    sys.stdout.flush()


def answer(address: str, given: bytes, container: str) -> str:
    """Say the address in the form that this containerd reads.

    Up to 2.2 stdin holds an Any or nothing, and a plain address means ttrpc with Task v2, which
    1.6 to 2.2 all take. From 2.3 on it holds BootstrapParams, and the answer may name Task v3.
    Source: containerd core/runtime/v2/shim.go, parseStartResponse, of each release.
    """
    if not containerd.has_bootstrap(given, container):
        return address
    return f'{{"version": 3, "address": "{address}", "protocol": "ttrpc"}}'


def _group(container: str) -> str:
    """Return what containers that share a shim have in common: a pod's sandbox, else the id."""
    try:
        with open("config.json", "rb") as file:  # noqa: PTH123 - pathlib loads too much
            data = file.read(_CONFIG_LIMIT)
    except OSError:
        return container
    if not any(key.encode() in data for key in _GROUPS):
        return container
    import json  # most containers are in no group

    try:
        annotations = json.loads(data).get("annotations") or {}
        groups = [annotations.get(key) for key in _GROUPS]
    except (ValueError, AttributeError, RecursionError):
        return container  # runsc will say what is wrong with it
    return next((group for group in groups if isinstance(group, str) and group), container)


def _bring_up(path: str) -> None:
    os.makedirs(os.path.dirname(path), mode=0o711, exist_ok=True)  # noqa: PTH103, PTH120
    if os.path.lexists(path):
        os.unlink(path)  # noqa: PTH108 - pathlib loads too much
    listener = _socket.socket(_socket.AF_UNIX)
    before = os.umask(0o177)
    try:
        listener.bind(path)
    finally:
        os.umask(before)
    listener.listen(_BACKLOG)
    nursery_client.ask(sys.argv[1:], path, listener.fileno())
