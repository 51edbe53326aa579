"""OCI layouts: blobs are whole before they have a name, and tags of others stay."""

from __future__ import annotations

import errno
import io
import json
import os
import stat
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from shim.distribution import layout_index, media
from shim.distribution.blob import Descriptor, FileSlice, digest_of
from shim.distribution.layout import Layout
from shim.distribution.place import Document
from shim.errors import CryoError, ImageCorrupt, InvalidArgument, NotFound, ResourceExhausted
from shim.host.newfile import NewFile

BLOB = bytes(range(256)) * 20


def described(data: bytes) -> Descriptor:
    """Describe a blob."""
    return Descriptor(media_type=media.CHUNK, digest=digest_of(data), size=len(data))


def document(number: int = 0) -> Document:
    """Return a document."""
    data = json.dumps({"mediaType": media.INDEX, "number": number}).encode()
    return Document(media_type=media.INDEX, data=data)


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    """Give one that does not exist yet."""
    return Layout(tmp_path / "deep" / "layout")


def blob_path(layout: Layout, data: bytes) -> Path:
    """Return where a blob is stored."""
    digest = digest_of(data).removeprefix("sha256:")
    return Path(str(layout).removeprefix("the OCI layout ")) / "blobs" / "sha256" / digest


def put(layout: Layout, data: bytes) -> None:
    """Store a blob."""
    layout.put_blob(described(data), io.BytesIO(data))


def test_a_layout_that_is_missing(layout: Layout) -> None:
    """It has no blobs, its documents are not found, and nothing is created."""
    assert not layout.has_blob(described(BLOB))
    with pytest.raises(NotFound, match="no OCI layout at") as caught:
        layout.get_document("v1")
    assert caught.value.remedy
    with pytest.raises(NotFound):
        list(layout.get_blob(described(BLOB)))
    assert not blob_path(layout, BLOB).parents[3].exists()


def test_what_is_stored_can_be_read(layout: Layout) -> None:
    """Blobs by digest, documents by tag and digest; the files are for their owner alone."""
    put(layout, BLOB)
    put(layout, BLOB)
    stored = layout.put_document(document(), "v1")

    assert layout.has_blob(described(BLOB))
    assert not layout.has_blob(described(b"other"))
    assert b"".join(layout.get_blob(described(BLOB))) == BLOB
    assert layout.get_document("v1") == layout.get_document(stored.digest) == document()
    path = blob_path(layout, BLOB)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parents[2].stat().st_mode) == 0o700
    assert json.loads((path.parents[2] / "oci-layout").read_bytes()) == {
        "imageLayoutVersion": "1.0.0"
    }
    assert sorted(one.name for one in path.parent.iterdir()) == sorted(
        digest_of(data).removeprefix("sha256:") for data in (BLOB, document().data)
    )


def test_a_blob_that_is_not_what_it_should_be_is_not_stored(layout: Layout, tmp_path: Path) -> None:
    """A file that changes between its digest and its copy leaves nothing."""
    (tmp_path / "file").write_bytes(BLOB[::-1])
    with (tmp_path / "file").open("rb") as file:
        part = FileSlice(file.fileno(), 0, len(BLOB))
        with pytest.raises(ImageCorrupt):
            layout.put_blob(described(BLOB), part)  # type: ignore[arg-type]  # as an engine's part

    assert list(blob_path(layout, BLOB).parent.iterdir()) == []


def test_a_blob_of_another_size_is_stored_again(layout: Layout) -> None:
    """One that was cut off, by whatever did that, does not count."""
    put(layout, BLOB)
    os.truncate(blob_path(layout, BLOB), 10)
    assert not layout.has_blob(described(BLOB))

    put(layout, BLOB)

    assert b"".join(layout.get_blob(described(BLOB))) == BLOB


def test_tags_of_others_stay(layout: Layout) -> None:
    """Also entries with fields that only their writer knows; a tag moves."""
    layout.put_document(document(1), "v1")
    path = blob_path(layout, BLOB).parents[2] / "index.json"
    index = json.loads(path.read_bytes())
    other = {"mediaType": "x", "digest": "sha512:1", "size": 1, "extra": [1], "annotations": {}}
    index["manifests"].append(other)
    path.write_text(json.dumps(index))

    layout.put_document(document(2), "v2")
    layout.put_document(document(3), "v1")

    assert [layout.get_document(tag) for tag in ("v1", "v2")] == [document(3), document(2)]
    entries = json.loads(path.read_bytes())["manifests"]
    assert other in entries
    assert len(entries) == 3


def test_tags_that_are_set_at_once(layout: Layout, tmp_path: Path) -> None:
    """None is lost, with a `Layout` each as in several processes."""

    def one(number: int) -> None:
        Layout(tmp_path / "deep" / "layout").put_document(document(number), f"v{number}")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(one, range(24)))

    for number in range(24):
        assert layout.get_document(f"v{number}") == document(number)


def test_the_file_that_is_locked_is_made_once(
    layout: Layout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who looked before another process made it does not replace it: that one may hold its lock."""
    layout.put_document(document(1), "v1")
    [marker] = tmp_path.rglob("oci-layout")
    before = marker.stat().st_ino

    monkeypatch.setattr("shim.distribution.layout_folder.os.listdir", lambda _fd: [])
    Layout(marker.parent).put_document(document(2), "v2")

    assert marker.stat().st_ino == before


def test_a_folder_with_something_else(tmp_path: Path) -> None:
    """It is not made a layout."""
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "one.jpg").touch()

    with pytest.raises(InvalidArgument, match="not an OCI layout") as caught:
        put(Layout(tmp_path / "photos"), BLOB)

    assert caught.value.remedy
    assert [one.name for one in (tmp_path / "photos").iterdir()] == ["one.jpg"]


LINKS: dict[str, Callable[[Path], Path]] = {
    "the layout": lambda root: root,
    "blobs": lambda root: root / "blobs",
    "sha256": lambda root: root / "blobs" / "sha256",
}


@pytest.mark.parametrize("place", LINKS.values(), ids=LINKS.keys())
def test_links_are_not_followed(
    layout: Layout, tmp_path: Path, place: Callable[[Path], Path]
) -> None:
    """Neither to read nor to write."""
    put(layout, BLOB)
    root = blob_path(layout, BLOB).parents[2]
    place(root).rename(tmp_path / "elsewhere")
    place(root).symlink_to(tmp_path / "elsewhere")

    for call in (
        lambda: list(layout.get_blob(described(BLOB))),
        lambda: put(layout, b"new"),
        lambda: put(Layout(root), b"new"),
    ):
        with pytest.raises(CryoError):
            call()
    assert list(tmp_path.rglob(digest_of(b"new").removeprefix("sha256:"))) == []


@pytest.mark.parametrize(
    "index",
    (b"", b"[]", b"{}", b'{"manifests":[1]}', b"[" * 10_000, b'{"manifests":[],"x":"%b"}'),
    ids=("empty", "list", "object", "number", "deep", "large"),
)
def test_an_index_that_is_damaged(layout: Layout, index: bytes) -> None:
    """It is neither read nor replaced."""
    layout.put_document(document(), "v1")
    path = blob_path(layout, BLOB).parents[2] / "index.json"
    if b"%b" in index:
        index %= b"x" * (5 << 20)
    path.write_bytes(index)

    with pytest.raises(ImageCorrupt):
        layout.get_document("v1")
    with pytest.raises(ImageCorrupt):
        layout.put_document(document(2), "v2")
    assert path.read_bytes() == index


def test_a_document_that_is_none(layout: Layout) -> None:
    """A tag on a blob that is not a manifest or index of OCI is refused."""
    wrong = Document(media_type=media.INDEX, data=b'{"mediaType":"text/html"}')
    layout.put_document(wrong, "v1")

    with pytest.raises(ImageCorrupt, match="should be a manifest"):
        layout.get_document("v1")


def test_too_many_tags() -> None:
    """A reader's limit is a writer's too."""
    entry = {"mediaType": media.INDEX, "digest": digest_of(b""), "size": 0}
    index = json.dumps({"manifests": [entry] * 4096}).encode()

    with pytest.raises(ResourceExhausted, match="4096 tags"):
        layout_index.tagged(index, described(BLOB), "new", "it")


def test_what_a_killed_push_left_is_removed(layout: Layout) -> None:
    """After a day, by the next push; nothing else is."""
    put(layout, BLOB)
    blobs = blob_path(layout, BLOB).parent
    old, new, other = (
        blobs / f".cryo-{'a' * 16}.tmp",
        blobs / f".cryo-{'b' * 16}.tmp",
        blobs / "x",
    )
    for path in (old, new, other):
        path.touch()
    for path in (old, other, blob_path(layout, BLOB)):
        os.utime(path, (0, 0))

    put(Layout(blobs.parents[1]), b"new")

    assert [path.exists() for path in (old, new, other)] == [False, True, True]
    assert layout.has_blob(described(BLOB))


def test_a_filesystem_without_files_that_have_no_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A temporary name is used there, and nothing of it is left."""
    real = os.open

    def refusing(path: str, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
        return real(path, flags, mode, dir_fd=dir_fd)

    monkeypatch.setattr(os, "open", refusing)
    folder = os.open(str(tmp_path), os.O_RDONLY | os.O_DIRECTORY)
    try:
        for name, replace in (("one", False), ("two", True), ("two", True)):
            new = NewFile(folder)
            new.write(name.encode())
            assert len(list(tmp_path.glob(".cryo-*.tmp"))) == 1
            new.commit(name, replace=replace)
            new.close()
            new.close()
            assert (tmp_path / name).read_text() == name
        taken = NewFile(folder)
        with pytest.raises(FileExistsError):
            taken.commit("one", replace=False)
        taken.close()
    finally:
        os.close(folder)
    assert sorted(one.name for one in tmp_path.iterdir()) == ["one", "two"]
