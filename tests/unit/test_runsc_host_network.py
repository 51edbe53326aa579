"""Which sandboxes get the host's network, and with which flags runsc is called for one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from shim.oci import document
from shim.oci.document import Spec
from shim.runsc import host_network
from shim.runsc.container_flags import NO_FLAGS, ContainerFlags


def spec(*namespaces: dict[str, str]) -> Spec:
    """Return a spec with these namespaces."""
    data: dict[str, Any] = {"ociVersion": "1.1.0", "root": {"path": "/r"}}
    data["linux"] = {"namespaces": list(namespaces)}
    return document.parse(data, Path("/b"), restoring=True)


@pytest.mark.parametrize(
    ("namespaces", "wanted"),
    (
        ((), True),
        (({"type": "pid"},), True),
        (({"type": "network", "path": "/proc/self/ns/net"},), True),
        (({"type": "network"},), False),
        (({"type": "network", "path": "/proc/self/ns/pid"},), False),
        (({"type": "network", "path": "/run/netns/gone"},), False),
    ),
)
def test_a_spec_asks_for_the_hosts_network(
    namespaces: tuple[dict[str, str], ...], wanted: bool
) -> None:
    """It does so without a network namespace, as CRI, or with the path of the host's, as Docker."""
    assert host_network.requested(spec(*namespaces)) == wanted
    assert host_network.flag(spec(*namespaces)) == ("host" if wanted else "")


@pytest.mark.parametrize(
    ("saved", "found"), (({"network": "host"}, "host"), ({"network": "sandbox"}, ""), ({}, ""))
)
def test_a_restored_sandbox_has_the_stack_that_was_saved(saved: dict[str, str], found: str) -> None:
    """An image saved with gVisor's own stack, such as an older one, is restored with that."""
    assert host_network.restored_flag(saved, spec) == found
    assert host_network.restored_flag(saved, lambda: spec({"type": "network"})) == ""


def test_the_spec_of_an_image_with_gvisors_stack_is_not_looked_at() -> None:
    """It need not even be complete."""
    assert host_network.restored_flag({}, lambda: pytest.fail("the spec was parsed")) == ""


def test_flags_of_a_container_come_after_the_operators() -> None:
    """A flag that the operator has set remains; overlay2 also yields to runsc's older flag."""
    own = ContainerFlags(overlay2="root:dir=/x", network="host")

    assert own.added_to({"debug": "true"}) == {
        "debug": "true",
        "overlay2": "root:dir=/x",
        "network": "host",
    }
    assert own.added_to({"network": "none", "overlay": "true"}) == {
        "network": "none",
        "overlay": "true",
    }
    assert NO_FLAGS.added_to({"network": "none"}) == {"network": "none"}
