"""What other pods of a template do not have: named by a checkpoint, refused by a warm start."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from shim.config import Pods
from shim.errors import Refused, Unavailable
from shim.oci import document
from shim.oci.document import Spec
from shim.oci.volumes import HINT
from shim.runsc.output import GuestProcess
from shim.runsc.process_dump import DumpedProcess, parse
from shim.transaction import pod_file_checks
from shim.transaction.target import CheckpointTarget
from tests.unit.fakes_guest import FakeGuest
from tests.unit.fakes_target import SPEC, Scene, sleeping

OLD, TODAY = "..2026_01_01_10_00_00.123456789", "..2026_11_28_12_11_10.987654321"
LISTED: tuple[list[GuestProcess], ...] = ([], [GuestProcess(pid=7, parent=0, command="sh")])


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    """Give a task without a GPU."""
    with sleeping() as process:
        yield Scene(tmp_path, process, FakeGuest(), gpu=False)


@pytest.fixture
def volumes(tmp_path: Path) -> Path:
    """Return the volumes of a pod: an emptyDir `data` and a config map `conf`."""
    folder = tmp_path / "pods" / "u" / "volumes"
    (folder / "kubernetes.io~empty-dir" / "data").mkdir(parents=True)
    conf = folder / "kubernetes.io~configmap" / "conf"
    (conf / TODAY).mkdir(parents=True)
    (conf / "..data").symlink_to(TODAY)
    return folder


def spec(annotations: dict[str, str], **sources: tuple[str, Path]) -> Spec:
    """Return a spec of the pod that mounts sources, with their types, at /data and so on."""
    mounts = [
        {"destination": f"/{name}", "type": kind, "source": str(path)}
        for name, (kind, path) in sources.items()
    ]
    notes = {"io.kubernetes.cri.sandbox-uid": "u", **annotations}
    data: dict[str, Any] = {**SPEC, "mounts": mounts, "annotations": notes}
    return document.parse(data, Path("/b"), restoring=True)


def pod(scene: Scene, container: Spec, root: Spec | None = None) -> CheckpointTarget:
    """Return a sandbox with one container, `main`."""
    config = msgspec.structs.replace(scene.config, pods=Pods(kubelet=str(scene.folder)))
    own = replace(scene.target, config=config, spec=root or spec({}))
    return replace(own, members=(replace(own, name="main", spec=container),))


async def test_files_in_use_on_the_host_are_named(scene: Scene, volumes: Path) -> None:
    """A file in an emptyDir on the host, or in an earlier folder of a config map, is named.

    A volume in the sandbox, the current folder and the mount points themselves come back, and so
    does a removed file, unless it was in a folder of the volume.
    """
    data, conf = volumes / "kubernetes.io~empty-dir" / "data", volumes / "kubernetes.io~configmap"
    container = spec(
        {},
        data=("bind", data),
        conf=("bind", conf / "conf"),
        inside=("tmpfs", data),
        part=("bind", volumes.parent / "volume-subpaths" / "data" / "main" / "0"),
    )
    kept = {
        "/data",
        "/inside/log",
        f"/conf/{TODAY}/key",
        "/conf",
        "/srv/log",
        "/data-too",
        "/data/t (deleted)",
    }
    scene.runsc.used = {
        7: frozenset({*kept, "/data/log", "/part/d/t (deleted)", f"/conf/{OLD}/key"})
    }
    target = pod(scene, container)

    (warning,) = await pod_file_checks.check_in_use(target, LISTED, for_copies=False)

    assert warning == (
        "files are in use that another pod does not have: "
        f"main: /conf/{OLD}/key (of an earlier version of volume conf), "
        "main: /data/log (in volume data, which is on the host), "
        "main: /part/d/t (deleted) (in volume data, which is on the host)"
    )
    with pytest.raises(Refused, match="main: /data/log") as refused:
        await pod_file_checks.check_in_use(target, LISTED, for_copies=True)
    assert "io.cryo.hook.pre-freeze" in refused.value.remedy


async def test_nothing_is_said_where_all_comes_back(scene: Scene, volumes: Path) -> None:
    """The sentry is asked only if a container mounts such a volume; a failure is a warning."""
    data = volumes / "kubernetes.io~empty-dir" / "data"
    scene.runsc.used = Unavailable("no answer")
    inside, outside = (pod(scene, spec({}, data=(kind, data))) for kind in ("tmpfs", "bind"))

    assert await pod_file_checks.check_in_use(inside, LISTED, for_copies=True) == []
    (warning,) = await pod_file_checks.check_in_use(outside, LISTED, for_copies=True)
    assert warning.endswith("cannot be determined: no answer")
    scene.runsc.used = {8: frozenset({"/data/log"}), 7: frozenset({"/etc/hosts"})}
    assert await pod_file_checks.check_in_use(outside, LISTED, for_copies=True) == []


async def test_a_volume_that_is_mounted_in_part_is_named(scene: Scene, volumes: Path) -> None:
    """Its contents are not in the image; who put it on the host by annotation knows that."""
    part = volumes.parent / "volume-subpaths" / "data" / "main" / "0"
    container = spec({}, part=("bind", part))
    source = {f"{HINT}data.source": str(volumes / "kubernetes.io~empty-dir" / "data")}
    target = pod(scene, container, root=spec(source))

    (warning,) = await pod_file_checks.check_parts(target, for_copies=False)

    assert warning.endswith("not in the image: data (of container main)")
    with pytest.raises(Refused, match=r"data \(of container main\)") as refused:
        await pod_file_checks.check_parts(target, for_copies=True)
    assert "io.cryo.host-volumes" in refused.value.remedy
    assert await pod_file_checks.check_parts(pod(scene, container), for_copies=True) == []


async def test_a_checkpoint_makes_both_checks(scene: Scene, volumes: Path) -> None:
    """It warns, and is refused before anything is frozen if the image is for other pods."""
    data = volumes / "kubernetes.io~empty-dir" / "data"
    scene.others = {"m": FakeGuest()}
    scene.mounts = [{"destination": "/data", "type": "bind", "source": str(data)}]
    scene.pod_annotations = {"io.kubernetes.cri.sandbox-uid": "u"}
    scene.kubelet = str(scene.folder)
    (process,) = await scene.others["m"].ps()
    scene.runsc.used = {process.pid: frozenset({"/data/log"})}

    await scene.checkpoint()

    assert any("m by name: /data/log" in text for text in scene.warnings)
    error = await scene.error(for_copies=True)
    assert isinstance(error, Refused)
    assert "/data/log" in error.message


def test_the_sentrys_list_of_processes() -> None:
    """It has the command line, the user, the memory, and the files in use of each process."""
    listed = [
        {
            "exe": "/bin/sh",
            "cwd": "/work",
            "fdlist": [{"number": 0, "path": "host:[1]", "mode": 1}, {"path": "/data/log"}, {}],
            "maps": [{"pathname": "/lib/libc.so"}, {"pathname": "[heap]"}, {"offset": 0}],
            "status": {"pid": 7, "uid": {"real": 5, "effective": 0}, "vm_rss": 4},
            "args": ["sh", "-c", "x"],
            "env": ["A=b"],
        },
        {"status": {"pid": 8}},
    ]

    assert parse(listed) == {
        7: DumpedProcess(
            args=("sh", "-c", "x"),
            uid=5,
            memory_bytes=4096,
            paths=frozenset({"/bin/sh", "/work", "/data/log", "/lib/libc.so"}),
        ),
        8: DumpedProcess(args=(), uid=0, memory_bytes=0, paths=frozenset()),
    }
    others: tuple[object, ...] = (None, {}, [{}], [{"status": {"pid": "x"}}])
    for other in others:
        with pytest.raises(Unavailable, match="in another form"):
            parse(other)
