"""The features document of the OCI runtime specification (features.md)."""

from __future__ import annotations

from typing import Any

from shim.host import idmap

TYPE_URL = "types.containerd.io/opencontainers/runtime-spec/1/features/Features"
_HOOKS = (
    "prestart",
    "createRuntime",
    "createContainer",
    "startContainer",
    "poststart",
    "poststop",
)
_NAMESPACES = ("cgroup", "ipc", "mount", "network", "pid", "user", "uts")
# The options that gVisor supports. Not `rro`: gVisor does not make mounts read-only recursively,
# and containerd must reject a container that needs it.
_MOUNT_OPTIONS = (
    "async",
    "atime",
    "bind",
    "defaults",
    "dev",
    "diratime",
    "dirsync",
    "exec",
    "noatime",
    "nodev",
    "nodiratime",
    "noexec",
    "norelatime",
    "nostrictatime",
    "nosuid",
    "private",
    "rbind",
    "relatime",
    "remount",
    "ro",
    "rprivate",
    "rslave",
    "rw",
    "slave",
    "strictatime",
    "suid",
    "sync",
)


def features() -> dict[str, Any]:
    """Return the document; an omitted field means unknown."""
    return {
        "ociVersionMin": "1.0.0",
        "ociVersionMax": "1.2.1",
        "hooks": _HOOKS,
        "mountOptions": _MOUNT_OPTIONS,
        "linux": {
            "namespaces": _NAMESPACES,
            "cgroup": {"v1": True, "v2": True, "rdma": False},
            "apparmor": {"enabled": False},
            "selinux": {"enabled": False},
            "intelRdt": {"enabled": False},
            "mountExtensions": {"idmap": {"enabled": idmap.kernel_has_it()}},
        },
        # With `allow-flag-override` these override runsc's flags.
        "potentiallyUnsafeConfigAnnotations": ("dev.gvisor.",),
    }
