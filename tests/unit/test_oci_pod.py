"""What a spec says of the sandbox that its container is in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from shim.oci import document, pod
from shim.oci.document import Spec

_CRI = "io.kubernetes.cri"


def spec(**annotations: str) -> Spec:
    """Make a spec; the annotations are given without the CRI plugin's prefix."""
    data: dict[str, Any] = {
        "ociVersion": "1.1.0",
        "process": {"args": ["/bin/sh"]},
        "root": {"path": "rootfs"},
        "annotations": {f"{_CRI}.{k.replace('_', '-')}": v for k, v in annotations.items()},
    }
    return document.parse(data, Path("/b"))


def test_who_joins_a_sandbox() -> None:
    """A container of a pod does; its sandbox, or any other container, has one of its own."""
    member = spec(container_type="container", sandbox_id="s", container_name="n")

    assert (pod.sandbox_of(member), pod.name_of(member)) == ("s", "n")
    assert pod.sandbox_of(spec(container_type="sandbox", sandbox_id="s")) == ""
    assert (pod.sandbox_of(spec()), pod.name_of(spec())) == ("", "")


def test_joining_another_sandbox() -> None:
    """Type, name and sandbox are written, whatever was there; the first spec stays as it was."""
    first = spec(container_type="container", sandbox_id="s", container_name="n", image_name="i")

    second = pod.joined(first, "n2", "s2")

    assert (pod.sandbox_of(second), pod.name_of(second)) == ("s2", "n2")
    assert second.annotations[f"{_CRI}.image-name"] == "i"
    assert (pod.sandbox_of(first), pod.name_of(first)) == ("s", "n")
    assert pod.joined(second, "n2", "s2") is second


def test_a_sandbox_under_another_id() -> None:
    """One that names itself gets the new id; one that says nothing stays so."""
    leader = pod.leading(spec(container_type="sandbox", sandbox_id="s"), "s2")

    assert leader.annotations[pod.SANDBOX_ID] == "s2"
    alone = spec()
    assert pod.leading(alone, "s2") is alone
