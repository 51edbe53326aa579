"""Checks containerd: its version, whether it finds the shim, and which annotations it passes on."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from shim.cuda import inventory
from shim.doctor.containerd_config import Configuration, Handler, passes, read
from shim.doctor.containerd_process import Daemon, find
from shim.doctor.host import Host
from shim.errors import CryoError
from shim.finding import Area, Finding, Topic
from shim.oci.annotation_names import PREFIX
from shim.runsc.program import which

SHIM = "containerd-shim-cryo-v1"
# What the launcher starts where there is no fork server yet.
_PROGRAM = f"{SHIM}-python"
_CONTAINERD = Topic(Area.CONTAINERD, "containerd")
_SHIM = Topic(Area.CONTAINERD, "shim")
_RUNSC = Topic(Area.CONTAINERD, "runsc of shims")
_ANNOTATIONS = Topic(Area.CONTAINERD, "annotations")
_PODS = Topic(Area.CONTAINERD, "GPUs in pods")
_VERSION = re.compile(r"\bv?(\d+)\.(\d+)\.\d+")
_OLDEST, _SECOND = (1, 6), (2, 0)
# What 1.x reads of the versions of config.toml.
_FORMAT = 2
_EXAMPLE = f"{PREFIX}warm"
_INSTALL = "remove it and run: cryo install containerd"
# The kernel gives the time of the boot in whole seconds.
_CLOCK_S = 2.0


class Version(NamedTuple):
    """The version of a containerd, as a text and as two numbers; those are 0 if it is unknown."""

    text: str
    numbers: tuple[int, int]

    @property
    def is_old(self) -> bool:
        """Whether it is 1.x, which reads another format and replaces tables of plugins."""
        return (0, 0) < self.numbers < _SECOND


async def check(host: Host) -> list[Finding]:
    """Check containerd, if this host has one."""
    daemon = find(host)
    if daemon is None:
        return [_CONTAINERD.ok("not installed: only tasks of the sidecar")]
    version = await _version(host, daemon)
    try:
        found = Configuration()
        if daemon.config.exists():
            found = read(host, daemon.config, merges=not version.is_old)
    except CryoError as error:
        return [_CONTAINERD.failure(error.message, error.remedy)]
    return [
        *_accepted(daemon, version, found),
        *_loaded(daemon),
        *_shims(host, daemon, found.handlers),
        *_runsc(host, daemon),
        *_annotations(found),
        *_gpus(host, found.handlers),
    ]


async def _version(host: Host, daemon: Daemon) -> Version:
    done = await host.ask([daemon.binary, "--version"])
    parsed = _VERSION.search(done.stdout.decode("utf-8", "replace"))
    if parsed is None:
        return Version("of unknown version", (0, 0))
    return Version(parsed[0].removeprefix("v"), (int(parsed[1]), int(parsed[2])))


def _accepted(daemon: Daemon, version: Version, found: Configuration) -> Iterator[Finding]:
    """Check the version, and whether it reads its configuration."""
    running = f"running as process {daemon.pid}" if daemon.pid else "not running"
    if (0, 0) < version.numbers < _OLDEST:
        yield _CONTAINERD.failure(f"{version.text} is too old", "use containerd 1.7 or newer")
    elif version.is_old and found.version > _FORMAT:
        yield _CONTAINERD.failure(
            f"{daemon.config} has version {found.version}, and {version.text} reads {_FORMAT}",
            "remove that file and run: cryo install containerd",
        )
    elif version.numbers == _OLDEST and found.handlers:
        yield _CONTAINERD.warning(
            f"{version.text} mounts /dev/shm twice in pods, which cannot be restored under "
            "another id",
            "use containerd 1.7 or newer for pods",
        )
    else:
        yield _CONTAINERD.ok(f"{version.text}, {running}, {daemon.config}")


def _loaded(daemon: Daemon) -> Iterator[Finding]:
    """Check that containerd has started after the last change of its configuration."""
    if daemon.config_changed_s - _CLOCK_S > daemon.started_s > 0:
        yield _CONTAINERD.warning(
            f"{daemon.config} was changed after containerd had started", "restart containerd"
        )


def _shims(host: Host, daemon: Daemon, found: Sequence[Handler]) -> Iterator[Finding]:
    """Check the shim on containerd's PATH, and the ones that handlers name by path."""
    named = [one for one in found if one.path]
    for one in named:
        yield from _program(host.at(one.path), f"runtime_path of the handler {one.name}")
    path = _search(daemon)
    if path is not None:
        yield from _program(path, "PATH of containerd")
    elif len(named) < len(found) or not found:
        make = _SHIM.failure if found else _SHIM.warning
        yield make(
            f"{SHIM} is not on containerd's PATH ({daemon.search}): containerd cannot start tasks",
            "run: cryo install containerd, or link the shim into a directory on that PATH",
        )


def _search(daemon: Daemon) -> Path | None:
    """Return the shim as containerd finds it: on its PATH, else beside its program."""
    folders = [Path(each) for each in daemon.search.split(os.pathsep) if each]
    places = (folder / SHIM for folder in (*folders, Path(daemon.binary).parent))
    return next((place for place in places if os.path.lexists(place)), None)


def _program(path: Path, where: str) -> Iterator[Finding]:
    if not path.exists():
        yield _SHIM.failure(f"{path} ({where}) leads nowhere", _INSTALL)
    elif not os.access(path, os.X_OK):
        yield _SHIM.failure(
            f"{path} ({where}) is not executable", f"chmod +x {path}, or remount without noexec"
        )
    elif not path.resolve().with_name(_PROGRAM).exists():
        yield _SHIM.failure(
            f"{path} ({where}) is a copy: {_PROGRAM} is not beside it",
            "put a symbolic link to the installed program there",
        )
    else:
        yield _SHIM.ok(f"{path}, {where}")


def _runsc(host: Host, daemon: Daemon) -> Iterator[Finding]:
    """Check that shims find runsc: they have containerd's PATH."""
    binary = host.config.runsc.binary
    if which(binary, daemon.search) is None:
        yield _RUNSC.failure(
            f"{binary} is not on containerd's PATH ({daemon.search}): shims cannot start it",
            "name its path as binary under [runsc] in config.toml",
        )


def _annotations(found: Configuration) -> Iterator[Finding]:
    for name in found.lost:
        yield _ANNOTATIONS.warning(
            f"the handler {name} is lost: a later file in imports replaces its plugin's settings",
            "move the table of the handler into that file, or use containerd 2.x",
        )
    if not found.handlers and not found.lost:
        yield _ANNOTATIONS.ok("no handler of Kubernetes has this runtime; ctr passes all")
    for one in found.handlers:
        lists = {
            "pod_annotations": one.pod_annotations,
            "container_annotations": one.container_annotations,
        }
        missing = [name for name, patterns in lists.items() if not passes(patterns, _EXAMPLE)]
        if missing:
            yield _ANNOTATIONS.warning(
                f"the handler {one.name} drops {PREFIX}*: {' and '.join(missing)} lack it, so "
                "warm starts and hooks of pods have no effect",
                f'add {" and ".join(missing)} = ["{PREFIX}*"] and restart containerd',
            )
        else:
            yield _ANNOTATIONS.ok(f"the handler {one.name} passes {PREFIX}* on")


def _gpus(host: Host, found: Sequence[Handler]) -> Iterator[Finding]:
    has_gpu = bool(inventory.read(host.config.cuda.nvidia_proc).gpus)
    if found and has_gpu and host.config.runsc.flags.get("nvproxy") != "true":
        yield _PODS.warning(
            "a sandbox is made before its containers request a GPU, and nvproxy is not set: "
            "containers of pods cannot open theirs",
            'set nvproxy = "true" under [runsc.flags]',
        )
