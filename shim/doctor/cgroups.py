"""Checks the cgroups: their version, and the controllers for limits, statistics and OOM events."""

from __future__ import annotations

from collections.abc import Iterator

from shim.doctor.host import Host
from shim.finding import Area, Finding, Topic
from shim.host import mountinfo
from shim.host.mountinfo import Mounted
from shim.runsc.settings import is_on

_CGROUPS = Topic(Area.SYSTEM, "cgroups")
_NEEDED = {
    "memory": "memory limits are not known before a freeze, and OOM kills are not reported",
    "cpu": "tasks have no CPU limit",
    "pids": "tasks have no limit of processes",
}


def check(host: Host) -> Iterator[Finding]:
    """Check which hierarchies are mounted, and what they control."""
    mounts = [one for one in mountinfo.parse(host.mounts) if one.kind in {"cgroup", "cgroup2"}]
    if is_on(host.config.runsc.flags, "ignore-cgroups"):
        yield _CGROUPS.ok("not used: runsc has the flag ignore-cgroups")
        return
    if not mounts:
        yield _CGROUPS.failure(
            "no cgroup hierarchy is mounted, and runsc makes a cgroup for each sandbox",
            'mount /sys/fs/cgroup, or set ignore-cgroups = "true" under [runsc.flags]',
        )
        return
    controllers = _controllers(host, mounts)
    found = [*_read_only(mounts), *_missing(controllers)]
    yield from found or [_CGROUPS.ok(f"{_version(mounts)}, {', '.join(sorted(controllers))}")]


def _version(mounts: list[Mounted]) -> str:
    kinds = {one.kind for one in mounts}
    if kinds == {"cgroup", "cgroup2"}:
        return "version 1 beside version 2"
    return "version 2" if kinds == {"cgroup2"} else "version 1"


def _controllers(host: Host, mounts: list[Mounted]) -> set[str]:
    """Return the controllers in use; those of version 1 are options of their mounts."""
    found: set[str] = set()
    for one in mounts:
        if one.kind == "cgroup2":
            found |= set(host.text(f"{one.point}/cgroup.controllers").split())
        else:
            found |= set(one.options.split(",")) - {"rw", "ro", "xattr"}
    return {name for name in found if not name.startswith("name=")}


def _read_only(mounts: list[Mounted]) -> Iterator[Finding]:
    for one in mounts:
        if "ro" in one.flags.split(","):
            yield _CGROUPS.failure(
                f"{one.point} is read-only, and runsc makes a cgroup for each sandbox",
                f"mount -o remount,rw {one.point}",
            )


def _missing(controllers: set[str]) -> Iterator[Finding]:
    for name in sorted(_NEEDED.keys() - controllers):
        yield _CGROUPS.warning(
            f"the controller {name} is missing: {_NEEDED[name]}",
            f"boot without cgroup_disable={name}, or let the host's cgroup delegate it",
        )
