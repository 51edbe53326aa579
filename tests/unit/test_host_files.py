"""Durable, bounded, private files."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from shim.errors import FailedPrecondition, InvalidArgument, NotFound, PermissionDenied
from shim.host import files


def names(path: Path | str) -> list[str]:
    """List a folder."""
    return [each.name for each in Path(path).iterdir()]


def test_written_file_is_whole_and_has_its_mode(tmp_path: Path) -> None:
    """The mode is the one asked for, whatever the umask, and nothing temporary is left."""
    before = os.umask(0o077)
    try:
        files.write_atomic(tmp_path / "a", b"one", 0o644)
    finally:
        os.umask(before)
    files.write_atomic(tmp_path / "a", b"two", 0o644)

    assert (tmp_path / "a").read_bytes() == b"two"
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o644
    assert names(tmp_path) == ["a"]


def test_failed_write_leaves_the_old_file_alone(tmp_path: Path) -> None:
    """A target that cannot be replaced leaves no temporary file behind."""
    (tmp_path / "a" / "child").mkdir(parents=True)

    with pytest.raises(FailedPrecondition):
        files.write_atomic(tmp_path / "a", b"two")

    assert names(tmp_path) == ["a"]


def test_write_into_a_missing_folder_is_not_found(tmp_path: Path) -> None:
    """A missing folder is named."""
    with pytest.raises(NotFound, match="no/a"):
        files.write_atomic(tmp_path / "no" / "a", b"")


def test_read_is_bounded(tmp_path: Path) -> None:
    """Exactly the limit is fine and one byte more is refused."""
    (tmp_path / "a").write_bytes(b"12345")

    assert files.read_bounded(tmp_path / "a", 5) == b"12345"
    with pytest.raises(InvalidArgument, match="larger than 4 bytes"):
        files.read_bounded(tmp_path / "a", 4)


def test_read_refuses_links_unless_allowed(tmp_path: Path) -> None:
    """A link is followed only on request."""
    (tmp_path / "a").write_bytes(b"x")
    (tmp_path / "b").symlink_to("a")

    with pytest.raises(InvalidArgument):
        files.read_bounded(tmp_path / "b", 5)
    assert files.read_bounded(tmp_path / "b", 5, nofollow=False) == b"x"


@pytest.mark.timeout(60)
def test_read_of_a_fifo_does_not_hang(tmp_path: Path) -> None:
    """A fifo put in a file's place is refused at once."""
    os.mkfifo(tmp_path / "a")

    with pytest.raises(InvalidArgument, match="not a regular file"):
        files.read_bounded(tmp_path / "a", 5)


def test_private_dir_narrows_what_is_there(tmp_path: Path) -> None:
    """A folder of ours that others may read is closed to them."""
    (tmp_path / "a").mkdir(mode=0o755)

    assert files.private_dir(tmp_path / "a") == tmp_path / "a"
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o700


def test_private_dir_leaves_what_is_allowed(tmp_path: Path) -> None:
    """A folder that a group may go through stays so where that is allowed, and only that."""
    (tmp_path / "a").mkdir()
    for before, after in ((0o710, 0o710), (0o750, 0o700), (0o711, 0o700), (0o700, 0o700)):
        (tmp_path / "a").chmod(before)

        files.private_dir(tmp_path / "a", allowed=files.GROUP_SEARCH)

        assert (tmp_path / "a").stat().st_mode & 0o7777 == after


def test_private_dir_refuses_a_link(tmp_path: Path) -> None:
    """A link to a folder is not a folder of ours."""
    (tmp_path / "real").mkdir()
    (tmp_path / "a").symlink_to("real")

    with pytest.raises(PermissionDenied):
        files.private_dir(tmp_path / "a")


def test_private_dir_refuses_another_owner(tmp_path: Path) -> None:
    """A folder that somebody else made first is refused."""
    (tmp_path / "a").mkdir()
    os.chown(tmp_path / "a", 12345, 12345)

    with pytest.raises(PermissionDenied):
        files.private_dir(tmp_path / "a")


def test_remove_tree_follows_no_link(tmp_path: Path) -> None:
    """What a link points to outside the tree stays."""
    (tmp_path / "keep").mkdir()
    (tmp_path / "keep" / "file").write_bytes(b"")
    (tmp_path / "tree" / "deep").mkdir(parents=True)
    (tmp_path / "tree" / "deep" / "link").symlink_to(tmp_path / "keep")
    (tmp_path / "tree" / "file").write_bytes(b"")

    files.remove_tree(tmp_path / "tree")
    files.remove_tree(tmp_path / "tree")

    assert names(tmp_path) == ["keep"]
    assert names(tmp_path / "keep") == ["file"]


_IN_NAMESPACE = """
import sys
from pathlib import Path
from shim.errors import FailedPrecondition
from shim.host import files, mounts
tree, other = Path(sys.argv[1]), Path(sys.argv[2])
mounts.mount(mounts.Mount(type="bind", source=str(other), options=("bind",)), tree / "rootfs")
try:
    files.remove_tree(tree)
except FailedPrecondition as error:
    print(error)
"""


def in_private_mounts(script: str, *arguments: str) -> str:
    """Run Python in a mount namespace of its own and return what it said."""
    command = ["unshare", "--mount", "--propagation", "private", sys.executable, "-c", script]
    done = subprocess.run(
        [*command, *arguments], check=False, capture_output=True, text=True, timeout=30
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
def test_remove_tree_crosses_no_mount(tmp_path: Path) -> None:
    """A rootfs still mounted in the tree, from the same filesystem, is not emptied."""
    (tmp_path / "tree" / "rootfs").mkdir(parents=True)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "precious").write_bytes(b"")

    said = in_private_mounts(_IN_NAMESPACE, str(tmp_path / "tree"), str(tmp_path / "other"))

    assert "is a mount point" in said
    assert (tmp_path / "other" / "precious").exists()


def test_free_bytes_of_a_path_yet_to_be_made(tmp_path: Path) -> None:
    """The filesystem that would hold the path is measured."""
    assert files.free_bytes(tmp_path / "x" / "y") > 0


def test_umask_is_not_asked(tmp_path: Path) -> None:
    """Folders made on the way are closed to others, whatever the umask is."""
    before = os.umask(0)
    try:
        files.make_folders(tmp_path / "a" / "b")
        files.private_dir(tmp_path / "c" / "d")
    finally:
        os.umask(before)

    modes = {path: (tmp_path / path).stat().st_mode & 0o777 for path in ("a", "a/b", "c", "c/d")}
    assert modes == {"a": 0o755, "a/b": 0o755, "c": 0o755, "c/d": 0o700}
