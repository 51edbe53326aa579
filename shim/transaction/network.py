"""Does a restored container have a network? runsc takes what its network namespace has at a start.

It moves the addresses and routes of the namespace into its own stack, so a namespace has none left
for the next sandbox: a second one that joins it comes up without any network, and no error.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from shim.host import netns
from shim.runsc import settings
from shim.spec.document import Spec


def warnings(spec: Spec, flags: Mapping[str, str]) -> tuple[str, ...]:
    """Say that the container will have no network, where its namespace has no address.

    Raises:
        FailedPrecondition: the namespace is not there.
        CryoError: it cannot be joined.
    """
    path = spec.network_namespace
    if not path or settings.recorded(flags)["network"] != "sandbox":
        return ()
    if netns.addresses(Path(path)):
        return ()
    text = (
        f"the network namespace {path} has no address, so the restored task has no network: the "
        "sandbox that used it before took the address out; make the namespace anew, as CNI does"
    )
    return (text,)
