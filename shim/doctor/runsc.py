"""Checks runsc: whether it runs, what this build can do, and what is known to go wrong with it."""

from __future__ import annotations

import mmap
import os
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from shim.cuda import inventory
from shim.doctor import features
from shim.doctor.host import Host
from shim.errors import CryoError
from shim.finding import Area, Finding, Level, Topic
from shim.host.filecalls import file_call
from shim.host.oserror import typed
from shim.runsc.probe import UNVERSIONED, Capabilities, check_flags, probe
from shim.runsc.settings import is_on

_RUNSC = Topic(Area.RUNSC, "runsc")
_FLAGS = Topic(Area.RUNSC, "runsc.flags")
_SIDECARS = Topic(Area.RUNSC, "gvisor-bin")
_NETWORK = Topic(Area.RUNSC, "network")
# With these values of --network runsc does not look at the namespace.
_WITHOUT = ("none", "host")
_ITS_SUCCESSOR = b"/proc/sys/net/core/dev_weight"
_NEWER = "use a newer runsc: one of 2026 starts it"
_READ_S = 4.0
_FOLDER, _SENTRY = "gvisor-bin", "gvisor_sentry"
_POLICY = "sidecar-usage-policy"
_RELEASE = re.compile(r"release-(\d{8})\.\d+")


class Fault(NamedTuple):
    """Something that goes wrong with some builds, which are recognized by their features."""

    has: Callable[[Capabilities], bool]
    level: Level
    text: str
    remedy: str
    with_gpu: bool = False


def _date(able: Capabilities) -> str:
    """Return the date of a release, as in release-20260905.0; empty for other builds."""
    found = _RELEASE.fullmatch(able.version)
    return found[1] if found else ""


# Measured on the builds of docs/requirements.md; the dates are of releases that have the feature.
FAULTS = (
    Fault(
        lambda able: "direct" not in able.checkpoint_flags,
        Level.FAILURE,
        "this build makes another sandbox at each save instead of letting the task run",
        "use runsc 20240729 or newer",
    ),
    Fault(
        lambda able: not able.saves_execs,
        Level.WARNING,
        "this build refuses checkpoints beside a live exec session or a connected host socket",
        "use runsc from 20250414 on",
    ),
    Fault(
        lambda able: not able.saves_host_network,
        Level.WARNING,
        "this build cannot save a sandbox on the host's network",
        "use runsc from 20260905 on",
    ),
    Fault(
        lambda able: not able.builtin_cuda or "20260608" <= _date(able) < "20260706",
        Level.WARNING,
        "this build cannot save a process that has a GPU device open without CUDA state",
        "use runsc from 20260706 on",
        with_gpu=True,
    ),
)


async def check(host: Host) -> list[Finding]:
    """Check the configured runsc and its flags."""
    try:
        able = await probe(host.find(host.config.runsc.binary) or host.config.runsc.binary)
    except CryoError as error:
        return [_RUNSC.failure(error.message, error.remedy)]
    has_gpu = bool(inventory.read(host.config.cuda.nvidia_proc).gpus)
    return [
        _RUNSC.ok(_described(able)),
        *_known(able, has_gpu=has_gpu),
        *_sidecars(able, host.config.runsc.flags),
        *await file_call(
            lambda: list(_network(able, host)), doing="read runsc", deadline_s=_READ_S
        ),
        *await _flags(able, host, has_gpu=has_gpu),
    ]


def _described(able: Capabilities) -> str:
    version = "without a version" if able.version == UNVERSIONED else able.version
    engines = "phased and builtin" if able.builtin_cuda else "phased"
    return f"{able.binary}, {version}, engines {engines}"


def _known(able: Capabilities, *, has_gpu: bool) -> Iterator[Finding]:
    for one in FAULTS:
        if one.has(able) and (has_gpu or not one.with_gpu):
            make = _RUNSC.failure if one.level is Level.FAILURE else _RUNSC.warning
            yield make(one.text, one.remedy)


def _sidecars(able: Capabilities, flags: Mapping[str, str]) -> Iterator[Finding]:
    """Check the helper programs that releases since 2026-07-31 have beside runsc."""
    if _POLICY not in able.top_flags:
        return
    folder = Path(able.binary).parent / _FOLDER
    program = folder / _SENTRY
    remedy = f"copy {_FOLDER} of the same release beside runsc"
    if program.exists() and os.access(program, os.X_OK):
        yield _SIDECARS.ok(str(folder))
    elif program.exists():
        yield _SIDECARS.failure(f"{program} is not executable: no sandbox starts", remedy)
    elif flags.get(_POLICY) == "STRICT":
        yield _SIDECARS.failure(
            f"{program} is missing, and {_POLICY} is STRICT: no sandbox starts", remedy
        )
    else:
        yield _SIDECARS.warning(
            f"{program} is missing: this build falls back to its own code, later ones will not",
            remedy,
        )


def _network(able: Capabilities, host: Host) -> Iterator[Finding]:
    """Check whether this build takes the network namespace of a container for the host's; blocks.

    Builds of 2024 look for a file which newer kernels, such as 6.18, have in each namespace.
    """
    if host.config.runsc.flags.get("network") in _WITHOUT or host.uid:
        return
    if host.has(features.HIDDEN_RMEM) or not _looks_for_rmem(Path(able.binary)):
        return
    yield _NETWORK.warning(
        f"on Linux {host.release} this build starts no container with a network: it takes the "
        "network namespace of each for the host's",
        f'set network = "none" under [runsc.flags], or {_NEWER}',
    )


def _looks_for_rmem(binary: Path) -> bool:
    """Whether a program has the path of that file, and not that of the one which came after it.

    Raises:
        CryoError: it cannot be read.
    """
    try:
        with (
            binary.open("rb") as file,
            mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as text,
        ):
            return text.find(_ITS_SUCCESSOR) < 0 <= text.find(features.RMEM.encode())
    except OSError as error:
        raise typed(error, f"read {binary}") from error


async def _flags(able: Capabilities, host: Host, *, has_gpu: bool) -> list[Finding]:
    flags = host.config.runsc.flags
    try:
        await check_flags(able.binary, flags)
    except CryoError as error:
        return [_FLAGS.failure(error.message, error.remedy)]
    shown = " ".join(f"{name}={value}" for name, value in sorted(flags.items()))
    return list(_bad_flags(host, has_gpu=has_gpu)) or [_FLAGS.ok(shown or "none")]


def _bad_flags(host: Host, *, has_gpu: bool) -> Iterator[Finding]:
    flags = host.config.runsc.flags
    platform = flags.get("platform", "")
    if platform == "ptrace":
        yield _FLAGS.failure(
            "platform ptrace: restored programs exit with SIGILL",
            'set platform = "systrap" under [runsc.flags]',
        )
    if platform == "kvm" and not host.at("/dev/kvm").exists():
        yield _FLAGS.failure(
            "platform kvm, and this host has no /dev/kvm",
            'load the kvm module, or set platform = "systrap" under [runsc.flags]',
        )
    if is_on(flags, "debug") and has_gpu:
        yield _FLAGS.warning(
            "debug: restores of containers with a GPU fail",
            "remove debug under [runsc.flags]",
        )
