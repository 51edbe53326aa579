"""Top-level flags of runsc that are chosen for one container, where the operator set none. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from shim.model import Value
from shim.runsc import overlay
from shim.runsc.host_network import NETWORK


class ContainerFlags(Value):
    """The values of the flags `overlay2` and `network`; empty for runsc's default."""

    overlay2: str = ""
    network: str = ""

    def added_to(self, configured: Mapping[str, str]) -> dict[str, str]:
        """Return the configured flags, and these where the operator set none."""
        flags = overlay.with_medium(configured, self.overlay2)
        if self.network:
            flags.setdefault(NETWORK, self.network)
        return flags


NO_FLAGS = ContainerFlags()
