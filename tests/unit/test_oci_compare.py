"""Each field that runsc's restore validation compares is compared, and nothing that it exempts."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from shim.errors import InvalidArgument
from shim.oci import difference, document
from shim.oci.compare import check_same, conflicts, differences
from shim.oci.document import Spec
from shim.oci.restorable import fitted, restorable

Edit = Callable[[dict[str, Any]], Any]


def _mapping() -> dict[str, int]:
    return {"containerID": 0, "hostID": 1000, "size": 10}


def base() -> dict[str, Any]:
    """Give a spec that has something in every compared field."""
    return {
        "ociVersion": "1.1.0",
        "hostname": "a",
        "root": {"path": "/r", "readonly": True},
        "process": {
            "terminal": False,
            "cwd": "/",
            "user": {"uid": 1, "gid": 2, "additionalGids": [3, 4]},
            "args": ["/bin/sh", "-c", "true"],
            "env": ["A=1"],
            "rlimits": [
                {"type": "RLIMIT_NOFILE", "hard": 2, "soft": 1},
                {"type": "RLIMIT_CORE", "hard": 0, "soft": 0},
            ],
            "capabilities": {"bounding": ["CAP_KILL", "CAP_CHOWN"], "effective": ["CAP_KILL"]},
            "noNewPrivileges": True,
            "oomScoreAdj": 5,
            "consoleSize": {"height": 40, "width": 100},
        },
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {
                "destination": "/v",
                "type": "bind",
                "source": "/host/v",
                "options": ["rbind", "ro"],
                "uidMappings": [_mapping()],
            },
        ],
        "annotations": {
            "dev.gvisor.spec.mount.v.share": "pod",
            "dev.gvisor.spec.mount.v.source": "/host/v",
            "dev.gvisor.flag.strace": "true",
            "dev.gvisor.internal.x": "y",
            "io.kubernetes.cri.sandbox-id": "s",
        },
        "linux": {
            "namespaces": [{"type": "pid"}, {"type": "network", "path": "/run/netns/a"}],
            "sysctl": {"net.x": "1"},
            "seccomp": {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["a"]}]},
            "devices": [
                {"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229},
                {"path": "/dev/nvidia0", "type": "c", "major": 195, "minor": 0},
            ],
            "uidMappings": [_mapping()],
            "gidMappings": [_mapping()],
            "maskedPaths": ["/proc/a"],
            "resources": {"memory": {"limit": 1}},
            "cgroupsPath": "/a",
            "rootfsPropagation": "private",
        },
    }


def spec(edit: Edit = lambda _: None) -> Spec:
    """Give the base with a change."""
    data = copy.deepcopy(base())
    edit(data)
    return document.parse(data, Path("/b"))


CHANGED: dict[str, Edit] = {
    "ociVersion": lambda s: s.update(ociVersion="1.2.0"),
    "root.readonly": lambda s: s["root"].update(readonly=False),
    "process.terminal": lambda s: s["process"].update(terminal=True),
    "process.cwd": lambda s: s["process"].update(cwd="/x"),
    "process.user": lambda s: s["process"]["user"].update(additionalGids=[4, 3]),
    "process.rlimits": lambda s: s["process"]["rlimits"][0].update(soft=2),
    "process.args": lambda s: s["process"]["args"].append("x"),
    "process.capabilities.bounding": lambda s: s["process"]["capabilities"]["bounding"].pop(),
    "process.capabilities.effective": lambda s: s["process"]["capabilities"].pop("effective"),
    "process.capabilities.inheritable": lambda s: s["process"]["capabilities"].update(
        inheritable=["CAP_KILL"]
    ),
    "process.capabilities.permitted": lambda s: s["process"]["capabilities"].update(
        permitted=["CAP_KILL"]
    ),
    "process.capabilities.ambient": lambda s: s["process"]["capabilities"].update(
        ambient=["CAP_KILL"]
    ),
    "process.capabilities": lambda s: s["process"].pop("capabilities"),
    "process.noNewPrivileges": lambda s: s["process"].pop("noNewPrivileges"),
    "process.oomScoreAdj": lambda s: s["process"].update(oomScoreAdj=0),
    "process.consoleSize": lambda s: s["process"]["consoleSize"].update(width=80),
    "process.apparmorProfile": lambda s: s["process"].update(apparmorProfile="x"),
    "process.scheduler": lambda s: s["process"].update(scheduler={"policy": "SCHED_OTHER"}),
    "mounts /v": lambda s: s["mounts"][1].update(options=["rbind", "rw"]),
    "mounts /proc": lambda s: s["mounts"][0].update(type="sysfs"),
    "mounts /new": lambda s: s["mounts"].append({"destination": "/new", "type": "tmpfs"}),
    "annotations dev.gvisor.spec.mount.v.share": lambda s: s["annotations"].update(
        {"dev.gvisor.spec.mount.v.share": "container"}
    ),
    "annotations io.kubernetes.cri.container-name": lambda s: s["annotations"].update(
        {"io.kubernetes.cri.container-name": "other"}
    ),
    "annotations dev.gvisor.flag.host-uds": lambda s: s["annotations"].update(
        {"dev.gvisor.flag.host-uds": "all"}
    ),
    "linux.namespaces": lambda s: s["linux"]["namespaces"].pop(),
    "linux.sysctl": lambda s: s["linux"]["sysctl"].update({"net.x": "2"}),
    "linux.seccomp": lambda s: s["linux"]["seccomp"]["syscalls"][0].update(names=["b"]),
    "linux.devices": lambda s: s["linux"]["devices"][0].update(path="/dev/other"),
    "linux.uidMappings": lambda s: s["linux"]["uidMappings"][0].update(hostID=1),
    "linux.gidMappings": lambda s: s["linux"].pop("gidMappings"),
    "mounts /v mapped": lambda s: s["mounts"][1]["uidMappings"][0].update(hostID=1),
    "linux.maskedPaths": lambda s: s["linux"]["maskedPaths"].append("/proc/b"),
    "linux.rootfsPropagation": lambda s: s["linux"].update(rootfsPropagation="slave"),
    "linux.personality": lambda s: s["linux"].update(personality={"domain": "LINUX"}),
    "vm": lambda s: s.update(vm={"kernel": {"path": "/k"}}),
}


@pytest.mark.parametrize("field", CHANGED)
def test_a_changed_field_is_named_alone(field: str) -> None:
    """One changed field gives one difference in either direction, with both values."""
    changed = spec(CHANGED[field])
    gone = {"process.capabilities": 3}.get(field, 1)  # the two sets that were there are gone too

    for saved, given in ((spec(), changed), (changed, spec())):
        found = differences(saved, given)
        assert field.removesuffix(" mapped") in {one.field for one in found}
        assert len(found) == gone
        assert all(one.detail for one in found)


FREE: dict[str, Edit] = {
    "environment": lambda s: s["process"]["env"].append("B=2"),
    "host name": lambda s: s.update(hostname="b", domainname="c"),
    "root path": lambda s: s["root"].update(path="/other"),
    "mount source": lambda s: s["mounts"][1].update(source="/elsewhere"),
    "order of mounts": lambda s: s["mounts"].reverse(),
    "order of mount options": lambda s: s["mounts"][1]["options"].reverse(),
    "mount named twice alike": lambda s: s["mounts"].append(dict(s["mounts"][1])),
    "order of rlimits": lambda s: s["process"]["rlimits"].reverse(),
    "order of capabilities": lambda s: s["process"]["capabilities"]["bounding"].reverse(),
    "namespace path": lambda s: s["linux"]["namespaces"][1].pop("path"),
    "cgroup": lambda s: s["linux"].update(cgroupsPath="/b"),
    "resources": lambda s: s["linux"].update(resources={}),
    "hooks": lambda s: s.update(hooks={"prestart": [{"path": "/h"}]}),
    "program resolved": lambda s: s["process"]["args"].__setitem__(0, "/usr/bin/sh"),
    "another GPU": lambda s: s["linux"]["devices"][1].update(path="/dev/nvidia1", minor=1),
    "one GPU more": lambda s: s["linux"]["devices"].append(
        {"path": "/dev/nvidia1", "type": "c", "major": 195, "minor": 1}
    ),
    "device numbers": lambda s: s["linux"]["devices"][0].update(minor=1),
    "internal annotation": lambda s: s["annotations"].update({"dev.gvisor.internal.x": "z"}),
    "hint's source": lambda s: s["annotations"].update({"dev.gvisor.spec.mount.v.source": "/w"}),
    "debug flag": lambda s: s["annotations"].pop("dev.gvisor.flag.strace"),
    "others' annotation": lambda s: s["annotations"].update({"io.kubernetes.x": "y"}),
    "absent as null": lambda s: s["process"].update(scheduler=None, apparmorProfile=""),
    "unknown field": lambda s: s["process"].update(notInTheSpec=1),
}


@pytest.mark.parametrize("name", FREE)
def test_what_may_differ_is_not_compared(name: str) -> None:
    """Whatever runsc exempts passes, in either direction."""
    assert differences(spec(), spec(FREE[name])) == ()
    assert differences(spec(FREE[name]), spec()) == ()


def test_a_seccomp_filter_that_runsc_drops_is_not_compared() -> None:
    """With containerd's annotation for the runtime's default filter, the filter may differ."""
    named = {
        "io.kubernetes.cri.container-name": "c",
        "dev.gvisor.internal.seccomp.c": "RuntimeDefault",
    }
    saved = spec(lambda s: s["annotations"].update(named))
    given = spec(lambda s: (s["annotations"].update(named), s["linux"].pop("seccomp")))

    assert differences(saved, given) == ()


@pytest.mark.parametrize("odd", (5, "CAP_KILL", {"a": 1}, None))
def test_capabilities_that_are_no_list_are_a_difference_or_nothing(odd: Any) -> None:
    """What is no list of names has no names; runsc refuses such a spec in its own words."""

    def edit(data: dict[str, Any]) -> None:
        data["process"]["capabilities"]["effective"] = odd

    [found] = differences(spec(), spec(edit))

    assert found.field == "process.capabilities.effective"
    assert found.detail == "lacks CAP_KILL"


def test_all_differences_are_named_at_once() -> None:
    """One error has every field, how it differs, and the remedy that its caller chose."""

    def edit(data: dict[str, Any]) -> None:
        data["process"]["rlimits"][0]["soft"] = 7
        data["process"]["capabilities"]["bounding"] = ["CAP_CHOWN", "CAP_SYS_ADMIN"]
        data["mounts"][1]["options"] = ["rbind", "rw"]

    with pytest.raises(InvalidArgument) as caught:
        check_same(spec(), spec(edit), remedy="do this")

    assert caught.value.remedy == "do this"
    for part in (
        "process.rlimits (lacks RLIMIT_NOFILE soft 1 hard 2, adds RLIMIT_NOFILE soft 7 hard 2)",
        "process.capabilities.bounding (lacks CAP_KILL, adds CAP_SYS_ADMIN)",
        "mounts /v (options: lacks ro, adds rw)",
    ):
        assert part in caught.value.message


def test_the_line_is_bounded_and_printable() -> None:
    """However much differs, and whatever stands in the spec, it is one line of bounded length."""

    def edit(data: dict[str, Any]) -> None:
        data["process"]["args"] = ["x" * 100_000, "\x1b[31m\n"]
        data["mounts"] += [{"destination": f"/m{n}", "type": "tmpfs"} for n in range(500)]

    with pytest.raises(InvalidArgument) as caught:
        check_same(spec(), spec(edit), remedy="")

    assert len(caught.value.message) < 3000
    assert caught.value.message.isprintable()
    assert "more" in caught.value.message


def test_a_late_difference_is_shown() -> None:
    """Of two long values that begin alike, the parts that differ are in the line."""
    saved, given = ({"args": ["sh", "-c", "x" * 500 + end]} for end in ("; one", "; two"))

    [found] = difference.changes(saved, given)

    assert found.detail == f"lacks ...{'x' * 18}; one, adds ...{'x' * 18}; two"


def test_a_spec_that_no_runsc_would_restore() -> None:
    """What runsc refuses even of an unchanged spec is found without another one."""
    twice = spec(lambda s: s["mounts"].append({**s["mounts"][1], "options": ["rbind"]}))
    dup = spec(lambda s: s["process"]["capabilities"]["bounding"].append("CAP_KILL"))

    assert conflicts(spec()) == ()
    assert [one.field for one in conflicts(twice)] == ["mounts /v"]
    assert [str(one) for one in conflicts(dup)] == [
        "process.capabilities.bounding (names CAP_KILL twice)"
    ]


MEANINGLESS: dict[str, Edit] = {
    "no groups": lambda s: s["process"]["user"].update(additionalGids=[]),
    "no masked paths": lambda s: s["linux"].update(maskedPaths=[], timeOffsets={}),
    "no arguments": lambda s: s["linux"]["seccomp"]["syscalls"][0].update(args=[]),
    "a capability twice": lambda s: s["process"]["capabilities"]["bounding"].append("CAP_KILL"),
    "a limit twice": lambda s: s["process"]["rlimits"].append(dict(s["process"]["rlimits"][0])),
}


@pytest.mark.parametrize("name", MEANINGLESS)
def test_what_means_nothing_is_left_out(name: str) -> None:
    """Empty lists and repeated entries go, for runsc would refuse the image made with them."""
    made = restorable(spec(MEANINGLESS[name]))

    assert conflicts(made) == ()
    assert "[]" not in str(made.data)
    assert "timeOffsets" not in made.data["linux"]
    assert restorable(made) is made


def test_a_spec_in_order_is_left_alone() -> None:
    """Without anything to leave out the spec is the same object."""
    plain = spec()

    assert restorable(plain) is plain
    assert fitted(plain, plain) is plain


def test_a_newer_client_s_oci_version_is_no_difference() -> None:
    """The container is made with the saved version of the OCI spec, which changes nothing else."""
    newer = spec(CHANGED["ociVersion"])

    assert differences(spec(), fitted(newer, spec())) == ()


def test_what_a_node_sets_for_each_pod_is_taken_from_the_image() -> None:
    """SELinux labels and the OOM score differ between pods of one template; runsc compares them."""

    def of(label: str, score: int) -> Edit:
        own = {"selinuxLabel": label, "oomScoreAdj": score}
        return lambda s: (s["process"].update(own), s["linux"].update(mountLabel=label))

    saved, other = spec(of("c1", 7)), spec(of("c2", 900))
    plain = spec()

    for given in (other, plain):
        assert differences(saved, given)
        assert differences(saved, fitted(given, saved)) == ()
        assert differences(given, fitted(saved, given)) == ()
