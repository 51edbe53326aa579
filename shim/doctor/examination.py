"""Runs all checks at the same time, each with a deadline; one that fails becomes a finding."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import NamedTuple

from shim.doctor import (
    cgroups,
    containerd,
    disks,
    driver,
    gpus,
    kernel,
    leftovers,
    memory,
    runsc,
    settings,
    sockets,
)
from shim.doctor.host import Host
from shim.errors import CryoError
from shim.finding import Area, Finding, Topic
from shim.host.filecalls import file_call

_LIMIT_S = 5.0
# They run programs, which have deadlines of their own: nvidia-smi may load the driver first.
_PROGRAMS_S = 20.0


class Check(NamedTuple):
    """A check: its name, its work, and its deadline."""

    name: str
    work: Callable[[Host], Awaitable[Iterable[Finding]]]
    limit_s: float


def _reads(name: str, look: Callable[[Host], Iterable[Finding]]) -> Check:
    """Make a check of a function that reads files, in a thread: a filesystem may hang."""

    async def work(host: Host) -> list[Finding]:
        return await file_call(lambda: list(look(host)), doing=f"check {name}", deadline_s=None)

    return Check(name, work, _LIMIT_S)


CHECKS = (
    _reads("settings", settings.check),
    _reads("kernel", kernel.check),
    _reads("cgroups", cgroups.check),
    _reads("memory", memory.check),
    Check("runsc", runsc.check, _PROGRAMS_S),
    Check("driver", driver.check, _PROGRAMS_S),
    Check("GPUs", gpus.check, _PROGRAMS_S),
    Check("containerd", containerd.check, _PROGRAMS_S),
    _reads("paths.images", disks.check_images),
    _reads("paths.state", disks.check_state),
    _reads("paths.scratch", disks.check_scratch),
    _reads("sockets", sockets.check),
    _reads("journals", leftovers.check_journals),
    _reads("shims", leftovers.check_shims),
    _reads("unfinished images", leftovers.check_images),
    _reads("sandboxes", leftovers.check_sandboxes),
)


async def examine(host: Host, checks: Iterable[Check] = CHECKS) -> tuple[Finding, ...]:
    """Run the checks; the findings are in their order."""
    found = await asyncio.gather(*(_run(check, host) for check in checks))
    return tuple(finding for each in found for finding in each)


async def _run(check: Check, host: Host) -> list[Finding]:
    subject = Topic(Area.CHECK, check.name)
    try:
        async with asyncio.timeout(check.limit_s):
            return list(await check.work(host))
    except TimeoutError:
        text = f"the check did not end in {check.limit_s:g} s"
        remedy = "look for a disk or a program that hangs (ps axo pid,stat,wchan,cmd)"
        return [subject.failure(text, remedy)]
    except CryoError as error:
        return [subject.failure(error.message, error.remedy or "see what fails there")]
    except Exception as error:  # noqa: BLE001 - it must not hide what the other checks find
        text = f"the check itself failed: {type(error).__name__}: {error}"
        return [subject.failure(text, "report this line, with `cryo version`")]
