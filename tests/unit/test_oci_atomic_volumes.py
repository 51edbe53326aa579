"""The folders of config maps and secrets: recorded, and made in the volume of another pod."""

from __future__ import annotations

from pathlib import Path

import pytest

from shim.errors import CryoError, FailedPrecondition
from shim.oci import atomic_volumes, document
from shim.oci.atomic_volumes import DataFolder, data_folders, provide, to_provide
from shim.oci.document import Spec

SAVED, TODAY = "..2026_01_01_10_00_00.123456789", "..2026_11_28_12_11_10.987654321"


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    """Return a volume with two keys, one in a folder, as the kubelet writes it."""
    volume = tmp_path / "pods" / "u" / "volumes" / "kubernetes.io~configmap" / "conf"
    (volume / TODAY / "sub").mkdir(parents=True)
    for key in ("key", "sub/key"):
        (volume / TODAY / key).write_text("today")
        (volume / TODAY / key).chmod(0o640)
    (volume / TODAY).chmod(0o2750)
    (volume / "..data").symlink_to(TODAY)
    (volume / "key").symlink_to("..data/key")
    return volume


def spec(*sources: Path) -> Spec:
    """Return the spec of a container that mounts these at /0, /1 and so on."""
    mounts = [
        {"destination": f"/{at}", "type": "bind", "source": str(source)}
        for at, source in enumerate(sources)
    ]
    notes = {"io.kubernetes.cri.sandbox-uid": "u"}
    data = {"ociVersion": "1", "root": {"path": "/"}, "mounts": mounts, "annotations": notes}
    return document.parse(data, Path("/b"), restoring=True)


def test_the_folders_of_a_container(tmp_path: Path, volume: Path) -> None:
    """They are those of whole volumes of the kubelet; a link to anything else is none."""
    other = volume.with_name("other")
    other.mkdir()
    (other / "..data").symlink_to("../../..")
    empty_dir = volume.parents[1] / "kubernetes.io~empty-dir" / "conf"
    empty_dir.mkdir(parents=True)
    (empty_dir / "..data").symlink_to(TODAY)
    part = volume.parents[2] / "volume-subpaths" / "conf" / "main" / "0"
    container = spec(volume, other, empty_dir, part, volume.with_name("gone"))

    assert data_folders(container, str(tmp_path)) == {"/0": TODAY}
    saved = {"/0": SAVED, "/1": "../..", "/2": SAVED, "/9": SAVED}
    assert to_provide(container, str(tmp_path), saved) == (
        DataFolder(volume=str(volume), name=SAVED),
    )


def test_a_volume_gets_the_folder_of_an_image(volume: Path) -> None:
    """It has the current files with their owner and mode, and the current folder stays as it is."""
    (volume / TODAY / "link").symlink_to("/etc/passwd")

    for _ in range(2):  # safe to repeat
        provide(DataFolder(volume=str(volume), name=SAVED))

    made = volume / SAVED
    assert (made / "sub" / "key").read_text() == "today"
    assert (made / "key").samefile(volume / TODAY / "key")
    assert made.stat().st_mode == (volume / TODAY).stat().st_mode
    assert not (made / "link").is_symlink()
    assert sorted(path.name for path in volume.iterdir()) == [SAVED, TODAY, "..data", "key"]


def test_the_folder_has_the_files_of_the_last_update(volume: Path) -> None:
    """What an earlier restore in this pod has made is replaced; a link of the name is, too."""
    (volume / SAVED).symlink_to("/etc")
    provide(DataFolder(volume=str(volume), name=SAVED))
    (volume / TODAY / "key").unlink()

    provide(DataFolder(volume=str(volume), name=SAVED))

    assert [path.name for path in (volume / SAVED).iterdir()] == ["sub"]
    assert Path("/etc/passwd").exists()


def test_the_folder_of_today_is_left_alone(volume: Path) -> None:
    """A pod may be restored with the volume that it had at the save."""
    before = (volume / TODAY).stat().st_ino

    provide(DataFolder(volume=str(volume), name=TODAY))

    assert (volume / TODAY).stat().st_ino == before


def test_a_volume_that_is_not_the_kubelets(volume: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is left without a trace: one whose link leads elsewhere, and one that is too large."""
    one = DataFolder(volume=str(volume), name=SAVED)
    names = sorted(volume.iterdir())
    monkeypatch.setattr(atomic_volumes, "_MAX_FILES", 1)
    with pytest.raises(CryoError, match="more than 1 files"):
        provide(one)
    (volume / "..data").unlink()
    (volume / "..data").symlink_to("/etc")
    with pytest.raises(FailedPrecondition, match="which the kubelet does not make"):
        provide(one)
    assert sorted(volume.iterdir()) == names
    with pytest.raises(CryoError, match="make the folder"):
        provide(DataFolder(volume=str(volume / "gone"), name=SAVED))
