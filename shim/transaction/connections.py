"""Connections that leave a sandbox: a restored copy has none of them."""

from __future__ import annotations

import asyncio

from shim.cuda.detect import parse_scan
from shim.errors import CryoError, DeadlineExceeded, NotFound, Refused
from shim.host import peers
from shim.host.text import first_few
from shim.model import Connections, Value
from shim.transaction.target import CheckpointTarget

_TABLES = ("/proc/net/tcp", "/proc/net/tcp6")
# As the T lines of shim/cuda/scan.sh, by the shell's own means.
_SCRIPT = """for t in /proc/net/tcp /proc/net/tcp6; do
  if [ -r "$t" ]; then while read -r _ _ remote state _; do echo "T $remote $state"; done <"$t"; fi
done; echo E"""
_ESTABLISHED = "01"
_STATE_AT = 3
# Networks in which nothing leaves the sandbox, or all of it is seen from the host.
_NOT_NETSTACK = frozenset({"none", "host"})


class Connected(Value):
    """What a sandbox is connected to.

    `host` are unix sockets of the host, which a save closes in the saved task too. `tcp`
    connections stay open there, and only a restored copy loses them. `unseen` says what could not
    be examined.
    """

    host: tuple[str, ...] = ()
    tcp: tuple[str, ...] = ()
    unseen: tuple[str, ...] = ()


def established(text: str) -> int:
    """Count the established connections in tables such as /proc/net/tcp."""
    rows = (line.split() for line in text.splitlines())
    return sum(len(row) > _STATE_AT and row[_STATE_AT] == _ESTABLISHED for row in rows)


async def from_inside(target: CheckpointTarget, *, paused: bool) -> Connected:
    """List the TCP connections that leave the sandbox, as a program inside sees them.

    The sentry returns their number in a millisecond; only if there are any, and the sandbox is not
    `paused`, a program is run inside that lists their peers.
    """
    if target.flags.get("network") in _NOT_NETSTACK:
        return Connected()
    try:
        tables = [table.replace("/proc/", "/proc/1/") for table in _TABLES]
        count = established(await target.runsc.sentry.read_files(target.ref.id, tables))
    except CryoError:
        count = None  # an older runsc, or no /proc
    if count == 0:
        return Connected()
    what = "TCP connections" if count is None else f"{count} TCP connections are open, and they"
    if paused:
        return Connected(unseen=(f"{what} cannot be examined while the task is paused",))
    for one in reversed(target.containers):
        try:
            done = await one.guest.run(
                ("/bin/sh", "-c", _SCRIPT), timeout_s=target.config.timeouts.detect
            )
        except NotFound:
            continue
        if found := parse_scan(done.stdout.decode("utf-8", "replace")):
            return Connected(tcp=found.tcp)
    return Connected(unseen=(f"{what} cannot be examined: the image has no shell",))


async def from_host(target: CheckpointTarget) -> Connected:
    """List the sandbox's connections to host sockets, as the host sees them."""
    ignored = target.config.cuda.ignored_sockets
    try:
        found = await asyncio.to_thread(peers.connections, target.sandbox.pid)
    except DeadlineExceeded as error:
        return Connected(unseen=(error.message,))
    unix = (one.peer for one in found if one.kind == peers.UNIX)
    tcp = (one.peer for one in found if one.kind == peers.TCP)
    return Connected(host=tuple(p for p in unix if not p.startswith(ignored)), tcp=tuple(tcp))


async def check(
    target: CheckpointTarget, policy: Connections, inside: Connected, *, host: bool
) -> list[str]:
    """Name the connections that will be lost, those of the host's side only with `host`.

    Raises:
        Refused: as `judge`.
    """
    outside = await from_host(target) if host else Connected()
    found = Connected(
        host=outside.host,
        tcp=(*inside.tcp, *outside.tcp),
        unseen=(*inside.unseen, *outside.unseen),
    )
    return judge(target, policy, found)


def judge(target: CheckpointTarget, policy: Connections, found: Connected) -> list[str]:
    """Return a warning for each kind of connection that will be lost.

    Raises:
        Refused: the policy says so, or this runsc cannot save a connected host socket.
    """
    host, tcp = first_few(found.host), first_few(found.tcp)
    if host and not target.runsc.capabilities.saves_host_sockets:
        message = f"connected to {host}: this runsc cannot save a connected host socket"
        raise Refused(message, remedy="close the connection first, or use a newer runsc")
    lost = ", ".join(filter(None, (host, tcp)))
    if policy is Connections.REFUSE and lost:
        message = f"a restored copy would have lost its connections: {lost}"
        raise Refused(message, remedy="close them, or use --connections cut")
    if policy is Connections.REFUSE and found.unseen:
        message = f"whether connections would be lost is not known: {found.unseen[0]}"
        raise Refused(message, remedy="use --connections cut")
    warnings = [f"whether connections are lost is not known: {text}" for text in found.unseen]
    if host:
        warnings.append(f"the save cuts connections to the host: {host}")
    if tcp:
        warnings.append(f"a restored copy has lost its TCP connections: {tcp}")
    return warnings
