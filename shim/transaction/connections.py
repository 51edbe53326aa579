"""TCP connections that leave a sandbox: none of them is there in a restored copy."""

from __future__ import annotations

from shim.cuda.detect import parse_scan
from shim.errors import CryoError, NotFound
from shim.model import Value
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


class Tcp(Value):
    """Who is connected over TCP; `unseen` says why that is not known."""

    peers: tuple[str, ...] = ()
    unseen: str = ""


def established(text: str) -> int:
    """Count the established connections in tables such as /proc/net/tcp."""
    rows = (line.split() for line in text.splitlines())
    return sum(len(row) > _STATE_AT and row[_STATE_AT] == _ESTABLISHED for row in rows)


async def look(target: CheckpointTarget, *, paused: bool) -> Tcp:
    """Look for connections that leave the sandbox; one that has none is not disturbed.

    How many there are the sentry tells in a millisecond. Whose they are only a program inside can
    tell, which a sandbox that is `paused` does not run.
    """
    if target.config.runsc.flags.get("network") in _NOT_NETSTACK:
        return Tcp()
    try:
        tables = [table.replace("/proc/", "/proc/1/") for table in _TABLES]
        count = established(await target.runsc.read_files(target.ref.id, tables))
    except CryoError:
        count = None  # an older runsc, or no /proc
    if count == 0:
        return Tcp()
    what = "TCP connections" if count is None else f"{count} TCP connections are open, and they"
    if paused:
        return Tcp(unseen=f"{what} cannot be looked at while the task is paused")
    for one in reversed(target.containers):
        try:
            done = await one.guest.run(
                ("/bin/sh", "-c", _SCRIPT), timeout_s=target.config.timeouts.detect
            )
        except NotFound:
            continue
        if found := parse_scan(done.stdout.decode("utf-8", "replace")):
            return Tcp(peers=found.tcp)
    return Tcp(unseen=f"{what} cannot be looked at: the image has no shell")
