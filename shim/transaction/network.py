"""Whether a restored container will have a network.

At its start runsc moves the addresses and routes of the network namespace into its own stack. A
second sandbox that joins the same namespace finds none and starts without a network or an error.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from shim.host import netns
from shim.oci.document import Spec
from shim.runsc import settings


def namespace(spec: Spec, flags: Mapping[str, str]) -> Path | None:
    """Return the network namespace whose addresses the container needs; None without one."""
    path = spec.network_namespace
    if not path or settings.recorded(flags)["network"] != "sandbox":
        return None
    return Path(path)


def warnings(path: Path) -> tuple[str, ...]:
    """Return a warning if the network namespace at a path has no address.

    Raises:
        FailedPrecondition: the namespace does not exist.
        CryoError: it cannot be joined.
    """
    if netns.addresses(path):
        return ()
    text = (
        f"the network namespace {path} has no address, so the restored task has no network: the "
        "sandbox that used it before took the address out; create the namespace again, as CNI does"
    )
    return (text,)
