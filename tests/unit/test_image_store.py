"""Where images may lie, and how they come and go."""

from __future__ import annotations

import os
import stat
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shim.errors import (
    AlreadyExists,
    CryoError,
    InvalidArgument,
    NotFound,
    PermissionDenied,
)
from shim.image import deletion, listing, seal, store
from shim.image import manifest as manifests
from shim.image.staging import STAGING_PREFIX, begin, name_staging
from shim.image.verify import read_manifest
from shim.image.verify_cache import VerifyCache
from shim.model import TaskRef
from tests.unit.image_helpers import put, sealed

REF = TaskRef(namespace="ns", id="t1")
NOW = datetime(2026, 11, 23, 20, 10, 3, 5, timezone(timedelta(hours=2)))


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Give an empty images folder."""
    (tmp_path / "images").mkdir()
    return tmp_path / "images"


@pytest.fixture
def cache(tmp_path: Path) -> VerifyCache:
    """Give an empty verification cache."""
    return VerifyCache(tmp_path / "verified")


def test_the_default_is_named_by_task_and_time(images: Path) -> None:
    """Below the configured folder, with the time in UTC so that names sort by age."""
    path = store.resolve_new("", images, REF, NOW)

    assert path == images / "ns" / "t1" / "20261123T181003.000005Z"


def test_nothing_is_made_by_resolving(images: Path, tmp_path: Path) -> None:
    """A preflight that says yes has touched nothing."""
    store.resolve_new("", images, REF, NOW)
    store.resolve_new(str(tmp_path / "a" / "b"), images, REF, NOW)

    assert list(tmp_path.rglob("*")) == [images]


@pytest.mark.parametrize("path", ("relative", "./x", "../x", "~/x", " /x"))
def test_a_relative_path_is_refused(images: Path, path: str) -> None:
    """The sidecar has a working folder of its own: only absolute paths mean something."""
    with pytest.raises(InvalidArgument, match="absolute"):
        store.resolve_new(path, images, REF, NOW)
    with pytest.raises(NotFound if path == "relative" else InvalidArgument):
        store.resolve_existing(path, images)  # which may be a name


@pytest.mark.parametrize("tail", ("../x", "a/../../x", "a/..", ".."))
def test_dots_are_refused(images: Path, tail: str) -> None:
    """A path that climbs is refused, even where it would come back."""
    with pytest.raises(InvalidArgument, match=r"'\.\.'"):
        store.resolve_new(f"{images}/{tail}", images, REF, NOW)
    with pytest.raises(InvalidArgument, match=r"'\.\.'"):
        store.resolve_existing(f"{images}/{tail}", images)


@pytest.mark.parametrize("path", ("/a\0b", "/" + "x" * 5000))
def test_what_is_no_path_is_refused(images: Path, path: str) -> None:
    """NUL and endless names are refused before any system call."""
    with pytest.raises(InvalidArgument):
        store.resolve_new(path, images, REF, NOW)


@settings(suppress_health_check=(HealthCheck.function_scoped_fixture,), deadline=None)
@given(st.text(st.characters(codec="utf-8"), max_size=40))
def test_any_text_gives_a_path_or_a_typed_error(images: Path, text: str) -> None:
    """No text makes anything else, and what lies below the folder stays below it."""
    for requested in (text, f"{images}/{text}"):
        try:
            path = store.resolve_new(requested, images, REF, NOW)
        except CryoError:
            continue

        assert path.is_absolute()
        assert ".." not in path.parts


def test_a_link_out_of_the_folder_is_refused(
    images: Path, tmp_path: Path, cache: VerifyCache
) -> None:
    """A link inside the images folder leads nowhere else."""
    sealed(tmp_path / "outside" / "i")
    (images / "link").symlink_to(tmp_path / "outside")

    for resolve in (
        lambda: store.resolve_new(f"{images}/link/new", images, REF, NOW),
        lambda: store.resolve_existing(f"{images}/link/i", images),
        lambda: deletion.remove_ref(f"{images}/link/i", images, cache),
    ):
        with pytest.raises(InvalidArgument, match="through a link"):
            resolve()
    assert (tmp_path / "outside" / "i").exists()


def test_a_circle_of_links_is_refused(images: Path) -> None:
    """Links that lead to each other end in an error."""
    (images / "a").symlink_to("b")
    (images / "b").symlink_to("a")

    with pytest.raises(CryoError):
        store.resolve_new(f"{images}/a/x", images, REF, NOW)
    with pytest.raises(CryoError):
        store.resolve_existing(f"{images}/a/x", images)


def test_a_link_within_the_folder_is_followed(images: Path) -> None:
    """What stays below the images folder is fine."""
    (images / "real").mkdir()
    (images / "link").symlink_to("real")

    assert store.resolve_new(f"{images}/link/x", images, REF, NOW) == images / "link" / "x"


@pytest.mark.parametrize("kind", ("file", "folder", "image", "link", "dangling link"))
def test_a_path_that_is_taken_is_refused(tmp_path: Path, images: Path, kind: str) -> None:
    """Whatever is there, even a link to nowhere."""
    put(tmp_path / "x", kind)

    with pytest.raises(AlreadyExists, match="exists"):
        store.resolve_new(str(tmp_path / "x"), images, REF, NOW)


def test_the_folder_itself_is_no_image(images: Path) -> None:
    """The images folder cannot be an image, however it is spelled."""
    for spelled in (f"{images}", f"{images}/", f"/{images}", f"{images}/."):
        with pytest.raises(InvalidArgument, match="all images"):
            store.resolve_new(spelled, images, REF, NOW)


def test_reserved_names_are_refused(images: Path) -> None:
    """A name that is cleaned up as a leftover cannot be chosen."""
    with pytest.raises(InvalidArgument, match="reserved"):
        store.resolve_new(f"{images}/{STAGING_PREFIX}x", images, REF, NOW)


def test_a_file_in_the_way_is_refused(tmp_path: Path, images: Path) -> None:
    """An image cannot lie below a file."""
    (tmp_path / "file").touch()

    with pytest.raises(InvalidArgument, match="not a folder"):
        store.resolve_new(str(tmp_path / "file" / "x"), images, REF, NOW)


def test_a_folder_that_cannot_be_written_is_refused(
    tmp_path: Path, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A read-only place is refused before anything is frozen."""

    def access(_path: object, _mode: int) -> bool:
        return False

    monkeypatch.setattr(os, "access", access)

    with pytest.raises(PermissionDenied, match="written"):
        store.resolve_new(str(tmp_path / "x"), images, REF, NOW)


@pytest.mark.parametrize("kind", ("nothing", "file", "link", "dangling link"))
def test_no_image_is_not_found(tmp_path: Path, images: Path, kind: str) -> None:
    """Only a folder can be an image, not a link to one."""
    if kind != "nothing":
        put(tmp_path / "x", kind)

    with pytest.raises(NotFound):
        store.resolve_existing(str(tmp_path / "x"), images)


def test_an_unnamed_image_is_refused(images: Path) -> None:
    """An empty path is no request."""
    with pytest.raises(InvalidArgument):
        store.resolve_existing("", images)


def test_a_staging_folder_lies_beside_the_image_and_is_private(images: Path) -> None:
    """Same filesystem, so that a rename is enough; no other user has access."""
    final = images / "ns" / "t1" / "x"
    staging = begin(name_staging(final))

    assert staging.path.parent == final.parent
    assert staging.path.name.startswith(STAGING_PREFIX)
    assert stat.S_IMODE(staging.path.stat().st_mode) == 0o700
    staging.discard()


def test_a_discarded_image_leaves_no_trace(images: Path) -> None:
    """The folders made on the way go too, and discarding twice is fine."""
    staging = begin(name_staging(images / "ns" / "t1" / "x"))
    (staging.path / "pages.img").touch()

    staging.discard()
    staging.discard()

    assert list(images.iterdir()) == []


def test_folders_of_others_stay(images: Path) -> None:
    """What was there before, or is used by now, is not removed."""
    (images / "ns").mkdir()
    first = begin(name_staging(images / "ns" / "t1" / "x"))
    second = begin(name_staging(images / "ns" / "t1" / "y"))

    first.discard()
    second.discard()

    assert [path.name for path in images.iterdir()] == ["ns"]


def test_a_failed_beginning_leaves_no_folders(
    images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that fills up at the last folder has none of ours on it."""

    def locked(_folder: Path) -> tuple[Path, int]:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("shim.image.staging._make_locked", locked)

    with pytest.raises(CryoError, match="No space"):
        begin(name_staging(images / "ns" / "t1" / "x"))
    assert list(images.iterdir()) == []


def test_a_staging_folder_is_stale_once_no_process_holds_it(images: Path) -> None:
    """While its creator lives it is not listed as a leftover."""
    staging = begin(name_staging(images / "ns" / "t1" / "x"))

    assert store.stale_stagings(images) == []
    staging.close()
    assert store.stale_stagings(images) == [staging.path]


def test_a_beginning_that_was_cut_off_becomes_stale(images: Path) -> None:
    """The name from before the lock counts only after a while."""
    young, old = images / ".cryo-begin-1", images / ".cryo-begin-2"
    young.mkdir()
    old.mkdir()
    os.utime(old, (1, 1))

    assert store.stale_stagings(images) == [old]


def test_images_are_listed_newest_first(images: Path) -> None:
    """Only images: not what is being made, nor what lies beside them, nor through links."""
    for at, name in enumerate(("a", "b", "c")):
        sealed(images / "ns" / "t1" / name, created_at=NOW + timedelta(seconds=at))
    sealed(images / "top", created_at=NOW - timedelta(days=1))
    (images / "ns" / "link").symlink_to("t1")
    (images / "ns" / "t1" / "file").touch()
    staging = begin(name_staging(images / "ns" / "t1" / "x"))
    sealed(staging.path / "sub")

    found = listing.list_images(images)

    assert [Path(view.path).name for view in found] == ["c", "b", "a", "top"]
    assert found[0].processes == 1
    assert found[0].size_bytes > 5000
    assert found[0].digest
    staging.discard()


def test_a_damaged_image_is_listed_without_a_digest(images: Path, cache: VerifyCache) -> None:
    """What is broken is seen, and can be removed."""
    sealed(images / "x")
    (images / "x" / manifests.NAME).write_bytes(b"{}")

    (view,) = listing.list_images(images)

    assert view.digest == ""
    deletion.remove(Path(view.path), images, cache)
    assert listing.list_images(images) == []


def test_no_folder_no_images(tmp_path: Path) -> None:
    """Before the first checkpoint there is no folder, and that is no error."""
    assert listing.list_images(tmp_path / "none") == []
    assert store.stale_stagings(tmp_path / "none") == []


def test_an_image_is_removed_with_its_empty_folders(
    images: Path, tmp_path: Path, cache: VerifyCache
) -> None:
    """Its entry in the cache goes with it."""
    path = images / "ns" / "t1" / "a"
    cache.remember_image(path, sealed(path))
    sealed(images / "ns" / "t2" / "b")
    assert list((tmp_path / "verified").iterdir())

    deletion.remove(path, images, cache)

    assert list((tmp_path / "verified").iterdir()) == []
    assert [path.name for path in (images / "ns").iterdir()] == ["t2"]


def test_only_images_below_the_folder_are_removed(
    images: Path, tmp_path: Path, cache: VerifyCache
) -> None:
    """Neither a folder elsewhere, nor one without a manifest, nor the folder itself."""
    sealed(tmp_path / "elsewhere")
    sealed(images / "ns" / "a")

    for path, error in (
        (tmp_path / "elsewhere", InvalidArgument),
        (images / "ns", NotFound),
        (images, InvalidArgument),
        (Path("/"), InvalidArgument),
    ):
        with pytest.raises(error):
            deletion.remove(path, images, cache)
    assert (tmp_path / "elsewhere" / "pages.img").exists()
    assert (images / "ns" / "a" / "pages.img").exists()


def test_the_whole_way_of_an_image(images: Path, cache: VerifyCache) -> None:
    """Begun, sealed, named, listed, removed."""
    final = store.resolve_new("", images, REF, NOW)
    staging = begin(name_staging(final))
    sealed(staging.path)
    seal.commit(staging.path, final)
    staging.close()

    assert store.resolve_existing(str(final), images) == final
    assert [view.path for view in listing.list_images(images)] == [str(final)]
    assert store.stale_stagings(images) == []
    deletion.remove(final, images, cache)
    assert list(images.iterdir()) == []


def test_times_are_utc() -> None:
    """A time of any zone gives the same name."""
    assert store.default_path(Path("/i"), REF, NOW) == store.default_path(
        Path("/i"), REF, NOW.astimezone(UTC)
    )


def test_one_odd_image_spoils_no_listing(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder whose name is no text, and a fault while one is read, are shown as damaged."""
    sealed(images / "good")
    sealed(images / "odd")
    strange = Path(os.fsdecode(os.fsencode(images) + b"/\xff\x1b"))
    sealed(strange)

    def faulty(path: Path) -> manifests.Manifest:
        if path.name == "odd":
            raise OverflowError("date value out of range")
        return read_manifest(path)

    monkeypatch.setattr(listing, "read_manifest", faulty)
    found = {view.path: view.task for view in listing.list_images(images)}

    assert found == {
        str(images / "good"): "t1",
        str(images / "odd"): "",
        f"{images}/\\xff\x1b": "t1",
    }
    assert all(path.encode("utf-8") for path in found)


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="giving a file away needs root")


@needs_root
def test_an_image_goes_into_no_folder_of_anothers(images: Path, tmp_path: Path) -> None:
    """Who owns a folder on the way could have the memory; nothing is made there."""
    (tmp_path / "his").mkdir()
    os.chown(tmp_path / "his", 65534, 65534)

    with pytest.raises(PermissionDenied, match="his belongs to user 65534"):
        store.resolve_new(str(tmp_path / "his" / "new" / "img"), images, REF, NOW)
    with pytest.raises(PermissionDenied):
        begin(name_staging(tmp_path / "his" / "new" / "img"))

    assert list((tmp_path / "his").iterdir()) == []


def test_a_staging_folder_is_used_by_its_descriptor(tmp_path: Path) -> None:
    """A link in its place leads nowhere: not for emptying, not for counting, and it is reported."""
    (tmp_path / "victim" / "sub").mkdir(parents=True)
    (tmp_path / "victim" / "precious").write_bytes(b"x" * 10)
    staging = begin(tmp_path / ".cryo-staging-00")
    staging.check()
    (staging.path / "half").write_bytes(b"abc")
    staging.path.rename(tmp_path / "aside")
    staging.path.symlink_to("victim")

    assert staging.folder.size_bytes == 3
    staging.empty()

    assert list((tmp_path / "aside").iterdir()) == []
    assert (tmp_path / "victim" / "precious").exists()
    with pytest.raises(PermissionDenied, match="replaced while"):
        staging.check()
    staging.close()
