"""runsc's `--network=host`, for the containers whose spec asks for the host's network.

A spec asks for it by having no network namespace (the OCI runtime spec; hostNetwork in Kubernetes,
`--net-host` of ctr), or by joining the host's own (Docker). Without the flag runsc gives the first
kind an empty network, and refuses the second.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from shim.oci.document import Spec

NETWORK = "network"
HOST = "host"
# runsc, which we start, runs in this one.
_OWN = Path("/proc/self/ns/net")


def flag(spec: Spec, saved: Mapping[str, str] | None = None) -> str:
    """Return the value of the flag for a sandbox, empty for the default.

    `saved` are the flags of the image that it is made from, if any: gVisor's network stack cannot
    be exchanged for the host's, or the other way round.
    """
    fits = saved is None or saved.get(NETWORK) == HOST
    return HOST if fits and requested(spec) else ""


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
