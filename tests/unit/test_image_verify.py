"""Verifying an image: whatever happened to it is found, and nothing is read twice in vain."""

from __future__ import annotations

import os
import shutil
import stat
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shim.errors import CryoError, ImageCorrupt, NotFound, PermissionDenied
from shim.image import manifest as manifests
from shim.image import seal
from shim.image.directory import open_image_dir
from shim.image.side_files import LABELS, SIGNATURES
from shim.image.verify import HeldImage, read_manifest, verify
from shim.image.verify_cache import VerifyCache
from shim.model import Progress, Verify
from tests.unit.image_helpers import FILES, ProgressLog, fill, manifest, put, seal_at, sealed

ALL_MODES = (Verify.AUTO, Verify.FULL, Verify.NONE)
TOTAL = sum(map(len, FILES.values()))
SIZES = {**{name: len(data) for name, data in FILES.items()}, manifests.NAME: 400}
SAME_FOLDER = settings(
    suppress_health_check=(HealthCheck.function_scoped_fixture,), max_examples=60, deadline=None
)


def quiet(_progress: Progress) -> None:
    """Take no notice."""


@pytest.fixture
def cache(tmp_path: Path) -> VerifyCache:
    """Give an empty cache."""
    return VerifyCache(tmp_path / "verified")


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """Give a sealed image."""
    sealed(tmp_path / "image")
    return tmp_path / "image"


@pytest.mark.parametrize("mode", ALL_MODES)
def test_a_whole_image_passes(image: Path, cache: VerifyCache, mode: Verify) -> None:
    """The manifest comes back, in every mode."""
    assert verify(image, mode, cache, quiet).task == "t1"


@SAME_FOLDER
@given(data=st.data())
def test_any_changed_byte_of_any_file_is_found(
    image: Path, cache: VerifyCache, data: st.DataObject
) -> None:
    """One byte anywhere, in whatever file, is enough, in both modes that read."""
    name = data.draw(st.sampled_from(sorted(SIZES)))
    at = data.draw(st.integers(0, SIZES[name] - 1))
    mask = data.draw(st.integers(1, 255))
    mode = data.draw(st.sampled_from((Verify.FULL, Verify.AUTO)))
    whole = (image / name).read_bytes()
    damaged = bytearray(whole)
    damaged[at] ^= mask
    (image / name).write_bytes(damaged)

    try:
        with pytest.raises(ImageCorrupt):
            verify(image, mode, cache, quiet)
    finally:
        (image / name).write_bytes(whole)


@SAME_FOLDER
@given(data=st.data())
def test_any_other_length_is_found_in_every_mode(
    image: Path, cache: VerifyCache, data: st.DataObject
) -> None:
    """A file that was cut or has grown is found without reading it."""
    name = data.draw(st.sampled_from(sorted(FILES)))
    length = data.draw(st.integers(0, 2 * SIZES[name]).filter(lambda n: n != SIZES[name]))
    mode = data.draw(st.sampled_from(ALL_MODES))
    whole = (image / name).read_bytes()
    os.truncate(image / name, length)

    try:
        with pytest.raises(ImageCorrupt, match=name):
            verify(image, mode, cache, quiet)
    finally:
        (image / name).write_bytes(whole)


@pytest.mark.parametrize("mode", ALL_MODES)
@pytest.mark.parametrize("name", (*FILES, manifests.NAME))
def test_a_missing_file_is_named(image: Path, cache: VerifyCache, mode: Verify, name: str) -> None:
    """Each file is needed, the manifest first of all."""
    (image / name).unlink()

    with pytest.raises(ImageCorrupt, match=rf"{name}.* missing"):
        verify(image, mode, cache, quiet)


@pytest.mark.parametrize("mode", ALL_MODES)
def test_an_added_file_is_named(image: Path, cache: VerifyCache, mode: Verify) -> None:
    """What was not sealed does not belong there."""
    (image / "extra.img").touch()

    with pytest.raises(ImageCorrupt, match=r"extra\.img"):
        verify(image, mode, cache, quiet)


@pytest.mark.parametrize("mode", ALL_MODES)
@pytest.mark.parametrize("name", ("pages.img", manifests.NAME))
@pytest.mark.parametrize("kind", ("link", "folder", "fifo"))
def test_what_is_no_file_is_refused(
    image: Path, cache: VerifyCache, mode: Verify, name: str, kind: str
) -> None:
    """Nothing is read through a link, and a fifo is not waited for."""
    (image / name).unlink()
    put(image / name, kind)

    with pytest.raises(ImageCorrupt, match=f"{name} is not a regular file"):
        verify(image, mode, cache, quiet)


def test_no_image_is_not_found(tmp_path: Path, cache: VerifyCache) -> None:
    """A path with nothing, a file, or a link is no image."""
    (tmp_path / "file").touch()
    sealed(tmp_path / "real")
    (tmp_path / "link").symlink_to("real")

    for name in ("nothing", "file", "link"):
        with pytest.raises(NotFound, match=name):
            verify(tmp_path / name, Verify.FULL, cache, quiet)


def test_auto_reads_a_new_image_once(image: Path, cache: VerifyCache) -> None:
    """The first time everything is read, the second time nothing, and full always everything."""
    first, second, third = ProgressLog(), ProgressLog(), ProgressLog()

    verify(image, Verify.AUTO, cache, first)
    verify(image, Verify.AUTO, cache, second)
    verify(image, Verify.FULL, cache, third)

    assert (first.bytes_read, second.bytes_read, third.bytes_read) == (TOTAL, 0, TOTAL)


def test_an_image_sealed_here_is_not_read_again(image: Path, cache: VerifyCache) -> None:
    """What was hashed for its seal is known already, under its final name too."""
    updates = ProgressLog()
    final = image.with_name("final")
    done = manifests.decode((image / manifests.NAME).read_bytes(), "")
    seal.commit(image, final)
    cache.remember_image(final, done)

    verify(final, Verify.AUTO, cache, updates)

    assert updates.bytes_read == 0


def test_auto_reads_again_only_what_was_touched(image: Path, cache: VerifyCache) -> None:
    """A file whose ctime has changed is read, the others are not."""
    verify(image, Verify.AUTO, cache, quiet)
    os.utime(image / "checkpoint.img")
    updates = ProgressLog()

    verify(image, Verify.AUTO, cache, updates)

    assert updates.bytes_read == len(FILES["checkpoint.img"])


def test_a_copy_is_read_and_both_are_known_then(
    image: Path, tmp_path: Path, cache: VerifyCache
) -> None:
    """Two copies of one image do not forget each other."""
    copy = tmp_path / "copy"
    shutil.copytree(image, copy)
    reads = []
    for path in (image, copy, image, copy):
        updates = ProgressLog()
        verify(path, Verify.AUTO, cache, updates)
        reads.append(updates.bytes_read)

    assert reads == [TOTAL, TOTAL, 0, 0]


def test_auto_finds_a_change_after_it_was_verified(image: Path, cache: VerifyCache) -> None:
    """Same size and same mtime do not deceive it: the kernel's ctime shows it."""
    verify(image, Verify.AUTO, cache, quiet)
    before = (image / "pages.img").stat()
    with (image / "pages.img").open("r+b") as file:
        file.write(b"\x08")
    os.utime(image / "pages.img", ns=(before.st_atime_ns, before.st_mtime_ns))

    with pytest.raises(ImageCorrupt, match=r"pages\.img"):
        verify(image, Verify.AUTO, cache, quiet)


@pytest.mark.parametrize("damage", (b"", b"{", b"[]", b"\xff", b'{"copies": [{"pages.img": 1}]}'))
def test_a_damaged_verify_cache_only_costs_a_reading(
    image: Path, tmp_path: Path, cache: VerifyCache, damage: bytes
) -> None:
    """Whatever is in the cache, the image is read and the cache is whole again."""
    done = verify(image, Verify.AUTO, cache, quiet)
    (tmp_path / "verified" / f"{done.digest}.json").write_bytes(damage)
    again, after = ProgressLog(), ProgressLog()

    verify(image, Verify.AUTO, cache, again)
    verify(image, Verify.AUTO, cache, after)

    assert (again.bytes_read, after.bytes_read) == (TOTAL, 0)


def test_a_forgotten_image_is_read_again(image: Path, cache: VerifyCache) -> None:
    """Forgetting is idempotent."""
    done = verify(image, Verify.AUTO, cache, quiet)
    cache.forget(done.digest)
    cache.forget(done.digest)
    updates = ProgressLog()

    verify(image, Verify.AUTO, cache, updates)

    assert updates.bytes_read == TOTAL


def test_the_verify_cache_keeps_a_bounded_number_of_copies(
    image: Path, tmp_path: Path, cache: VerifyCache
) -> None:
    """Copies of an image do not fill the disk."""
    for number in range(12):
        copy = tmp_path / f"copy{number}"
        shutil.copytree(image, copy)
        done = verify(copy, Verify.AUTO, cache, quiet)

    kept = (tmp_path / "verified" / f"{done.digest}.json").read_bytes()
    assert kept.count(b"pages.img") == 8


def test_a_verify_cache_that_cannot_be_written_does_not_fail_a_good_image(
    image: Path, tmp_path: Path
) -> None:
    """The image is whole; that this could not be noted is a warning."""
    (tmp_path / "file").touch()
    updates = ProgressLog()

    verify(image, Verify.AUTO, VerifyCache(tmp_path / "file" / "verified"), updates)

    assert any("read again" in text for text in updates.warnings)


def test_an_unsealed_image_says_so(tmp_path: Path, cache: VerifyCache) -> None:
    """There is nothing to compare its content with: a warning; sizes are checked all the same."""
    seal_at(fill(tmp_path / "i"), manifest(), sealed=False)
    updates = ProgressLog()

    verify(tmp_path / "i", Verify.FULL, cache, updates)
    os.truncate(tmp_path / "i" / "pages.img", 3)

    assert "not sealed" in updates.warnings[0]
    with pytest.raises(ImageCorrupt, match="truncated"):
        verify(tmp_path / "i", Verify.FULL, cache, quiet)


def test_a_huge_manifest_is_not_read(
    image: Path, cache: VerifyCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is longer than any manifest is refused before it is parsed."""
    monkeypatch.setattr(manifests, "MAX_MANIFEST_BYTES", 100)

    with pytest.raises(ImageCorrupt, match="too large"):
        verify(image, Verify.NONE, cache, quiet)


def test_it_stops_when_the_report_raises(image: Path, cache: VerifyCache) -> None:
    """A cancelled caller's cancellation takes effect, and nothing is remembered."""

    def report(progress: Progress) -> None:
        if progress.bytes_done:
            message = "gone"
            raise CryoError(message)

    with pytest.raises(CryoError, match="gone"):
        verify(image, Verify.AUTO, cache, report)
    updates = ProgressLog()
    verify(image, Verify.AUTO, cache, updates)

    assert updates.bytes_read == TOTAL


def test_what_is_known_of_images_that_are_gone_is_dropped(
    tmp_path: Path, cache: VerifyCache
) -> None:
    """Images removed by others, or made again at the same path, leave nothing behind."""
    folder = tmp_path / "verified"
    for name in ("kept", "removed", "changed"):
        done = sealed(tmp_path / name, task=name)
        assert cache.remember_image(tmp_path / name, done)
    shutil.rmtree(tmp_path / "removed")
    shutil.rmtree(tmp_path / "changed")
    sealed(tmp_path / "changed", task="another")
    (folder / "damaged.json").write_bytes(b"{")

    cache.prune()

    assert [path.name for path in folder.iterdir()] == [f"{sealed_digest(tmp_path / 'kept')}.json"]


def test_entries_do_not_pile_up(tmp_path: Path, cache: VerifyCache) -> None:
    """Each image that is noted has some of those that are gone forgotten."""
    for number in range(200):
        image = tmp_path / "images" / str(number)
        assert cache.remember_image(image, sealed(image, task=f"t{number}"))
        shutil.rmtree(image)

    assert len(list((tmp_path / "verified").iterdir())) < 40


def sealed_digest(image: Path) -> str:
    """Return the digest of an image's manifest."""
    return read_manifest(image).digest


# -- whose an image is ---------------------------------------------------------------------------

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="giving a file away needs root")


@needs_root
@pytest.mark.parametrize("what", ("folder", "file", "parent"))
def test_an_image_that_somebody_else_can_change_is_refused(
    image: Path, cache: VerifyCache, what: str
) -> None:
    """Another's folder, his file in it, or his folder above it; --untrusted-folder takes it."""
    given = {"folder": image, "file": image / "pages.img", "parent": image.parent}[what]
    os.chown(given, 65534, 65534)
    try:
        with pytest.raises(PermissionDenied, match="belongs to user 65534"):
            verify(image, Verify.FULL, cache, quiet)
        if what != "file":
            with pytest.raises(PermissionDenied):
                read_manifest(image, strict=True)
        assert verify(image, Verify.FULL, cache, quiet, strict=False).sealed
    finally:
        os.chown(given, 0, 0)


def test_an_image_that_all_can_write_to_is_refused(image: Path, cache: VerifyCache) -> None:
    """The sticky bit does not make it better: files can be added to it."""
    image.chmod(0o1777)

    with pytest.raises(PermissionDenied, match="others may write"):
        verify(image, Verify.FULL, cache, quiet)


def test_a_hard_link_in_an_image_is_refused(
    image: Path, tmp_path: Path, cache: VerifyCache
) -> None:
    """A file with a second name may be any file of the filesystem."""
    (tmp_path / "other").hardlink_to(image / "pages.img")

    with pytest.raises(PermissionDenied, match=r"pages\.img has 2 hard links"):
        verify(image, Verify.FULL, cache, quiet)


def test_what_this_host_has_read_is_verified_without_reading(
    image: Path, cache: VerifyCache
) -> None:
    """Only once it was read, and only until a file changes; `full` always reads."""
    held = HeldImage(image)
    assert not held.verify_known(Verify.AUTO, cache)
    assert held.manifest is None
    held.verify(Verify.AUTO, cache, quiet)
    held.close()

    held = HeldImage(image)
    assert not held.verify_known(Verify.FULL, cache)
    assert held.verify_known(Verify.AUTO, cache)
    assert held.manifest is not None
    held.check_unchanged()
    held.close()

    changed = next(name for name in FILES if name != "pages.img")
    (image / changed).write_bytes(FILES[changed])
    held = HeldImage(image)
    assert not held.verify_known(Verify.AUTO, cache, may_load=lambda _: True)
    held.close()


def test_pages_may_be_left_by_what_reads_nothing(image: Path, cache: VerifyCache) -> None:
    """Their damage is found by the verification that completes it; other damage at once."""
    verify(image, Verify.AUTO, cache, quiet)
    (image / "pages.img").write_bytes(bytes(len(FILES["pages.img"])))
    held = HeldImage(image)
    assert not held.verify_known(Verify.AUTO, cache)
    assert held.verify_known(Verify.AUTO, cache, may_load=lambda _: True)
    assert held.has_pages_left
    with pytest.raises(ImageCorrupt, match=r"pages\.img was changed"):
        held.verify_pages(quiet)
    held.close()

    (image / "pages.img").write_bytes(b"")
    held = HeldImage(image)
    with pytest.raises(ImageCorrupt, match=r"pages\.img was truncated"):
        held.verify_known(Verify.AUTO, cache)
    held.close()


def test_an_image_that_is_not_sealed_is_verified_with_a_warning(
    image: Path, cache: VerifyCache
) -> None:
    """What reads nothing leaves that to what reports."""
    made = manifest()
    shutil.rmtree(image)
    seal_at(fill(image), made, sealed=False)
    log = ProgressLog()
    held = HeldImage(image)

    assert not held.verify_known(Verify.AUTO, cache)
    held.verify(Verify.AUTO, cache, log)

    held.close()
    assert any("not sealed" in one.message for one in log.all)


def test_what_was_verified_is_what_is_loaded(image: Path, cache: VerifyCache) -> None:
    """An open image is reached whatever has its name, and a swapped file is reported."""
    held = HeldImage(image)
    held.verify(Verify.FULL, cache, quiet)
    held.check_unchanged()
    aside = image.with_name("aside")
    image.rename(aside)
    image.mkdir()

    assert (Path(held.path) / "pages.img").samefile(aside / "pages.img")
    (aside / "new").write_bytes((aside / "pages.img").read_bytes())
    (aside / "new").rename(aside / "pages.img")
    with pytest.raises(ImageCorrupt, match=r"pages\.img was changed while it was loaded"):
        held.check_unchanged()
    held.close()
    held.close()


@pytest.mark.parametrize("kind", ("fifo", "link", "device"))
def test_what_is_no_file_is_not_opened(
    image: Path, cache: VerifyCache, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A device or fifo in the place of a file is judged before anything is opened."""
    (image / "pages.img").unlink()
    if kind == "device":
        if os.geteuid() != 0:
            pytest.skip("making a device needs root")
        os.mknod(image / "pages.img", 0o600 | stat.S_IFCHR, os.makedev(10, 229))
    else:
        put(image / "pages.img", kind)
    opened: list[int] = []
    real = os.open

    def watched(path: Any, flags: int, *more: Any, **where: Any) -> int:
        if str(path).endswith("pages.img"):
            opened.append(flags & os.O_PATH)
        return real(path, flags, *more, **where)

    monkeypatch.setattr(os, "open", watched)
    with pytest.raises(ImageCorrupt, match="not a regular file"):
        verify(image, Verify.FULL, cache, quiet)
    assert not opened

    with (
        open_image_dir(image) as folder,
        pytest.raises(ImageCorrupt, match="not a regular file"),
        folder.opened("pages.img"),
    ):
        pytest.fail("it was opened")
    assert opened
    assert all(opened)


@pytest.mark.parametrize("name", (LABELS, SIGNATURES, f".{SIGNATURES}.0a1b2c3d.tmp"))
def test_side_files_are_no_part_of_an_image(
    image: Path, cache: VerifyCache, tmp_path: Path, name: str
) -> None:
    """Labels and signatures change without the image: it stays intact, and they are not sealed."""
    (image / name).write_bytes(b"{}")
    shutil.copytree(image, tmp_path / "again", ignore=shutil.ignore_patterns(manifests.NAME))

    verify(image, Verify.FULL, cache, quiet)
    again = seal_at(tmp_path / "again", manifest())

    assert {file.name for file in again.files} == set(FILES)


@pytest.mark.parametrize("name", (f"{LABELS}x", ".cryo-other.json", f".{LABELS}.tmp2", ".tmp"))
def test_no_other_name_is_that_of_a_side_file(image: Path, cache: VerifyCache, name: str) -> None:
    """A name that only resembles one is something that was added."""
    (image / name).write_bytes(b"{}")

    with pytest.raises(ImageCorrupt, match="is not part of it"):
        verify(image, Verify.NONE, cache, quiet)
