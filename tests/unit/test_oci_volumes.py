"""Which volumes of a pod its sandbox keeps, and how the mounts of its containers change."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from shim.errors import FailedPrecondition
from shim.host import mountinfo
from shim.oci import document
from shim.oci.document import Spec
from shim.oci.kubelet import PodFolder, VolumeUse, pod_folder
from shim.oci.member_volumes import View, share
from shim.oci.volumes import HINT, add_hints, sandbox_volumes

UID = "0a1b"
CRI = "io.kubernetes.cri"


@pytest.fixture
def volumes(tmp_path: Path) -> Path:
    """Return the folder of the emptyDir volumes of a pod, with two of them."""
    folder = tmp_path / "pods" / UID / "volumes" / "kubernetes.io~empty-dir"
    for name in ("data", "cache"):
        (folder / name).mkdir(parents=True)
        (folder / name).chmod(0o2770)
    (tmp_path / "shm").mkdir()
    return folder


def spec(*mounts: dict[str, Any], name: str = "", **annotations: str) -> Spec:
    """Return the spec of a sandbox, or of its container of a name."""
    notes = {f"{CRI}.container-name": name, f"{CRI}.sandbox-uid": UID, **annotations}
    data = {"ociVersion": "1", "root": {"path": "/"}, "mounts": list(mounts), "annotations": notes}
    return document.parse(data, Path("/b"), restoring=True)


def bind(source: object, destination: str, *options: str) -> dict[str, Any]:
    """Return a bind mount as the CRI plugin writes it."""
    options = ("rbind", "rprivate", *(options or ("rw",)))
    return {
        "source": str(source),
        "destination": destination,
        "type": "bind",
        "options": list(options),
    }


def folder_of(tmp_path: Path) -> PodFolder:
    """Return the folder of the pod."""
    found = pod_folder(str(tmp_path), spec())
    assert found is not None
    return found


def sandbox(tmp_path: Path, *on_host: str, saved: Spec | None = None) -> Spec:
    """Return the prepared spec of the sandbox's own container."""
    made = spec(
        {"destination": "/dev/shm", "type": "tmpfs", "source": "shm"},
        bind(tmp_path / "shm", "/dev/shm", "ro"),
    )
    return add_hints(made, folder_of(tmp_path), frozenset(on_host), saved)


class Views:
    """The decisions of a pod."""

    def __init__(self) -> None:
        self.made: dict[str, View] = {}

    def decide(self, name: str, view: View) -> View:
        """Decide as the first one wants it."""
        return self.made.setdefault(name, view)


def test_a_sandbox_has_hints_for_its_volumes(tmp_path: Path, volumes: Path) -> None:
    """Each emptyDir and /dev/shm has a complete hint and is mounted in the sandbox's container."""
    ready = sandbox(tmp_path)

    notes = {key: text for key, text in ready.annotations.items() if key.startswith(HINT)}
    owner = f"uid={os.getuid()},gid={os.getgid()}"
    assert notes == {
        f"{HINT}data.source": str(volumes / "data"),
        f"{HINT}data.type": "tmpfs",
        f"{HINT}data.share": "pod",
        f"{HINT}data.options": f"rw,mode=2770,{owner}",
        f"{HINT}cache.source": str(volumes / "cache"),
        f"{HINT}cache.type": "tmpfs",
        f"{HINT}cache.share": "pod",
        f"{HINT}cache.options": f"rw,mode=2770,{owner}",
        f"{HINT}cryo_dev_shm.source": str(tmp_path / "shm"),
        f"{HINT}cryo_dev_shm.type": "tmpfs",
        f"{HINT}cryo_dev_shm.share": "pod",
        f"{HINT}cryo_dev_shm.options": notes[f"{HINT}cryo_dev_shm.options"],
    }
    assert ",size=" in notes[f"{HINT}cryo_dev_shm.options"]
    assert [(one.destination, one.type) for one in ready.mounts] == [
        ("/dev/shm", "tmpfs"),
        ("/dev/cryo-volumes/cache", "bind"),
        ("/dev/cryo-volumes/data", "bind"),
    ]
    assert ready.mounts[0].options == ("rprivate", "ro")


def test_a_volume_in_memory_is_memory_of_the_sandbox(
    tmp_path: Path, volumes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is a tmpfs of the same size, and huge pages stay on the host."""
    kinds = {"data": "tmpfs", "cache": "hugetlbfs"}
    monkeypatch.setattr(mountinfo, "filesystem", lambda path: kinds[path.name])

    ready = sandbox(tmp_path)

    (data, shm) = sandbox_volumes(ready)
    assert (data.name, data.memory, shm.is_shm) == ("data", True, True)
    total = os.statvfs(volumes / "data")
    assert data.options.endswith(f",size={total.f_blocks * total.f_frsize}")
    assert ready.mounts[-1].type == "tmpfs"
    assert ready.mounts[-1].options == ("rw",)


def test_volumes_that_stay_on_the_host(tmp_path: Path, volumes: Path) -> None:
    """These have no hint; neither has a link, nor the host's own /dev/shm (hostIPC)."""
    (volumes / "link").symlink_to(volumes / "data")

    assert [one.name for one in sandbox_volumes(sandbox(tmp_path, "data"))] == [
        "cache",
        "cryo_dev_shm",
    ]
    own = add_hints(spec(bind("/dev/shm", "/dev/shm")), folder_of(tmp_path), frozenset({"data"}))
    assert [one.name for one in sandbox_volumes(own)] == ["cache"]


def test_a_restored_sandbox_keeps_what_was_kept(tmp_path: Path, volumes: Path) -> None:
    """The image decides which, and with which options; the sources are the current ones."""
    saved = sandbox(tmp_path, "cache")
    (volumes / "data").chmod(0o755)

    ready = sandbox(tmp_path, "data", saved=saved)

    assert [one.name for one in sandbox_volumes(ready)] == ["data", "cryo_dev_shm"]
    assert "mode=2770" in sandbox_volumes(ready)[0].options
    assert sandbox_volumes(sandbox(tmp_path, saved=spec())) == ()


def test_containers_mount_what_the_sandbox_keeps(tmp_path: Path, volumes: Path) -> None:
    """A whole volume and /dev/shm are mounts of the sandbox; other mounts are left alone."""
    mounts = (
        bind(volumes / "data", "/data", "ro"),
        bind(tmp_path / "shm", "/dev/shm"),
        bind("/srv", "/srv"),
    )

    ready = share(spec(*mounts), sandbox(tmp_path), folder_of(tmp_path), Views().decide)

    assert [(one.type, one.source) for one in ready.mounts] == [
        ("tmpfs", str(volumes / "data")),
        ("tmpfs", str(tmp_path / "shm")),
        ("bind", "/srv"),
    ]
    assert ready.mounts[0].options == ("rprivate", "ro")
    plain = spec(*mounts)
    assert share(plain, spec(), folder_of(tmp_path), Views().decide) is plain


def test_a_volume_that_is_used_in_part_is_on_the_host(tmp_path: Path, volumes: Path) -> None:
    """All containers see its folder then, by a path for which runsc has no hint."""
    root, folder, views = sandbox(tmp_path), folder_of(tmp_path), Views()
    part = tmp_path / "pods" / UID / "volume-subpaths" / "data" / "one" / "0"

    one = share(spec(bind(part, "/part")), root, folder, views.decide)
    two = share(spec(bind(volumes / "data", "/data")), root, folder, views.decide)

    assert views.made == {"data": View.HOST}
    assert one.mounts[0].source == str(part)
    assert two.mounts[0].source == f"{volumes}/./data"
    assert (one.mounts[0].type, two.mounts[0].type) == ("bind", "bind")
    assert share(spec(), root, folder, Views().decide, saved=two).mounts == ()
    again = share(spec(bind(volumes / "data", "/data")), root, folder, Views().decide, saved=two)
    assert again.mounts == two.mounts


def test_a_part_of_a_volume_in_the_sandbox_is_refused(tmp_path: Path, volumes: Path) -> None:
    """Its container would see another content than those before it."""
    root, folder, views = sandbox(tmp_path), folder_of(tmp_path), Views()
    share(spec(bind(volumes / "data", "/data")), root, folder, views.decide)

    with pytest.raises(FailedPrecondition, match=r"container b mounts a part .* volume data") as no:
        share(spec(bind(volumes / "data" / "sub", "/x"), name="b"), root, folder, views.decide)
    assert "io.cryo.host-volumes: data" in no.value.remedy


@pytest.mark.parametrize(
    ("path", "use"),
    (
        ("volumes/kubernetes.io~empty-dir/a", VolumeUse(name="a", kind="kubernetes.io~empty-dir")),
        (
            "volumes/kubernetes.io~secret/a/b",
            VolumeUse(name="a", kind="kubernetes.io~secret", part=True),
        ),
        ("volume-subpaths/a/main/0", VolumeUse(name="a", part=True)),
        ("volumes/kubernetes.io~secret", None),
        ("volumes/x/../../volumes/y/z", None),
        ("etc-hosts", None),
    ),
)
def test_the_volume_of_a_mount(tmp_path: Path, path: str, use: VolumeUse | None) -> None:
    """It is known from the mount's source below the kubelet's folder of the pod."""
    assert folder_of(tmp_path).use_of(f"{tmp_path}/pods/{UID}/{path}") == use


@pytest.mark.parametrize("uid", ("", "..", "a/b", ".hidden"))
def test_a_uid_that_is_no_name_is_no_pod(uid: str) -> None:
    """The annotation is part of a path."""
    assert pod_folder("/k", spec(**{f"{CRI}.sandbox-uid": uid})) is None


def test_the_filesystem_at_a_path(tmp_path: Path) -> None:
    """It is read from the mount table, where paths are escaped; the last mount covers others."""
    table = tmp_path / "mountinfo"
    table.write_text(
        "30 1 0:1 / /sys\\040fs rw - sysfs a rw\n31 1 0:2 / /proc rw shared:1 - ext4 a rw\n"
        "32 1 0:2 / /proc rw - tmpfs tmpfs rw,size=1k\n"
    )

    assert mountinfo.filesystem(Path("/proc"), table) == "tmpfs"
    assert mountinfo.filesystem(Path("/proc")) == "proc"
    assert mountinfo.filesystem(tmp_path, table) is None
    assert mountinfo._plain("/sys\\040fs") == "/sys fs"
