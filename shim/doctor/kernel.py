"""Checks the kernel: the machine, its version, and the features that are used."""

from __future__ import annotations

from collections.abc import Iterator

from shim.doctor import features
from shim.doctor.host import Host
from shim.finding import Area, Finding, Topic

_KERNEL = Topic(Area.SYSTEM, "kernel")
_MACHINE = Topic(Area.SYSTEM, "machine")
_SUPPORTED = "x86_64"
# gVisor's platform systrap catches system calls by this action.
_ACTION = "trap"
_NEWER = "use a newer kernel"


def check(host: Host) -> Iterator[Finding]:
    """Check the machine and the kernel."""
    if host.machine == _SUPPORTED:
        yield _MACHINE.ok(host.machine)
    else:
        yield _MACHINE.failure(
            f"{host.machine}: NVIDIA publishes cuda-checkpoint for {_SUPPORTED} only",
            f"use a host with {_SUPPORTED}",
        )
    found = list(_lacking(host))
    yield from found or [_KERNEL.ok(f"{host.release}, with all features that are used")]


def _lacking(host: Host) -> Iterator[Finding]:
    if not host.has(features.PIDFD):
        yield _KERNEL.failure(
            f"{host.release} has no pidfd_open, by which processes are waited for",
            "use Linux 5.3 or newer",
        )
    if not host.has(features.MEMFD):
        yield _KERNEL.failure(
            f"{host.release} makes no memfd, which is the memory of a sandbox", _NEWER
        )
    if not host.uid and not host.has(features.TMPFS):
        yield _KERNEL.warning(
            f"{host.release} makes no tmpfs without a mount point: images are saved to the disk "
            "while the task stands still",
            "use Linux 5.2 or newer",
        )
    if not host.has(features.IDMAP):
        yield _KERNEL.warning(
            f"{host.release} has no idmapped mounts: pods with hostUsers: false fail",
            "use Linux 5.12 or newer",
        )
    yield from _seccomp(host)
    yield from _user_namespaces(host)


def _seccomp(host: Host) -> Iterator[Finding]:
    actions = host.text("/proc/sys/kernel/seccomp/actions_avail").split()
    if _ACTION not in actions and "kvm" not in host.config.runsc.flags.get("platform", ""):
        yield _KERNEL.failure(
            "the kernel has no seccomp filters, by which runsc catches system calls",
            "use a kernel with CONFIG_SECCOMP_FILTER",
        )


def _user_namespaces(host: Host) -> Iterator[Finding]:
    limit = host.text("/proc/sys/user/max_user_namespaces").strip()
    if not limit or limit == "0":
        # Seen: "cannot create gofer process: ... no space left on device".
        yield _KERNEL.failure(
            "no user namespace can be made, and runsc makes one for each sandbox",
            "sysctl -w user.max_user_namespaces=65536, and in /etc/sysctl.d",
        )
