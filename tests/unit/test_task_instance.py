"""The mounts of io.cryo.instance, and the files behind them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from shim.errors import InvalidArgument
from shim.oci import document
from shim.oci.document import Spec
from shim.oci.pod import CONTAINER_TYPE
from shim.task.instance import Instance, with_instance


def spec(
    annotations: dict[str, str] | None = None, mounts: list[dict[str, Any]] | None = None
) -> Spec:
    """Make the spec of a container that wants to know what it is."""
    data = {
        "ociVersion": "1.1.0",
        "process": {
            "args": ["x"],
            "env": ["HOSTNAME=pod-1", "TOKEN=a=b"],
            "user": {"uid": os.geteuid()},
        },
        "root": {"path": "rootfs"},
        "mounts": mounts or [{"destination": "/proc", "type": "proc"}],
        "annotations": {"io.cryo.instance": "true"} if annotations is None else annotations,
    }
    return document.parse(data, Path("/b"))


def test_the_mounts(tmp_path: Path) -> None:
    """One in memory for requests, and one of the host that is read-only."""
    mounts = with_instance(spec(), tmp_path).mounts
    assert [(mount.destination, mount.type, mount.source) for mount in mounts[1:]] == [
        ("/run/cryo", "tmpfs", "tmpfs"),
        ("/run/cryo/instance", "bind", str(tmp_path / "instance")),
    ]
    assert "ro" in (mounts[2].options or ())


def test_a_container_that_asks_for_its_checkpoint(tmp_path: Path) -> None:
    """It has the mounts as well: it asks by a file in them."""
    asks = spec({"io.cryo.warm": "llama", "io.cryo.warm-when": "self"})
    assert with_instance(asks, tmp_path).mounts == with_instance(spec(), tmp_path).mounts


@pytest.mark.parametrize(
    "annotations",
    (
        {},
        {"io.cryo.instance": "false"},
        {"io.cryo.instance": "true", CONTAINER_TYPE: "sandbox"},
    ),
)
def test_no_mounts(tmp_path: Path, annotations: dict[str, str]) -> None:
    """Without the annotation, and for the sandbox of a pod, the spec is unchanged."""
    plain = spec(annotations)
    assert with_instance(plain, tmp_path) is plain


def test_the_spec_of_an_image(tmp_path: Path) -> None:
    """Its mounts stay where they are; the files are those of the new container."""
    saved = with_instance(spec(), tmp_path / "old")
    again = with_instance(saved, tmp_path / "new")
    assert len(again.mounts) == len(saved.mounts)
    assert again.mounts[2].source == str(tmp_path / "new" / "instance")


@pytest.mark.parametrize("destination", ("/run/cryo", "/run/cryo/instance", "/run/cryo/x"))
def test_mounts_of_others(tmp_path: Path, destination: str) -> None:
    """A spec that has other mounts there is refused."""
    other = {"destination": destination, "type": "bind", "source": "/srv", "options": ["bind"]}
    with pytest.raises(InvalidArgument, match="/run/cryo"):
        with_instance(spec(mounts=[other]), tmp_path)


def test_what_a_container_reads(tmp_path: Path) -> None:
    """The environment and the random bytes are for its user alone; each start has its own."""
    ready, instance = with_instance(spec(), tmp_path), Instance(tmp_path)

    found = []
    for restored in (False, True):
        instance.write(ready, restored=restored)
        folder = tmp_path / "instance"
        found.append({path.name: path.read_bytes() for path in folder.iterdir()})

    assert found[0]["environ"] == b"HOSTNAME=pod-1\0TOKEN=a=b\0"
    assert [each["result"] for each in found] == [b"", b"restore\n"]
    assert [len(each["random"]) for each in found] == [32, 32]
    assert found[0]["random"] != found[1]["random"]
    assert found[0]["id"] != found[1]["id"]
    modes = {path.name: oct(path.stat().st_mode & 0o777) for path in folder.iterdir()}
    assert modes == {"id": "0o444", "result": "0o444", "environ": "0o400", "random": "0o400"}


def test_the_result_of_a_checkpoint(tmp_path: Path) -> None:
    """It is one line, escaped and cut; a container without the mounts has none."""
    instance = Instance(tmp_path)
    instance.write(spec({}), restored=False)
    instance.set_result("resume")
    assert list(tmp_path.iterdir()) == []

    instance.write(with_instance(spec(), tmp_path), restored=False)
    path = tmp_path / "instance" / "result"
    for text, line in (
        ("resume", b"resume\n"),
        ("", b""),
        ("error a\nb\x1b", b"error a b\\x1b\n"),
    ):
        instance.set_result(text)
        assert path.read_bytes() == line
    instance.set_result("x" * 1000)
    assert len(path.read_bytes()) < 600
