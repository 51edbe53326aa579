"""The containerd of this host: its program, its PATH, its configuration, and since when it runs."""

from __future__ import annotations

import os
from pathlib import Path

from shim.doctor.host import Host
from shim.host import procstat
from shim.model import Value

_NAME = "containerd"
_CONFIG = "/etc/containerd/config.toml"
_OPTIONS = ("--config", "-c")
_READ_BYTES = 256 << 10


class Daemon(Value):
    """containerd; `pid` is 0 if it does not run, and `search` is its PATH."""

    binary: str
    search: str
    config: Path
    pid: int = 0
    started_s: float = 0.0
    config_changed_s: float = 0.0


def find(host: Host) -> Daemon | None:
    """Find the containerd that uses the configuration in question; None if there is none.

    That is the configuration that was named, else the usual one, else that of the only containerd
    that runs: distributions of Kubernetes have their own.
    """
    usual = host.at(_CONFIG)
    running = {pid: _config(host, pid) or usual for pid in host.processes(_NAME)}
    wanted = host.containerd_config or usual
    if host.containerd_config is None and len(running) == 1 and not usual.exists():
        (wanted,) = running.values()
    for pid, config in running.items():
        if config == wanted:
            return _running(host, pid, wanted)
    binary = host.find(_NAME)
    return Daemon(binary=binary, search=host.search, config=wanted) if binary else None


def _running(host: Host, pid: int, config: Path) -> Daemon:
    environment = dict(word.partition("=")[::2] for word in _words(host, pid, "environ"))
    try:
        binary = os.readlink(host.at(f"/proc/{pid}/exe"))  # noqa: PTH115 - a link of the kernel
    except OSError:
        binary = host.find(_NAME) or _NAME
    return Daemon(
        binary=binary,
        search=environment.get("PATH", host.search),
        config=config,
        pid=pid,
        started_s=_started(host, pid),
        config_changed_s=config.stat().st_mtime if config.exists() else 0.0,
    )


def _words(host: Host, pid: int, name: str) -> list[str]:
    try:
        with host.at(f"/proc/{pid}/{name}").open("rb") as file:
            return file.read(_READ_BYTES).decode("utf-8", "replace").split("\0")
    except OSError:
        return []


def _config(host: Host, pid: int) -> Path | None:
    """Return the path in the option --config of a command line; None without one."""
    words = _words(host, pid, "cmdline")
    for at, word in enumerate(words):
        name, equals, value = word.partition("=")
        if name in _OPTIONS:
            return host.at(value if equals else "".join(words[at + 1 : at + 2]))
    return None


def _started(host: Host, pid: int) -> float:
    """Return when a process was started, in seconds since the epoch; 0 if unknown."""
    boot = [line for line in host.text("/proc/stat").splitlines() if line.startswith("btime ")]
    found = procstat.parse(host.text(f"/proc/{pid}/stat").encode())
    if not boot or found is None:
        return 0.0
    return int(boot[0].split()[1]) + found.start / os.sysconf("SC_CLK_TCK")
