"""Checks config.toml, and the rights of the process that examines the host."""

from __future__ import annotations

from collections.abc import Iterator

from shim.doctor.host import Host
from shim.finding import Area, Finding, Topic

_SETTINGS = Topic(Area.SETTINGS, "config.toml")
_RIGHTS = Topic(Area.SETTINGS, "rights")


def check(host: Host) -> Iterator[Finding]:
    """Check that the settings can be read, and that this process may see everything."""
    if host.settings_error is not None:
        error = host.settings_error
        yield _SETTINGS.failure(f"{error.message}; the defaults are examined", error.remedy)
    else:
        yield _SETTINGS.ok(host.settings_path or "none, so the defaults hold")
    if host.uid:
        yield _RIGHTS.warning(
            f"user {host.uid} cannot examine everything, and `cryo serve` needs root",
            "run it as root",
        )
    else:
        yield _RIGHTS.ok("root")
