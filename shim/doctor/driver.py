"""Checks the NVIDIA driver: what its calls can do, and whether runsc's driver proxy knows it."""

from __future__ import annotations

import re
from collections.abc import Iterator

from shim.cuda import driver, inject, inventory
from shim.cuda.driver import DriverFacts
from shim.doctor.host import Host
from shim.errors import CryoError
from shim.finding import Area, Finding, Topic

_DRIVER = Topic(Area.GPU, "driver")
_PROXY = Topic(Area.GPU, "nvproxy")
_TOOL = Topic(Area.GPU, "cuda-checkpoint")
_VERSION = re.compile(r"^\d+\.\d+(?:\.\d+)?$", re.MULTILINE)
_ALLOW, _AS = "nvproxy-allow-unsupported-driver", "nvproxy-driver-version"
_NEWER = "use a runsc that knows this driver, or a driver that this runsc knows"


async def check(host: Host) -> list[Finding]:
    """Check the driver, nvproxy and the programs that move CUDA processes."""
    version = inventory.read(host.config.cuda.nvidia_proc).driver
    known = await _known(host)
    if not version:
        return [_DRIVER.ok("no NVIDIA driver is loaded: containers without a GPU only")]
    try:
        facts = driver.capabilities(version)
    except CryoError as error:
        return [_DRIVER.failure(error.message, error.remedy)]
    return [*_abilities(facts), *_proxy(host, version, known), *_tool(host, facts)]


def _abilities(facts: DriverFacts) -> Iterator[Finding]:
    words = {
        "separate steps": facts.action,
        "states": facts.get_state,
        "lock timeout": facts.lock_timeout,
        "calls of cryo-cuda": facts.driver_api,
        "other GPUs at a restore": facts.device_map,
    }
    able = ", ".join(word for word, has in words.items() if has) or "toggle only"
    yield _DRIVER.ok(f"{facts.version}: {able}")
    for text in facts.warnings:
        yield _DRIVER.warning(text, "install NVIDIA driver 570 or newer")


async def _known(host: Host) -> tuple[str, ...]:
    """List the drivers that runsc's driver proxy knows; none if it cannot say."""
    binary = host.find(host.config.runsc.binary)
    if not binary:
        return ()
    done = await host.ask([binary, "nvproxy", "list-supported-drivers"])
    text = done.stdout.decode("utf-8", "replace") if done.status == 0 else ""
    return tuple(_VERSION.findall(text))


def _proxy(host: Host, version: str, known: tuple[str, ...]) -> Iterator[Finding]:
    flags = host.config.runsc.flags
    if version in known:
        yield _PROXY.ok(f"knows driver {version}")
    elif not known:
        yield _PROXY.warning(
            f"this runsc does not say whether it supports driver {version}", _NEWER
        )
    elif flags.get(_AS):
        yield _PROXY.warning(
            f"treats driver {version} as {flags[_AS]}: what differs between them fails", _NEWER
        )
    elif flags.get(_ALLOW):
        yield _PROXY.warning(
            f"does not support driver {version}, and tries it: {_ALLOW} is set", _NEWER
        )
    else:
        nearest = ", ".join(one for one in known if _major(one) == _major(version))
        also = f", of {_major(version)} only {nearest}" if nearest else ""
        yield _PROXY.failure(
            f"does not support driver {version}{also}: no container can use a GPU", _NEWER
        )


def _major(version: str) -> str:
    return version.partition(".")[0]


def _tool(host: Host, facts: DriverFacts) -> Iterator[Finding]:
    try:
        tool = inject.find_tool(host.config.cuda, host.search)
    except CryoError as error:
        yield _TOOL.failure(error.message, error.remedy)
        return
    helper = inject.find_helper(host.config.cuda)
    if helper or tool:
        yield _TOOL.ok(" and ".join(one for one in (helper, tool) if one))
    elif facts.driver_api:
        yield _TOOL.failure(
            "neither cryo-cuda nor cuda-checkpoint: a container with a GPU needs its own",
            "install this package where a C compiler is, or put NVIDIA's cuda-checkpoint on PATH",
        )
    else:
        yield _TOOL.failure(
            f"cuda-checkpoint, which driver {facts.version} requires, was not found",
            "put NVIDIA's cuda-checkpoint on PATH, or name it as tool under [cuda]",
        )
