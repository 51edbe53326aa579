"""What the sentry needs to start a program in a container, as `runsc exec` puts it together.

The container's user, environment, directory and capabilities are those of the spec in runsc's state
file; the sentry itself adds HOME, limits and seccomp rules (argsFromCLI in runsc/cmd/exec.go and
executeAsync in runsc/boot/loader.go; ExecArgs in pkg/sentry/control/proc.go).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

# By number, as in <linux/capability.h>.
_CAPABILITIES = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
]
_NUMBERS = {name: number for number, name in enumerate(_CAPABILITIES)}
_NET_RAW = "CAP_NET_RAW"
_RUNNING = "running"
_STANDARD_STREAMS = (0, 1, 2)


class _Capabilities(msgspec.Struct, rename="camel"):
    bounding: tuple[str, ...] | None = None
    effective: tuple[str, ...] | None = None
    inheritable: tuple[str, ...] | None = None
    permitted: tuple[str, ...] | None = None
    ambient: tuple[str, ...] | None = None


class _User(msgspec.Struct, rename="camel"):
    uid: int = 0
    gid: int = 0
    additional_gids: tuple[int, ...] | None = None


class _Process(msgspec.Struct, rename="camel"):
    cwd: str
    user: _User = msgspec.field(default_factory=_User)
    env: tuple[str, ...] | None = None
    capabilities: _Capabilities | None = None
    no_new_privileges: bool = False


class _Spec(msgspec.Struct):
    process: _Process


class _State(msgspec.Struct):
    id: str
    status: str
    spec: _Spec


_DECODER = msgspec.json.Decoder(_State)


def exec_request(
    state_file: bytes, argv: Sequence[str], *, as_user: bool, net_raw: bool
) -> dict[str, Any] | None:
    """Build the argument of ExecuteAsync with the standard streams as descriptors.

    `as_user` is whether runsc starts programs as the container's user, `net_raw` whether it leaves
    CAP_NET_RAW to containers. None if the container is not running, if runsc would start the
    program as another user, or if the state file has something that is unknown here.
    """
    try:
        state = _DECODER.decode(state_file)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    if state.status != _RUNNING:
        return None
    process = state.spec.process
    if process.user != _User() and not as_user:
        return None
    capabilities = _sets(process.capabilities or _Capabilities(), net_raw=net_raw)
    if capabilities is None:
        return None
    return {
        "argv": list(argv),
        "envv": process.env or (),
        "wd": process.cwd,
        "KUID": process.user.uid,
        "KGID": process.user.gid,
        "ExtraKGIDs": process.user.additional_gids or (),
        "NoNewPrivileges": process.no_new_privileges,
        "Capabilities": capabilities,
        "SupportTTYs": True,
        "GuestFDs": _STANDARD_STREAMS,
        "ContainerID": state.id,
    }


def _sets(given: _Capabilities, *, net_raw: bool) -> dict[str, int] | None:
    """Return each set as a bit mask; None if a name is unknown."""
    named = {
        "PermittedCaps": given.permitted or (),
        "InheritableCaps": given.inheritable or (),
        "EffectiveCaps": given.effective or (),
        "BoundingCaps": given.bounding or (),
        "AmbientCaps": given.ambient or (),
    }
    if any(name not in _NUMBERS for names in named.values() for name in names):
        return None
    return {kind: _mask(names, net_raw=net_raw) for kind, names in named.items()}


def _mask(names: Iterable[str], *, net_raw: bool) -> int:
    kept = {name for name in names if net_raw or name != _NET_RAW}
    return sum(1 << _NUMBERS[name] for name in kept)
