"""Checks containerd: its version, whether it finds the shim, and which annotations it passes on."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from shim.cuda import inventory
from shim.doctor.containerd_config import Handler, handlers, passes
from shim.doctor.containerd_process import Daemon, find
from shim.doctor.finding import Area, Finding, Subject
from shim.doctor.host import Host
from shim.errors import CryoError
from shim.oci.annotation_names import PREFIX

SHIM = "containerd-shim-cryo-v1"
# What the launcher starts where there is no fork server yet.
_PROGRAM = f"{SHIM}-python"
_CONTAINERD = Subject(Area.CONTAINERD, "containerd")
_SHIM = Subject(Area.CONTAINERD, "shim")
_ANNOTATIONS = Subject(Area.CONTAINERD, "annotations")
_PODS = Subject(Area.CONTAINERD, "GPUs in pods")
_VERSION = re.compile(r"\bv?(\d+)\.(\d+)\.\d+")
_OLDEST = (1, 6)
_NO_PODS = (1, 6)
_EXAMPLE = f"{PREFIX}warm"
# The kernel gives the time of the boot in whole seconds.
_CLOCK_S = 2.0


async def check(host: Host) -> list[Finding]:
    """Check containerd, if this host has one."""
    daemon = find(host)
    if daemon is None:
        return [_CONTAINERD.ok("not installed: only tasks of the sidecar")]
    try:
        found = handlers(host, daemon.config) if daemon.config.exists() else ()
    except CryoError as error:
        return [_CONTAINERD.failure(error.message, error.remedy)]
    return [
        *await _version(host, daemon, pods=bool(found)),
        *_loaded(daemon),
        *_shims(host, daemon, found),
        *_annotations(found),
        *_gpus(host, found),
    ]


async def _version(host: Host, daemon: Daemon, *, pods: bool) -> list[Finding]:
    done = await host.ask([daemon.binary, "--version"])
    text = done.stdout.decode("utf-8", "replace").strip()
    parsed = _VERSION.search(text)
    if parsed is None:
        return [_CONTAINERD.ok(f"{daemon.binary}, of unknown version")]
    version = (int(parsed[1]), int(parsed[2]))
    shown = parsed[0].removeprefix("v")
    if version < _OLDEST:
        return [_CONTAINERD.failure(f"{shown} is too old", "use containerd 1.7 or newer")]
    if version == _NO_PODS and pods:
        text = f"{shown} mounts /dev/shm twice in pods, which cannot be restored under another id"
        return [_CONTAINERD.warning(text, "use containerd 1.7 or newer for pods")]
    running = f"running as process {daemon.pid}" if daemon.pid else "not running"
    return [_CONTAINERD.ok(f"{shown}, {running}, {daemon.config}")]


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
            f"ln -s $(command -v {SHIM}) /usr/local/bin/",
        )


def _search(daemon: Daemon) -> Path | None:
    """Return the shim as containerd finds it: on its PATH, else beside its program."""
    folders = [Path(each) for each in daemon.search.split(os.pathsep) if each]
    places = (folder / SHIM for folder in (*folders, Path(daemon.binary).parent))
    return next((place for place in places if os.path.lexists(place)), None)


def _program(path: Path, where: str) -> Iterator[Finding]:
    if not path.exists():
        yield _SHIM.failure(f"{path} ({where}) leads nowhere", "install the shim, or link it again")
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


def _annotations(found: Sequence[Handler]) -> Iterator[Finding]:
    if not found:
        yield _ANNOTATIONS.ok("no handler of Kubernetes has this runtime; ctr passes all")
    for one in found:
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
