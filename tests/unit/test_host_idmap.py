"""Mounts whose files show other owners."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from shim.errors import InvalidArgument, Unimplemented
from shim.host import idmap, mounts
from shim.host.idmap import Maps, taken_out
from shim.model import Mount

MAPPED = ("uidmap=0:100000:65536", "gidmap=0:200000:65536")
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")


def test_no_translation() -> None:
    """Options of a usual mount stay as they are."""
    assert taken_out(("ro", "lowerdir=/a:/b")) == (("ro", "lowerdir=/a:/b"), None)


def test_a_translation_is_taken_out() -> None:
    """It becomes lines of uid_map and gid_map, several of them where there are several rows."""
    options = ("uidmap=0:1000:1,1:5000:10", "ro", "gidmap=0:2000:1")

    assert taken_out(options) == (("ro",), Maps("0 1000 1\n1 5000 10\n", "0 2000 1\n"))


@pytest.mark.parametrize(
    "options",
    (
        ("uidmap=0:1:1",),
        ("gidmap=0:1:1",),
        ("uidmap=", "gidmap=0:1:1"),
        ("uidmap=0:1", "gidmap=0:1:1"),
        ("uidmap=0:1:1\n0 0 1", "gidmap=0:1:1"),
        ("uidmap=a:1:1", "gidmap=0:1:1"),
    ),
)
def test_what_is_no_translation(options: tuple[str, ...]) -> None:
    """Half of one, or other text, is refused before anything is mounted."""
    with pytest.raises(InvalidArgument):
        taken_out(options)


def layers(folder: Path) -> tuple[str, ...]:
    """Make two layers with files of root and of uid 7; return the options of an overlay."""
    for name in ("low", "high", "upper", "work", "root"):
        (folder / name).mkdir()
    (folder / "low" / "of-root").touch()
    (folder / "high" / "of-seven").touch()
    os.chown(folder / "high" / "of-seven", 7, 8)
    upper = f"upperdir={folder}/upper", f"workdir={folder}/work"
    return "index=off", *upper, f"lowerdir={folder}/high:{folder}/low"


def owners(folder: Path) -> dict[str, tuple[int, int]]:
    """Return who owns what."""
    return {path.name: (path.stat().st_uid, path.stat().st_gid) for path in folder.iterdir()}


@needs_root
def test_an_overlay_shows_other_owners(tmp_path: Path) -> None:
    """Each lower layer is translated; what was mounted on the way is gone again."""
    target = tmp_path / "root"
    entry = Mount(type="overlay", source="overlay", options=(*layers(tmp_path), *MAPPED))
    try:
        mounts.mount(entry, target)
    except Unimplemented as error:
        pytest.skip(f"this kernel or filesystem has no idmapped mounts: {error}")
    try:
        assert owners(target) == {"of-root": (100000, 200000), "of-seven": (100007, 200008)}
    finally:
        mounts.unmount(target)

    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "high",
        "low",
        "root",
        "upper",
        "work",
    ]
    assert str(tmp_path) not in Path("/proc/self/mounts").read_text("utf-8")


@needs_root
def test_a_bind_shows_other_owners(tmp_path: Path) -> None:
    """A snapshot that is one folder is translated too, and its other options hold."""
    layers(tmp_path)
    target = tmp_path / "root"
    options = ("rbind", "ro", *MAPPED)
    try:
        mounts.mount(Mount(type="bind", source=str(tmp_path / "high"), options=options), target)
    except Unimplemented as error:
        pytest.skip(f"this kernel or filesystem has no idmapped mounts: {error}")
    try:
        assert owners(target) == {"of-seven": (100007, 200008)}
        with pytest.raises(OSError, match="Read-only"):
            (target / "new").touch()
    finally:
        mounts.unmount(target)


@needs_root
def test_a_layer_that_is_not_there_leaves_nothing(tmp_path: Path) -> None:
    """The error names the layer; no mount, folder or process stays."""
    options = [*layers(tmp_path), *MAPPED]
    (tmp_path / "low" / "of-root").unlink()
    (tmp_path / "low").rmdir()
    before = set(Path(f"/proc/self/task/{os.getpid()}/children").read_text("ascii").split())

    with pytest.raises(Exception, match="low"):
        mounts.mount(Mount(type="overlay", source="o", options=tuple(options)), tmp_path / "root")

    after = set(Path(f"/proc/self/task/{os.getpid()}/children").read_text("ascii").split())
    assert after <= before
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".idmap-")]
    assert str(tmp_path) not in Path("/proc/self/mounts").read_text("utf-8")


def test_other_filesystems_cannot(tmp_path: Path) -> None:
    """A mount that is neither an overlay nor a bind is refused with what to do."""
    with pytest.raises(Unimplemented, match="tmpfs") as caught:
        mounts.mount(Mount(type="tmpfs", source="tmpfs", options=MAPPED), tmp_path)

    assert caught.value.remedy


def test_a_kernel_without_them_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the system call is not there, the error says what is missing."""
    monkeypatch.setattr(idmap, "_MOUNT_SETATTR", 100_000)
    if os.geteuid() != 0:
        pytest.skip("a user namespace with these ids needs root")

    with pytest.raises(Unimplemented, match="idmapped mount") as caught:
        idmap.mount_mapped(tmp_path, tmp_path, Maps("0 100000 65536\n", "0 100000 65536\n"))

    assert "kernel" in caught.value.remedy
