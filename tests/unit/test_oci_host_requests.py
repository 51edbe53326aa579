"""What of the host a spec of somebody else requests, and that nothing escapes the list."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from shim.errors import InvalidBundle
from shim.oci import document, host_requests
from shim.oci.document import Spec

NETWORK = {"namespaces": [{"type": "network"}, {"type": "pid"}]}
# As the defaults of containerd's and runc's specs.
HARMLESS: dict[str, Any] = {
    "ociVersion": "1.1.0",
    "hostname": "h",
    "process": {
        "args": ["/bin/sh"],
        "cwd": "/",
        "env": ["PATH=/bin", "NVIDIA_VISIBLE_DEVICES=void"],
        "user": {"uid": 0, "gid": 0},
        "capabilities": {"bounding": ["CAP_SYS_ADMIN"]},
        "noNewPrivileges": True,
        "oomScoreAdj": 0,
    },
    "root": {"path": "rootfs", "readonly": True},
    "annotations": {"io.kubernetes.cri.container-type": "sandbox", "a": "b"},
    "mounts": [
        {"destination": "/proc", "type": "proc", "source": "proc"},
        {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid"]},
        {"destination": "/dev/pts", "type": "devpts", "source": "devpts"},
        {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue"},
        {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["ro"]},
        {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup"},
    ],
    "linux": {
        **NETWORK,
        "maskedPaths": ["/proc/kcore"],
        "seccomp": {"defaultAction": "SCMP_ACT_ALLOW"},
        "resources": {"memory": {"limit": 1 << 30}},
        "sysctl": {"net.ipv4.ip_forward": "1"},
    },
}
ROOT_LINK = {"type": "bind", "source": "/", "destination": "/x"}


def spec(**more: Any) -> Spec:
    """Make a spec of a bundle /b."""
    return document.parse({**HARMLESS, **more}, Path("/b"))


def linux(**more: Any) -> dict[str, Any]:
    """Make a spec's `linux` with more fields."""
    return {"linux": {**HARMLESS["linux"], **more}}


def process(**more: Any) -> dict[str, Any]:
    """Make a spec's `process` with more fields."""
    return {"process": {**HARMLESS["process"], **more}}


def test_a_spec_of_the_sandboxs_own_things_requests_nothing() -> None:
    """Its proc, sysfs and tmpfs, capabilities, a seccomp filter and limits without a cgroup."""
    assert host_requests.of(spec()) == ()


@pytest.mark.parametrize(
    ("more", "expected"),
    (
        ({"mounts": [ROOT_LINK]}, "bind mount of / at /x"),
        ({"mounts": [{**ROOT_LINK, "type": "", "options": ["rbind"]}]}, "bind mount of / at /x"),
        ({"mounts": [{**ROOT_LINK, "type": "tmpfs", "options": ["bind"]}]}, "bind mount of /"),
        ({"mounts": [{**ROOT_LINK, "type": "ext4"}]}, "mount of type 'ext4' at /x"),
        ({"mounts": [{**ROOT_LINK, "type": ""}]}, "mount of type '' at /x"),
        ({"mounts": [{**ROOT_LINK, "type": "BIND"}]}, "mount of type 'BIND' at /x"),
        ({"hooks": {"prestart": [{"path": "/bin/sh"}]}}, "hook prestart /bin/sh"),
        (linux(devices=[{"path": "/dev/kmsg", "type": "c"}]), "device /dev/kmsg"),
        (linux(namespaces=[{"type": "network", "path": "/n"}]), "namespace /n"),
        (linux(namespaces=[{"type": "pid"}]), "network of the host"),
        (linux(cgroupsPath="/x"), "cgroup /x"),
        (linux(netDevices={"eth0": {"name": "e"}}), "field linux.netDevices"),
        (linux(intelRdt={"closID": "x"}), "field linux.intelRdt"),
        ({"vm": {"kernel": {"path": "/k"}}}, "field vm"),
        ({"other": 1}, "field other"),
        ({"annotations": {"cdi.k8s.io/x": "acme.io/claim=b"}}, "CDI devices acme.io/claim=b"),
        ({"annotations": {"dev.gvisor.flag.network": "host"}}, "annotation dev.gvisor.flag"),
        ({"annotations": {"dev.gvisor.spec.rootfs.source": "/"}}, "annotation dev.gvisor.spec"),
        ({"annotations": {"io.kubernetes.cri-o.SandboxID": "x"}}, "annotation io.kubernetes.cri-o"),
        ({"annotations": {"io.cryo.instance": "true"}}, "annotation io.cryo.instance=true"),
        (process(env=["NVIDIA_VISIBLE_DEVICES=all"]), "GPUs NVIDIA_VISIBLE_DEVICES=all"),
        (
            process(env=["NVIDIA_VISIBLE_DEVICES=void", "NVIDIA_VISIBLE_DEVICES=acme.io/x=y"]),
            "GPUs NVIDIA_VISIBLE_DEVICES=acme.io/x=y",
        ),
        (process(oomScoreAdj=-999), "process.oomScoreAdj -999"),
    ),
)
def test_each_request_is_named(more: dict[str, Any], expected: str) -> None:
    """One line that begins with what it is."""
    (found,) = host_requests.of(spec(**more))

    assert found.startswith(expected)


def test_all_requests_are_listed_at_once() -> None:
    """A user decides about all of them, and not one after the other."""
    found = host_requests.of(
        spec(mounts=[ROOT_LINK], hooks={"prestart": [{"path": "/h"}]}, linux={})
    )

    assert found == ("hook prestart /h", "bind mount of / at /x", "network of the host")


@pytest.mark.parametrize(
    ("more", "name"),
    (
        ({"Hooks": {"prestart": [{"path": "/bin/sh"}]}}, "Hooks"),
        ({"hook\u017f": {"prestart": [{"path": "/bin/sh"}]}}, "hook\u017f"),
        ({"MOUNTS": [ROOT_LINK]}, "MOUNTS"),
        ({"root": {"path": "rootfs", "Path": "/"}}, "Path"),
        ({"mounts": [{**ROOT_LINK, "type": "tmpfs", "Options": ["bind"]}]}, "Options"),
        (linux(Devices=[{"path": "/dev/kmsg", "type": "c"}]), "Devices"),
        (linux(namespaces=[{"type": "network", "PATH": "/n"}]), "PATH"),
        (process(oomscoreadj=-999), "oomscoreadj"),
    ),
)
def test_a_name_in_another_case_is_no_way_around(more: dict[str, Any], name: str) -> None:
    """To Go, and so to runsc, such a name is that of the field: the spec is refused."""
    with pytest.raises(InvalidBundle, match=f"has {name!r}, which runsc takes for"):
        spec(**more)


def test_keys_that_are_no_field_names_are_free() -> None:
    """Annotations and sysctls may be called like a field in another case."""
    spec(annotations={"Type": "x", "HOOKS": "y"}, **linux(sysctl={"Path": "z"}))
