"""Additions to a spec."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from shim.oci import document
from shim.oci.document import Spec
from shim.oci.edits import BindMount, DeviceNode, Edits, apply

NODE = DeviceNode(path="/dev/nvidia0", type="c", major=195, minor=0, file_mode=438, uid=0)
MOUNT = BindMount(destination="/usr/lib/libcuda.so.1", source="/lib/libcuda.so.580")


def spec(**more: Any) -> Spec:
    """Make a spec with some parts."""
    data = {"ociVersion": "1.1.0", "root": {"path": "r"}, "process": {"args": ["x"]}, **more}
    return document.parse(data, Path("/b"))


def test_everything_is_added() -> None:
    """Nodes with their cgroup rule, mounts, variables and groups."""
    edits = Edits(devices=(NODE,), mounts=(MOUNT,), env=("A=1",), gids=(44,))

    data = apply(spec(), edits).data

    assert data["linux"]["devices"] == [
        {"path": "/dev/nvidia0", "type": "c", "major": 195, "minor": 0, "fileMode": 438, "uid": 0}
    ]
    assert data["linux"]["resources"]["devices"] == [
        {"allow": True, "type": "c", "major": 195, "minor": 0, "access": "rwm"}
    ]
    assert data["mounts"] == [
        {
            "destination": "/usr/lib/libcuda.so.1",
            "type": "bind",
            "source": "/lib/libcuda.so.580",
            "options": ["rbind", "ro", "nosuid", "nodev"],
        }
    ]
    assert data["process"]["env"] == ["A=1"]
    assert data["process"]["user"] == {"additionalGids": [44]}


def test_the_spec_itself_is_not_touched() -> None:
    """Edits are made on a copy."""
    before = spec(mounts=None, linux=None)
    kept = copy.deepcopy(before.data)

    apply(before, Edits(devices=(NODE,), mounts=(MOUNT,), env=("A=1",)))

    assert before.data == kept


def test_nothing_to_add_gives_the_same_spec() -> None:
    """An empty edit is distinguished from one that changes something."""
    before = spec()

    assert apply(before, Edits()) is before


def test_what_is_there_is_replaced_where_it_stands() -> None:
    """The order of mounts, devices and variables never changes: runsc compares it at a restore."""
    before = spec(
        mounts=[{"destination": MOUNT.destination, "source": "old"}, {"destination": "/last"}],
        process={"args": ["x"], "env": ["A=0", "B=0"]},
    )

    after = apply(before, Edits(mounts=(MOUNT,), env=("A=1",)))

    assert [mount.destination for mount in after.mounts] == [MOUNT.destination, "/last"]
    assert after.mounts[0].source == MOUNT.source
    assert after.env == ("A=1", "B=0")


def test_a_prefix_is_no_name() -> None:
    """Setting A leaves AB alone."""
    before = spec(process={"args": ["x"], "env": ["AB=0"]})

    assert apply(before, Edits(env=("A=1",))).env == ("AB=0", "A=1")


WORDS = st.sampled_from(("a", "b", "c"))
EDITS = st.builds(
    Edits,
    devices=st.lists(
        st.builds(
            DeviceNode,
            path=WORDS,
            type=st.just("c"),
            major=st.integers(0, 2),
            minor=st.integers(0, 2),
        ),
        max_size=3,
    ).map(tuple),
    mounts=st.lists(st.builds(BindMount, destination=WORDS, source=WORDS), max_size=3).map(tuple),
    env=st.lists(st.builds("{}={}".format, WORDS, WORDS), max_size=3).map(tuple),
    gids=st.lists(st.integers(1, 3), max_size=3).map(tuple),
)


@given(EDITS)
def test_twice_is_once(edits: Edits) -> None:
    """Preparing a prepared spec changes nothing, whatever the edits."""
    once = apply(spec(), edits)

    assert apply(once, edits).data == once.data


def test_edits_add_up() -> None:
    """The sum has the parts of both, in order."""
    total = Edits(env=("A=1",), hooks=("h",)) + Edits(env=("B=1",), gids=(1,))

    assert total == Edits(env=("A=1", "B=1"), gids=(1,), hooks=("h",))
