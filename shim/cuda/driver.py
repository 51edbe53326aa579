"""What the NVIDIA drivers support of CUDA checkpoints, from the public release notes. Pure."""

from __future__ import annotations

import re

from shim.errors import Impossible
from shim.model import Value

OLDEST = 550
# The first release line with each ability.
_GET_STATE = 555
_ACTION = 555
_LOCK_TIMEOUT = 570
_DRIVER_API = 570
_DEVICE_MAP = 580
_VERSION = re.compile(r"(\d{3,4})\.\d+(?:\.\d+)?")
_REMEDY = "install NVIDIA driver 570 or newer; 580 or newer can move between GPUs"


class DriverFacts(Value):
    """What `cuda-checkpoint` can do with a driver of one release line.

    `action`, `get_state` and `device_map` are its options; `lock_timeout` is whether the driver
    itself gives up a lock after a while; `driver_api` whether libcuda.so.1 has the same moves as
    calls, which cryo-cuda makes.
    """

    version: str
    get_state: bool
    action: bool
    lock_timeout: bool
    driver_api: bool
    device_map: bool
    warnings: tuple[str, ...] = ()


def capabilities(version: str) -> DriverFacts:
    """Return what the driver of this version can do.

    Raises:
        Impossible: it is older than 550, or its version cannot be parsed.
    """
    major = _major(version)
    if major < OLDEST:
        message = (
            f"NVIDIA driver {version} does not support CUDA checkpointing "
            f"({OLDEST} or newer required)"
        )
        raise Impossible(message, remedy=_REMEDY)
    return DriverFacts(
        version=version,
        get_state=major >= _GET_STATE,
        action=major >= _ACTION,
        lock_timeout=major >= _LOCK_TIMEOUT,
        driver_api=major >= _DRIVER_API,
        device_map=major >= _DEVICE_MAP,
        warnings=_warnings(version, major),
    )


def _major(version: str) -> int:
    if not version:
        message = "no NVIDIA driver is loaded on this host"
        raise Impossible(message, remedy=_REMEDY)
    found = _VERSION.fullmatch(version)
    if found is None:
        message = f"the NVIDIA driver's version {version[:40]!r} is not understood"
        raise Impossible(message, remedy="look into /proc/driver/nvidia/version")
    return int(found.group(1))


def _warnings(version: str, major: int) -> tuple[str, ...]:
    lost = []
    if major < _ACTION:
        lost.append(
            f"NVIDIA driver {version} can only toggle: the state of a CUDA process cannot be "
            "read, so one that was interrupted half-way is not recognized"
        )
    if major < _LOCK_TIMEOUT:
        lost.append(
            f"NVIDIA driver {version} has no lock timeout: when a process reaches no safe "
            "point, the tool is killed instead"
        )
    return tuple(lost)
