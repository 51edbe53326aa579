"""Removing trees that were made to be hard to remove."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from shim.errors import PermissionDenied
from shim.host import removal
from tests.unit.test_host_files import in_private_mounts


def nest(folder: Path, depth: int) -> None:
    """Make folders in folders, deeper than any path can name."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    for _ in range(depth):
        os.mkdir("d", dir_fd=fd)
        below = os.open("d", os.O_RDONLY | os.O_DIRECTORY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(os.open("file", os.O_WRONLY | os.O_CREAT, dir_fd=fd))
    os.close(fd)


def test_depth_is_no_limit(tmp_path: Path) -> None:
    """Folders nested deeper than Python's stack and than any path are removed."""
    (tmp_path / "tree" / "beside").mkdir(parents=True)
    nest(tmp_path / "tree", 3000)

    removal.remove_tree(tmp_path / "tree")

    assert list(tmp_path.iterdir()) == []


def test_a_wide_tree_is_removed(tmp_path: Path) -> None:
    """Folders beside each other, each with something in it, are all removed."""
    for number in range(50):
        (tmp_path / "tree" / f"a{number}" / "b").mkdir(parents=True)
        (tmp_path / "tree" / f"a{number}" / "file").touch()

    removal.remove_tree(tmp_path / "tree")

    assert list(tmp_path.iterdir()) == []


def test_no_link_is_followed_in_an_open_folder(tmp_path: Path) -> None:
    """An open folder is emptied, whatever has its name by now, and what links point to stays."""
    (tmp_path / "keep").mkdir()
    (tmp_path / "keep" / "file").touch()
    (tmp_path / "tree" / "sub").mkdir(parents=True)
    (tmp_path / "tree" / "sub" / "link").symlink_to(tmp_path / "keep")
    fd = os.open(tmp_path / "tree", os.O_RDONLY | os.O_DIRECTORY)
    (tmp_path / "tree").rename(tmp_path / "aside")
    (tmp_path / "tree").symlink_to("keep")

    removal.empty_folder(tmp_path / "tree", fd)
    os.close(fd)

    assert list((tmp_path / "aside").iterdir()) == []
    assert (tmp_path / "keep" / "file").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="an immutable file needs root")
def test_what_cannot_be_removed_does_not_keep_the_rest(tmp_path: Path) -> None:
    """An immutable file is reported, and everything beside it goes all the same."""
    (tmp_path / "tree" / "a" / "deep").mkdir(parents=True)
    (tmp_path / "tree" / "z").touch()
    held = tmp_path / "tree" / "a" / "held"
    held.touch()
    done = subprocess.run(["chattr", "+i", held], check=False, capture_output=True)
    if done.returncode != 0:
        pytest.skip("this filesystem has no immutable files")
    try:
        with pytest.raises(PermissionDenied, match=r"cannot remove .*/tree/a/held"):
            removal.remove_tree(tmp_path / "tree")
    finally:
        subprocess.run(["chattr", "-i", held], check=True)

    assert [path.name for path in (tmp_path / "tree").iterdir()] == ["a"]
    assert [path.name for path in (tmp_path / "tree" / "a").iterdir()] == ["held"]


_MOUNT = """
import sys
from pathlib import Path
from shim.errors import FailedPrecondition
from shim.host import mounts, removal
tree, other = Path(sys.argv[1]), Path(sys.argv[2])
mounts.mount(mounts.Mount(type="bind", source=str(other), options=("bind",)), tree / "a" / "held")
try:
    removal.remove_tree(tree)
except FailedPrecondition as error:
    print(error)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
def test_a_mount_does_not_keep_the_rest(tmp_path: Path) -> None:
    """A mount deep in the tree is reported and left alone; what lies beside it goes."""
    (tmp_path / "tree" / "a" / "held").mkdir(parents=True)
    (tmp_path / "tree" / "b").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "precious").touch()

    said = in_private_mounts(_MOUNT, str(tmp_path / "tree"), str(tmp_path / "other"))

    assert f"{tmp_path}/tree/a/held: it is a mount point" in said
    assert (tmp_path / "other" / "precious").exists()
    assert not (tmp_path / "tree" / "b").exists()


def test_a_missing_tree_is_no_error(tmp_path: Path) -> None:
    """What is gone already is gone."""
    removal.remove_tree(tmp_path / "no" / "such")

    assert list(tmp_path.iterdir()) == []
