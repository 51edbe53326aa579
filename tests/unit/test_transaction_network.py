"""A restored container without a network is warned of."""

from __future__ import annotations

from pathlib import Path

import pytest

from shim.host import netns
from shim.oci import document
from shim.oci.document import Spec
from shim.transaction import network


def spec(path: str) -> Spec:
    """Give a spec with a network namespace, named or new."""
    space = {"type": "network"} | ({"path": path} if path else {})
    data = {"ociVersion": "1.1.0", "root": {"path": "/r"}, "linux": {"namespaces": [space]}}
    return document.parse(data, Path("/b"), restoring=True)


@pytest.mark.parametrize(
    ("path", "flags", "addresses", "warned"),
    (
        ("/run/netns/a", {}, (), True),
        ("/run/netns/a", {"network": "sandbox"}, (), True),
        ("/run/netns/a", {}, ("10.0.0.1",), False),
        ("/run/netns/a", {"network": "none"}, (), False),
        ("/run/netns/a", {"network": "host"}, (), False),
        ("", {}, (), False),
    ),
)
def test_a_named_namespace_without_an_address(
    monkeypatch: pytest.MonkeyPatch,
    path: str,
    flags: dict[str, str],
    addresses: tuple[str, ...],
    warned: bool,
) -> None:
    """Only where runsc would take an address out of a named namespace that has none."""
    monkeypatch.setattr(netns, "addresses", lambda _: addresses)

    where = network.namespace(spec(path), flags)
    found = () if where is None else network.warnings(where)

    assert bool(found) == warned
    assert all(path in text and "create the namespace again" in text for text in found)
