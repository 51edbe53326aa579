"""Who could put something else in the place of a file."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from shim.errors import CryoError, InvalidArgument, NotFound, PermissionDenied
from shim.host import trusted
from tests.unit.helpers_descriptors import descriptors

STRANGER = 65534

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="giving a file away needs root")


def names(fd: int) -> list[str]:
    """List an open folder."""
    with os.scandir(fd) as entries:
        return [entry.name for entry in entries]


def opens(path: Path, *, alone: bool = False) -> bool:
    """Whether a folder can be opened; the error is raised."""
    os.close(trusted.open_folder(path, alone=alone))
    return True


def test_a_folder_of_roots_is_opened(tmp_path: Path) -> None:
    """Root's folders below the sticky /tmp are fine, and the descriptor reads the right one."""
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "file").touch()

    with trusted.opened(tmp_path / "a" / "b", alone=True) as fd:
        assert names(fd) == ["file"]


def test_a_relative_path_counts_from_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every folder on the way counts for a path without a leading slash too."""
    (tmp_path / "open" / "mine").mkdir(parents=True)
    (tmp_path / "mine").mkdir()
    monkeypatch.chdir(tmp_path)
    assert opens(Path("mine"))

    (tmp_path / "open").chmod(0o777)

    with pytest.raises(PermissionDenied, match=f"others may write to {tmp_path}/open"):
        trusted.check(Path("open/mine"))
    monkeypatch.chdir(tmp_path / "open")
    with pytest.raises(PermissionDenied, match=f"others may write to {tmp_path}/open"):
        trusted.check(Path())


def test_a_folder_of_another_users_is_refused(tmp_path: Path) -> None:
    """Who owns it can put anything there; the message says who, and what can be done."""
    (tmp_path / "his").mkdir()
    os.chown(tmp_path / "his", STRANGER, STRANGER)

    with pytest.raises(PermissionDenied, match=f"{tmp_path}/his belongs to user 65534") as caught:
        opens(tmp_path / "his")

    assert "chown" in caught.value.remedy


def test_every_folder_on_the_way_counts(tmp_path: Path) -> None:
    """Root's own folder in somebody else's can be replaced by that one."""
    (tmp_path / "his" / "mine").mkdir(parents=True)
    os.chown(tmp_path / "his", STRANGER, STRANGER)

    with pytest.raises(PermissionDenied, match="his belongs to user"):
        opens(tmp_path / "his" / "mine")


@pytest.mark.parametrize("mode", (0o775, 0o757, 0o777))
def test_a_folder_that_others_write_to_is_refused(tmp_path: Path, mode: int) -> None:
    """Group and world alike may not write to it."""
    (tmp_path / "open" / "mine").mkdir(parents=True)
    (tmp_path / "open").chmod(mode)

    with pytest.raises(PermissionDenied, match=f"others may write to {tmp_path}/open") as caught:
        opens(tmp_path / "open" / "mine")

    assert "chmod go-w" in caught.value.remedy


def test_a_sticky_folder_is_fine_on_the_way_and_not_alone(tmp_path: Path) -> None:
    """In a sticky folder each keeps his own; yet others may add to it."""
    (tmp_path / "sticky" / "mine").mkdir(parents=True)
    (tmp_path / "sticky").chmod(0o1777)

    assert opens(tmp_path / "sticky" / "mine", alone=True)
    assert opens(tmp_path / "sticky")
    with pytest.raises(PermissionDenied):
        opens(tmp_path / "sticky", alone=True)


def test_links_are_followed_where_root_made_them(tmp_path: Path) -> None:
    """A link of root's leads on, relative or not, with `..` in it or not."""
    (tmp_path / "real" / "deep").mkdir(parents=True)
    (tmp_path / "real" / "deep" / "here").touch()
    (tmp_path / "one").symlink_to("real")
    (tmp_path / "real" / "two").symlink_to(tmp_path / "one" / "deep" / ".." / "deep")

    with trusted.opened(tmp_path / "one" / "two") as fd:
        assert names(fd) == ["here"]


def test_a_link_that_somebody_planted_is_refused(tmp_path: Path) -> None:
    """In a sticky folder a link is its owner's word."""
    (tmp_path / "sticky").mkdir()
    (tmp_path / "sticky").chmod(0o1777)
    (tmp_path / "sticky" / "link").symlink_to("/etc")
    os.lchown(tmp_path / "sticky" / "link", STRANGER, STRANGER)

    with pytest.raises(PermissionDenied, match="sticky/link belongs to user"):
        opens(tmp_path / "sticky" / "link")


def test_a_link_into_an_untrusted_folder_is_refused(tmp_path: Path) -> None:
    """Where a link leads is judged as the path itself."""
    (tmp_path / "his").mkdir()
    os.chown(tmp_path / "his", STRANGER, STRANGER)
    (tmp_path / "link").symlink_to("his")

    with pytest.raises(PermissionDenied, match="his belongs to user"):
        opens(tmp_path / "link")


def test_a_loop_of_links_ends(tmp_path: Path) -> None:
    """Links that lead to each other are an error."""
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")

    with pytest.raises(InvalidArgument):
        opens(tmp_path / "a")


def test_what_is_missing_is_not_found(tmp_path: Path) -> None:
    """A folder that is not there, and a file in its place, are not found."""
    (tmp_path / "file").touch()
    with pytest.raises(NotFound):
        opens(tmp_path / "no" / "such")
    with pytest.raises(NotFound):
        opens(tmp_path / "file")


def test_a_place_that_is_yet_to_be_made_is_checked_as_far_as_it_is_there(tmp_path: Path) -> None:
    """What is missing will be made by us; what is there counts."""
    trusted.check(tmp_path / "no" / "such")
    (tmp_path / "his").mkdir()
    os.chown(tmp_path / "his", STRANGER, STRANGER)

    with pytest.raises(PermissionDenied):
        trusted.check(tmp_path / "his" / "no" / "such")


def test_no_descriptor_is_left_open(tmp_path: Path) -> None:
    """Neither a refusal nor a success leaves anything open."""
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "link").symlink_to("../a")
    (tmp_path / "his").mkdir()
    os.chown(tmp_path / "his", STRANGER, STRANGER)
    before = len(descriptors())

    for name in ("a/link", "his", "no", "a/link/no"):
        try:
            opens(tmp_path / name)
        except CryoError:
            continue
    trusted.check(tmp_path / "a" / "no")

    assert len(descriptors()) == before


def test_a_file_is_opened_by_no_link(tmp_path: Path) -> None:
    """A link in the place of a file is refused, and nothing is made through it."""
    (tmp_path / "link").symlink_to("target")

    with pytest.raises(InvalidArgument):
        trusted.open_file(tmp_path / "link", os.O_RDWR | os.O_CREAT)

    assert not (tmp_path / "target").exists()


def test_a_file_of_another_users_is_refused(tmp_path: Path) -> None:
    """A file that somebody else put there is not ours to use."""
    (tmp_path / "file").touch()
    os.chown(tmp_path / "file", STRANGER, STRANGER)

    with pytest.raises(PermissionDenied, match="file belongs to user"):
        trusted.open_file(tmp_path / "file", os.O_RDWR | os.O_CREAT)


def test_a_file_with_a_second_name_is_refused(tmp_path: Path) -> None:
    """A hard link may be any file of the filesystem."""
    (tmp_path / "file").touch(mode=0o600)
    (tmp_path / "other").hardlink_to(tmp_path / "file")

    with pytest.raises(PermissionDenied, match="has 2 hard links"):
        trusted.open_file(tmp_path / "other", os.O_RDWR)
