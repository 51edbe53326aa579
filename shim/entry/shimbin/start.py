"""`start`: find or start the shim of a group, and print its address.

containerd waits for this before every container, so it loads almost nothing. It binds the shim's
socket, passes it with its arguments and environment to the fork server, which forks the shim, and
prints the address. The socket already listens, so containerd can connect before the shim serves.
"""

from __future__ import annotations

import _socket
import os
import sys

from shim.entry.shimbin import bootstrap_params, paths
from shim.entry.shimbin.flags import Flags
from shim.entry.shimbin.forkserver_client import Starter

_STDIN_LIMIT = 4 << 20
_CONFIG_LIMIT = 8 << 20
_BACKLOG = 128
_GROUPS = ("io.containerd.runc.v2.group", "io.kubernetes.cri.sandbox-id")


def run(flags: Flags, starter: Starter) -> None:
    """Print the address of this container's shim, and start the shim if it is not running."""
    stdin_data = sys.stdin.buffer.read(_STDIN_LIMIT) if sys.stdin is not None else b""
    try:
        config = paths.choose_config(bootstrap_params.config_of(stdin_data, flags.id))
    except FileNotFoundError as error:
        raise SystemExit(str(error)) from None
    path = paths.shim_socket(config, flags.address, flags.namespace, _group(flags.id))
    if not paths.answers(path):
        listener = _listen(path)
        starter.start(sys.argv[1:], path, listener.fileno(), config)
    sys.stdout.write(reply(paths.write_address(path), stdin_data, flags.id))
    sys.stdout.flush()


def reply(address: str, stdin_data: bytes, container: str) -> str:
    """Return the address in the form that this version of containerd reads.

    Up to 2.2 it is a plain address, for ttrpc with Task v2, which 1.6 to 2.2 accept. From 2.3 on,
    which writes BootstrapParams, the reply may name Task v3.
    Source: containerd core/runtime/v2/shim.go, parseStartResponse, of each release.
    """
    if not bootstrap_params.is_bootstrap_params(stdin_data, container):
        return address
    return f'{{"version": 3, "address": "{address}", "protocol": "ttrpc"}}'


def _group(container: str) -> str:
    """Return the group of a container, whose members share a shim: its pod, else its own id."""
    try:
        with open("config.json", "rb") as file:  # noqa: PTH123 - pathlib loads too much
            data = file.read(_CONFIG_LIMIT)
    except OSError:
        return container
    if not any(key.encode() in data for key in _GROUPS):
        return container
    import json  # only here: most containers are in no group

    try:
        annotations = json.loads(data).get("annotations") or {}
        groups = [annotations.get(key) for key in _GROUPS]
    except (ValueError, AttributeError, RecursionError):
        return container  # runsc reports what is wrong with it
    return next((group for group in groups if isinstance(group, str) and group), container)


def _listen(path: str) -> _socket.socket:
    os.makedirs(os.path.dirname(path), mode=0o711, exist_ok=True)  # noqa: PTH103, PTH120 - see above
    if os.path.lexists(path):
        os.unlink(path)  # noqa: PTH108 - pathlib loads too much
    listener = _socket.socket(_socket.AF_UNIX)
    before = os.umask(0o177)
    try:
        listener.bind(path)
    finally:
        os.umask(before)
    listener.listen(_BACKLOG)
    return listener
