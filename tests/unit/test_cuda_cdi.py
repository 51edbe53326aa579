"""CDI files."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shim.cuda import cdi
from shim.cuda.cdi import NodeNumbers
from shim.errors import InvalidArgument
from shim.oci.edits import BindMount

YAML = """
cdiVersion: 0.5.0
kind: nvidia.com/gpu
devices:
- name: 0
  containerEdits:
    deviceNodes:
    - path: /dev/nvidia0
    - {path: /dev/dri/card1, fileMode: 0660, gid: 44, permissions: rw}
- name: all
  containerEdits:
    deviceNodes:
    - path: /dev/nvidia0
    - path: /dev/nvidia1
containerEdits:
  env: [NVIDIA_VISIBLE_DEVICES=void]
  additionalGids: [0, 44]
  deviceNodes:
  - path: /dev/nvidiactl
    hostPath: /dev/host-nvidiactl
  hooks:
  - hookName: createContainer
    path: /usr/bin/nvidia-cdi-hook
    args: [nvidia-cdi-hook, update-ldcache, --folder, /usr/lib64]
  mounts:
  - hostPath: /usr/lib/libcuda.so.580.65.06
    containerPath: /usr/lib/libcuda.so.580.65.06
    options: [ro, nosuid, nodev, rbind, rprivate]
  - hostPath: /run/x
    containerPath: /run/y
"""
HAVE = {
    "/dev/nvidia0": NodeNumbers(type="c", major=195, minor=0),
    "/dev/nvidia1": NodeNumbers(type="c", major=195, minor=1),
    "/dev/host-nvidiactl": NodeNumbers(type="c", major=195, minor=255),
    "/dev/dri/card1": NodeNumbers(type="c", major=226, minor=1),
}

NONE: dict[str, NodeNumbers] = {}


def put(folder: Path, name: str, content: Any) -> Path:
    """Write one CDI file."""
    folder.mkdir(exist_ok=True)
    text = content if isinstance(content, str) else json.dumps(content)
    (folder / name).write_text(text, "utf-8")
    return folder


def spec(device: str, *env: str, kind: str = "nvidia.com/gpu") -> dict[str, Any]:
    """Make a small CDI file with one device."""
    return {
        "cdiVersion": "0.6.0",
        "kind": kind,
        "devices": [{"name": device, "containerEdits": {"env": list(env)}}],
    }


def test_a_generated_file_is_understood(tmp_path: Path) -> None:
    """A file as nvidia-ctk writes it gives nodes, mounts, variables, groups and hook names."""
    put(tmp_path, "nvidia.yaml", YAML)
    registry = cdi.read([str(tmp_path)], HAVE.get)

    edits = registry.edits(["nvidia.com/gpu=0"])

    assert registry.names("nvidia.com/gpu") == ("0", "all")
    assert [(d.path, d.minor) for d in edits.devices] == [
        ("/dev/nvidiactl", 255),
        ("/dev/nvidia0", 0),
        ("/dev/dri/card1", 1),
    ]
    assert edits.devices[2].file_mode == 0o660
    assert edits.devices[2].gid == 44
    assert edits.devices[2].permissions == "rw"
    assert edits.env == ("NVIDIA_VISIBLE_DEVICES=void",)
    assert edits.gids == (44,)
    assert edits.hooks == ("createContainer: nvidia-cdi-hook update-ldcache",)
    assert edits.mounts == (
        BindMount(
            destination="/usr/lib/libcuda.so.580.65.06",
            source="/usr/lib/libcuda.so.580.65.06",
            options=("ro", "nosuid", "nodev", "rbind", "rprivate"),
        ),
        BindMount(destination="/run/y", source="/run/x"),
    )


def test_what_is_common_is_taken_once(tmp_path: Path) -> None:
    """Two devices of one file share its common edits."""
    put(tmp_path, "nvidia.yaml", YAML)
    registry = cdi.read([str(tmp_path)], HAVE.get)

    edits = registry.edits(["nvidia.com/gpu=0", "nvidia.com/gpu=all"])

    assert [d.path for d in edits.devices].count("/dev/nvidiactl") == 1
    assert [d.path for d in edits.devices].count("/dev/nvidia1") == 1


def test_the_later_folder_wins(tmp_path: Path) -> None:
    """What was generated at boot overrules what the administrator's file says."""
    first = put(tmp_path / "a", "x.json", spec("0", "FROM=a"))
    second = put(tmp_path / "b", "y.json", spec("0", "FROM=b"))

    registry = cdi.read([str(first), str(second), str(tmp_path / "none")])

    assert registry.edits(["nvidia.com/gpu=0"]).env == ("FROM=b",)
    assert registry.problems == ()


def test_one_name_twice_in_a_folder_is_a_problem(tmp_path: Path) -> None:
    """The first stays, and the second is reported when it is looked up."""
    put(tmp_path, "a.json", spec("0", "FROM=a"))
    put(tmp_path, "b.json", spec("0", "FROM=b"))

    registry = cdi.read([str(tmp_path)])

    assert registry.edits(["nvidia.com/gpu=0"]).env == ("FROM=a",)
    assert "already does" in registry.problems[0]


def test_an_unknown_device_is_refused_with_what_there_is(tmp_path: Path) -> None:
    """The message helps: the names that exist, and the files that could not be read."""
    put(tmp_path, "a.json", spec("0"))
    put(tmp_path, "b.json", "{")

    with pytest.raises(InvalidArgument, match=r"nvidia\.com/gpu=0.*b\.json") as caught:
        cdi.read([str(tmp_path)]).edits(["nvidia.com/gpu=1"])

    assert "nvidia-ctk" in caught.value.remedy


def test_no_file_at_all(tmp_path: Path) -> None:
    """Without CDI files every name is unknown."""
    with pytest.raises(InvalidArgument, match="known devices: none"):
        cdi.read([str(tmp_path)]).edits(["nvidia.com/gpu=0"])


@pytest.mark.parametrize("name", ("", "0", "gpu=0", "nvidia.com/gpu", "nvidia.com/gpu=", "a/b=é"))
def test_a_malformed_name_is_refused(tmp_path: Path, name: str) -> None:
    """A name has a vendor, a class and a device."""
    with pytest.raises(InvalidArgument, match="vendor/class=name"):
        cdi.read([str(tmp_path)]).edits([name])


def test_a_node_that_is_not_there_is_refused(tmp_path: Path) -> None:
    """A CDI file from before a GPU was taken out is outdated."""
    put(tmp_path, "nvidia.yaml", YAML)

    with pytest.raises(InvalidArgument, match="/dev/host-nvidiactl"):
        cdi.read([str(tmp_path)], NONE.get).edits(["nvidia.com/gpu=0"])


def test_numbers_in_the_file_need_no_node(tmp_path: Path) -> None:
    """Where the file says what the node is, the host is not asked."""
    content = spec("0")
    node = {"path": "/dev/nvidia9", "type": "c", "major": 195, "minor": 9}
    content["devices"][0]["containerEdits"]["deviceNodes"] = [node]
    put(tmp_path, "a.json", content)

    (device,) = cdi.read([str(tmp_path)], NONE.get).edits(["nvidia.com/gpu=0"]).devices

    assert (device.major, device.minor) == (195, 9)


@pytest.mark.parametrize(
    ("name", "text"),
    (
        ("x.json", ""),
        ("x.json", "[]"),
        ("x.json", '{"kind": 3}'),
        ("x.json", '{"kind": "a/b", "devices": {}}'),
        ("x.json", "[" * 100_000),
        ("x.yaml", "a: ["),
        ("x.yaml", "- 1"),
        ("x.yml", "!!python/object/apply:os.system ['true']"),
        ("x.yaml", "? {a: 1}\n: 2"),
        ("x.yaml", "1: 2"),
    ),
)
def test_a_broken_file_is_a_problem_not_a_failure(tmp_path: Path, name: str, text: str) -> None:
    """Another vendor's broken file does not stop a container that does not need it."""
    put(tmp_path, name, text)
    put(tmp_path, "good.json", spec("0"))

    registry = cdi.read([str(tmp_path)])

    assert registry.names("nvidia.com/gpu") == ("0",)
    assert [problem for problem in registry.problems if name in problem]


def test_odd_files_are_passed_over_or_noted(tmp_path: Path) -> None:
    """Other suffixes are not CDI; a fifo is not waited for; a huge file is not read."""
    put(tmp_path, "README.txt", "{")
    os.mkfifo(tmp_path / "fifo.json")
    with (tmp_path / "huge.yaml").open("wb") as file:
        file.truncate(cdi.MAX_FILE_BYTES + 1)

    registry = cdi.read([str(tmp_path)])

    assert len(registry.problems) == 2


@settings(suppress_health_check=(HealthCheck.function_scoped_fixture,), deadline=None)
@given(st.text(max_size=60), st.sampled_from(("x.json", "x.yaml")))
def test_any_text_is_a_file_or_a_problem(tmp_path: Path, text: str, name: str) -> None:
    """Nothing that is in a file raises."""
    (tmp_path / name).write_bytes(text.encode("utf-8", "surrogatepass"))

    cdi.read([str(tmp_path)])


def test_the_hosts_nodes_are_looked_at(tmp_path: Path) -> None:
    """A character device is known by its numbers; anything else is no node."""
    assert cdi.host_node("/dev/null") == NodeNumbers(type="c", major=1, minor=3)
    assert cdi.host_node(str(tmp_path)) is None
    assert cdi.host_node(str(tmp_path / "none")) is None
