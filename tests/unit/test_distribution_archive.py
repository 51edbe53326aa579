"""Tars of OCI layouts: complete or absent, readable by tar, and only what belongs in them."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from shim.distribution import layout_index, media, tar_format
from shim.distribution.archive_reader import ArchiveReader
from shim.distribution.archive_writer import ArchiveWriter
from shim.distribution.blob import Descriptor, FileSlice, digest_of
from shim.distribution.place import Document
from shim.errors import AlreadyExists, CryoError, FailedPrecondition, ImageCorrupt, NotFound

BLOB = b"\x07" * 3000
DOCUMENT = Document(media_type=media.INDEX, data=b'{"mediaType":"%b"}' % media.INDEX.encode())


def described(data: bytes) -> Descriptor:
    """Describe a blob."""
    return Descriptor(media_type=media.CHUNK, digest=digest_of(data), size=len(data))


def written(path: Path) -> bytes:
    """Write an archive with one blob and one document; return its bytes."""
    writer = ArchiveWriter(path)
    writer.put_blob(described(BLOB), io.BytesIO(BLOB))
    writer.put_blob(described(BLOB), io.BytesIO(BLOB))
    writer.put_document(DOCUMENT, "v1")
    writer.close()
    return path.read_bytes()


def test_what_is_written_can_be_read(tmp_path: Path) -> None:
    """By its tag, by digests, and by tar; a blob that is stored twice is there once."""
    written(tmp_path / "a.tar")

    reader = ArchiveReader(tmp_path / "a.tar")
    assert reader.get_document("v1") == DOCUMENT
    assert reader.get_document(digest_of(DOCUMENT.data)) == DOCUMENT
    assert b"".join(reader.get_blob(described(BLOB))) == BLOB
    assert reader.has_blob(described(BLOB))
    assert not reader.has_blob(described(b"other"))
    with pytest.raises(NotFound, match="nothing with the tag v2"):
        reader.get_document("v2")
    reader.close()
    with tarfile.open(tmp_path / "a.tar") as tar:
        assert [member.name.split("/")[0] for member in tar] == [
            "oci-layout",
            "blobs",
            "blobs",
            "index.json",
        ]


def test_the_same_content_is_the_same_archive(tmp_path: Path) -> None:
    """No time, owner or name of this machine is in it."""
    assert written(tmp_path / "a.tar") == written(tmp_path / "b.tar")


def test_an_archive_is_complete_or_absent(tmp_path: Path) -> None:
    """Before the document with a tag it has no name; if it is closed then, nothing is left."""
    writer = ArchiveWriter(tmp_path / "a.tar")
    writer.put_blob(described(BLOB), io.BytesIO(BLOB))
    assert list(tmp_path.iterdir()) == []

    writer.close()

    assert list(tmp_path.iterdir()) == []
    with pytest.raises(FailedPrecondition, match="closed"):
        writer.put_blob(described(b"x"), io.BytesIO(b"x"))


def test_a_blob_that_fails_is_not_in_the_archive(tmp_path: Path) -> None:
    """A file that was truncated meanwhile is refused, and can be stored again."""
    (tmp_path / "file").write_bytes(BLOB[:100])
    writer = ArchiveWriter(tmp_path / "a.tar")
    with (tmp_path / "file").open("r+b") as file:
        part = FileSlice(file.fileno(), 0, len(BLOB))
        with pytest.raises(ImageCorrupt):
            writer.put_blob(described(BLOB), part)  # type: ignore[arg-type]
        assert not writer.has_blob(described(BLOB))
        file.write(BLOB)
        file.flush()
        part.seek(0)
        writer.put_blob(described(BLOB), part)  # type: ignore[arg-type]
    writer.put_document(DOCUMENT, "v1")

    assert b"".join(ArchiveReader(tmp_path / "a.tar").get_blob(described(BLOB))) == BLOB


@pytest.mark.parametrize("late", (False, True))
def test_a_file_is_not_replaced(tmp_path: Path, late: bool) -> None:
    """Neither one that was there before, nor one that appeared meanwhile."""
    path = tmp_path / "a.tar"
    if not late:
        path.write_bytes(b"other")
        with pytest.raises(AlreadyExists, match="exists"):
            ArchiveWriter(path)
        return
    writer = ArchiveWriter(path)
    path.write_bytes(b"other")
    with pytest.raises(AlreadyExists, match="exists"):
        writer.put_document(DOCUMENT, "v1")
    writer.close()
    assert path.read_bytes() == b"other"
    assert list(tmp_path.iterdir()) == [path]


def member(name: str, data: bytes = b"", kind: bytes = tarfile.REGTYPE, link: str = "") -> bytes:
    """Return a member of a tar."""
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    info.size = len(data)
    return info.tobuf(tarfile.GNU_FORMAT) + data + tar_format.padding(len(data))


MARKER = member(layout_index.MARKER_NAME, layout_index.MARKER)
NAME = tar_format.blob_name(digest_of(BLOB))

HOSTILE: dict[str, bytes] = {
    "a link": MARKER + member(NAME, kind=tarfile.SYMTYPE, link="/etc/passwd"),
    "a hard link": MARKER + member(NAME, kind=tarfile.LNKTYPE, link="oci-layout"),
    "a device": MARKER + member(NAME, kind=tarfile.CHRTYPE),
    "a fifo": MARKER + member(NAME, kind=tarfile.FIFOTYPE),
    "a path upwards": MARKER + member(f"blobs/sha256/../../{NAME}", BLOB),
    "an absolute path": MARKER + member(f"/{NAME}", BLOB),
    "another file": MARKER + member("run.sh", BLOB),
    "a name twice": MARKER + member(NAME, BLOB) + member(f"./{NAME}", BLOB),
    "a long name": MARKER + member("a" * 300, BLOB),
    "a pax header": MARKER + member("x", b"10 size=1\n", kind=tarfile.XHDTYPE),
    "another folder": MARKER + member("etc/", kind=tarfile.DIRTYPE),
    "an impossible size": MARKER + member(NAME, BLOB)[:512],
    "damage": MARKER + b"x" + member(NAME, BLOB)[1:],
    "no marker": member(NAME, BLOB),
    "nothing": b"",
}


@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_archives_are_refused(tmp_path: Path, data: bytes) -> None:
    """Before anything in them is used."""
    (tmp_path / "a.tar").write_bytes(data + tar_format.END)

    with pytest.raises(ImageCorrupt) as caught:
        ArchiveReader(tmp_path / "a.tar")
    assert caught.value.remedy


def test_an_archive_by_tar_is_accepted(tmp_path: Path) -> None:
    """With folders, and names that begin with a dot."""
    (tmp_path / "a.tar").write_bytes(
        member("./", kind=tarfile.DIRTYPE)
        + member("./blobs/", kind=tarfile.DIRTYPE)
        + MARKER
        + member(f"./{NAME}", BLOB)
        + tar_format.END
    )

    assert b"".join(ArchiveReader(tmp_path / "a.tar").get_blob(described(BLOB))) == BLOB


def read_all(path: Path) -> None:
    """Read the document and the blob of an archive."""
    reader = ArchiveReader(path)
    assert reader.get_document("v1") == DOCUMENT
    assert b"".join(reader.get_blob(described(BLOB))) == BLOB


def test_truncated_archives_are_refused(tmp_path: Path) -> None:
    """Wherever they end: all but the last block, which tar only adds to be sure."""
    good = written(tmp_path / "good.tar")
    for end in range(0, len(good) - tar_format.BLOCK_BYTES, 61):
        (tmp_path / "cut.tar").write_bytes(good[:end])
        with pytest.raises(ImageCorrupt):
            read_all(tmp_path / "cut.tar")


def test_changed_archives(tmp_path: Path) -> None:
    """Whatever byte was changed, what is read is what was written, or nothing is."""
    good = written(tmp_path / "good.tar")
    refused = set()
    for at in range(0, len(good), 31):
        changed = good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :]
        (tmp_path / "changed.tar").write_bytes(changed)
        try:
            read_all(tmp_path / "changed.tar")
        except (ImageCorrupt, NotFound):
            refused.add(at)
    begin = good.index(BLOB)
    assert refused >= {at for at in range(0, len(good), 31) if begin <= at < begin + len(BLOB)}


@pytest.mark.parametrize("put", ("blob", "document"))
def test_an_archive_that_is_read_is_not_written(tmp_path: Path, put: str) -> None:
    """Storing is refused with a remedy."""
    written(tmp_path / "a.tar")
    reader = ArchiveReader(tmp_path / "a.tar")
    calls: dict[str, Callable[[], object]] = {
        "blob": lambda: reader.put_blob(described(BLOB), io.BytesIO(BLOB)),
        "document": lambda: reader.put_document(DOCUMENT),
    }

    with pytest.raises(CryoError, match="cannot be written") as caught:
        calls[put]()
    assert caught.value.remedy
