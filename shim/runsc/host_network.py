"""runsc's `--network=host`, for the containers whose spec asks for the host's network.

A spec asks for it by having no network namespace (the OCI runtime spec; hostNetwork in Kubernetes,
`--net-host` of ctr), or by joining the host's own (Docker). Without the flag runsc gives the first
kind an empty network, and refuses the second.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from shim.oci.document import Spec

NETWORK = "network"
HOST = "host"
# runsc, which we start, runs in this one.
_OWN = Path("/proc/self/ns/net")


def flag(spec: Spec) -> str:
    """Return the value of the flag for a new sandbox, empty for the default."""
    return HOST if requested(spec) else ""


def restored_flag(saved: Mapping[str, str], spec: Callable[[], Spec]) -> str:
    """Return it for a sandbox made from an image that was saved with these flags.

    gVisor's network stack cannot be exchanged for the host's, or the other way round: only where
    the image has the host's network is the spec looked at.
    """
    return flag(spec()) if saved.get(NETWORK) == HOST else ""


def requested(spec: Spec) -> bool:
    """Whether the spec asks for the host's network."""
    if not spec.has_network_namespace:
        return True
    path = spec.network_namespace
    return bool(path) and _same_file(Path(path), _OWN)


def _same_file(one: Path, other: Path) -> bool:
    """Whether two paths name one namespace; not if one of them does not exist."""
    try:
        return one.samefile(other)
    except OSError:
        return False
