"""What a restored copy has of its own in its spec."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from shim.errors import InvalidArgument
from shim.oci import document
from shim.oci.compare import differences
from shim.oci.copy_identity import CopyIdentity
from shim.oci.document import Spec
from shim.oci.pod import CONTAINER_TYPE, SANDBOX_ID

INSTANCE = {"io.cryo.instance": "true"}
POD = {CONTAINER_TYPE: "container", SANDBOX_ID: "pod"}


def spec_of(annotations: dict[str, str] | None = None, **linux: Any) -> Spec:
    """Return the spec of a container with an environment and a network namespace."""
    data = {
        "ociVersion": "1.1.0",
        "hostname": "old",
        "process": {"args": ["sh"], "env": ["A=1", "B=2"]},
        "root": {"path": "rootfs"},
        "annotations": annotations or {},
        "linux": {"namespaces": [{"type": "pid"}, {"type": "network", "path": "/n"}], **linux},
    }
    return document.parse(data, Path("/b"))


def test_all_is_replaced_and_restorable() -> None:
    """Hostname, namespace and single variables change; runsc accepts the result."""
    spec = spec_of(INSTANCE)
    given = CopyIdentity(hostname="new", netns="/m", env=("B=3", "C=")).given_to(spec)

    assert given.data["hostname"] == "new"
    assert given.data["linux"]["namespaces"] == [{"type": "pid"}, {"type": "network", "path": "/m"}]
    assert given.env == ("A=1", "B=3", "C=")
    assert spec.data["hostname"] == "old"
    assert differences(spec, given) == ()


def test_nothing_given_changes_nothing() -> None:
    """The same spec is returned."""
    spec = spec_of()
    assert CopyIdentity().given_to(spec) is spec


def test_a_cgroup_of_its_own() -> None:
    """Its name begins as the saved one's, in the same parent; a spec without one gets none."""
    identity = CopyIdentity(cgroup="job-1")

    assert identity.given_to(spec_of(cgroupsPath="/pod/job")).cgroups_path == "/pod/job-job-1"
    assert identity.given_to(spec_of(cgroupsPath="s:cri:a")).cgroups_path == "s:cri:a-job-1"
    assert identity.given_to(spec_of()).cgroups_path == ""


def test_the_network_of_the_host_stays() -> None:
    """A container without a network namespace cannot get one: runsc compares the kinds."""
    spec = spec_of(namespaces=[{"type": "pid"}])
    with pytest.raises(InvalidArgument, match="network of the host"):
        CopyIdentity(netns="/m").given_to(spec)


def test_an_environment_needs_a_reader() -> None:
    """Without io.cryo.instance it is refused, but for the other containers of a pod."""
    identity = CopyIdentity(env=("B=3",))
    with pytest.raises(InvalidArgument) as caught:
        identity.given_to(spec_of())
    assert "io.cryo.instance=true" in caught.value.remedy
    assert identity.given_to(spec_of(POD)).env == ("A=1", "B=2")
    assert identity.given_to(spec_of(POD | INSTANCE)).env == ("A=1", "B=3")


@pytest.mark.parametrize(
    "values",
    (
        {"hostname": "a b"},
        {"hostname": "-a"},
        {"hostname": "a" * 65},
        {"netns": "netns"},
        {"env": ("secret",)},
        {"env": ("A=1", "=secret")},
        {"env": ("A=sec\0ret",)},
    ),
)
def test_wrong_values(values: dict[str, Any]) -> None:
    """They are refused, without the environment in the message."""
    with pytest.raises(InvalidArgument) as caught:
        CopyIdentity(**values)
    assert "sec" not in caught.value.message


def test_long_values() -> None:
    """A hostname of 64 characters, and values of several lines, are right."""
    CopyIdentity(hostname="a" * 64, env=("A=1\n2", "B=x=y"))
