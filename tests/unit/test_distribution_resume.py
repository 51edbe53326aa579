"""Pulls that were interrupted continue, and take from this host what it has."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from shim.config import Config, Paths
from shim.distribution.artifact import decode, manifest_in
from shim.distribution.layout import Layout
from shim.errors import Busy, Cancelled, ImageCorrupt, ResourceExhausted, Unavailable
from shim.image import listing, resumable, staging
from shim.image.images import Images
from shim.image.manifest import NAME
from shim.model import Progress
from tests.unit.transfer_helpers import MIB, TAG, Machine, Watched, killed, pages

PULL_POINTS = ("pull.begin", "pull.chunk", "pull.journal", "pull.manifest", "pull.commit")
PUSH_POINTS = ("push.blob", "push.document")


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """Give one with an image that was pushed."""
    made = Machine(tmp_path)
    made.push(made.image("source", pages(1, 24) + bytes(4 * MIB)))
    return made


def fail_at(number: int) -> Callable[[int], None]:
    """Return what fails a place at a blob, and all later ones."""

    def before(count: int) -> None:
        if count >= number:
            message = "the place is gone"
            raise Unavailable(message, remedy="try again")

    return before


def test_a_pull_continues_where_the_last_one_ended(machine: Machine) -> None:
    """No chunk is fetched twice."""
    first = Watched(machine.layout, fail_at(6))
    with pytest.raises(Unavailable, match="the place is gone"):
        machine.pull("b", place=first, jobs=1)
    assert not (machine.images / "b").exists()
    assert len(machine.partial_pulls()) == 1

    second = Watched(machine.layout)
    done = machine.pull("b", place=second)

    # The first is the config, the last one failed.
    finished = [one for one in first.fetched[1:5] if one.size > MIB]
    assert finished
    assert not {one.digest for one in finished} & {one.digest for one in second.fetched}
    assert done.bytes_reused >= sum(one.size for one in finished)
    assert machine.verified("b") == machine.verified("source")
    assert machine.partial_pulls() == []
    assert (machine.images / "b" / "pages.img").stat().st_blocks * 512 <= 24 * MIB + 4096


@pytest.mark.parametrize("side", ("before", "after"))
@pytest.mark.parametrize("point", PULL_POINTS)
def test_a_killed_pull_leaves_no_image_and_is_continued(
    machine: Machine, point: str, side: str
) -> None:
    """At each step: a complete image or none, and the next pull fetches what is missing."""
    count = 4 if point in {"pull.chunk", "pull.journal"} else 1
    assert killed(machine, "pull", "b", f"{point}:{side}", count=count)

    if os.path.lexists(machine.images / "b"):
        assert (point, side) == ("pull.commit", "after")
    else:
        assert [view.path for view in listing.list_images(machine.images)] == [
            str(machine.images / "source")
        ]
    place = Watched(machine.layout)
    again = machine.pull("b", place=place)
    assert machine.verified("b") == machine.verified("source")
    if point == "pull.journal":
        assert again.bytes_reused > 0
    if point in {"pull.manifest", "pull.commit"}:
        assert again.bytes_moved == 0
    assert machine.partial_pulls() == []


@pytest.mark.parametrize("side", ("before", "after"))
@pytest.mark.parametrize("point", PUSH_POINTS)
def test_a_killed_push_leaves_the_old_image_or_the_new_one(
    machine: Machine, point: str, side: str
) -> None:
    """The tag never refers to something incomplete; the next push completes it."""
    changed = machine.image("changed", pages(2, 8) + pages(1, 24)[8 * MIB :])
    count = 2
    assert killed(machine, "push", "changed", f"{point}:{side}", count=count)

    machine.pull("b")
    after_all = (point, side) == ("push.document", "after")
    expected = "changed" if after_all else "source"
    assert machine.verified("b") == machine.verified(expected)

    again = machine.push(changed)
    machine.pull("c")
    assert machine.verified("c") == machine.verified("changed")
    if point == "push.document":
        assert again.bytes_moved == 0


@pytest.mark.parametrize("number", (1, 3))
def test_a_cancelled_pull_is_continued(machine: Machine, number: int) -> None:
    """No thread is left when it returns, and no image is visible."""
    stopped = threading.Event()

    def report(_progress: Progress) -> None:
        if stopped.is_set():
            raise Cancelled("cancelled")

    def hang(count: int) -> None:
        """Wait for the network, which only the end of the connection ends."""
        if count > number:
            stopped.set()
            assert place.closed.wait(30)

    place = Watched(machine.layout, hang)
    before = threading.active_count()
    with pytest.raises(Cancelled):
        machine.pull("b", place=place, report=report)

    assert threading.active_count() == before
    assert not (machine.images / "b").exists()
    machine.pull("b")
    assert machine.verified("b") == machine.verified("source")


def test_a_cancelled_push_stores_no_document(machine: Machine) -> None:
    """The tag is as it was, and no thread is left."""

    def report(progress: Progress) -> None:
        if progress.bytes_done:
            raise Cancelled("cancelled")

    before = threading.active_count()
    with pytest.raises(Cancelled):
        machine.push(machine.image("b", pages(3, 24)), "new", report=report, jobs=1)

    assert threading.active_count() == before
    assert b'"new"' not in (machine.layout / "index.json").read_bytes()


def test_two_pulls_of_one_image(machine: Machine) -> None:
    """The second is refused while the first runs."""

    def before(count: int) -> None:
        if count == 3:
            with pytest.raises(Busy, match="being pulled"):
                machine.pull("b")

    machine.pull("b", place=Watched(machine.layout, before))

    assert machine.verified("b") == machine.verified("source")


def test_chunks_of_another_image_are_not_fetched(machine: Machine) -> None:
    """Neither those of a pushed image nor those of a pulled one."""
    changed = machine.image("changed", pages(2, 1) + pages(1, 24)[MIB:])
    machine.push(changed, "v2")
    place = Watched(machine.layout)

    first = machine.pull("b", "v2", place=place, images=machine.images)
    assert [one for one in place.fetched if one.size > MIB] == []
    for name in ("source", "changed"):
        (machine.images / name / ".cryo-chunks.jsonl").unlink()
    second = machine.pull("c", place=place, images=machine.images)

    assert first.bytes_moved < MIB
    assert second.bytes_moved < 12 * MIB < second.bytes_reused
    assert machine.verified("b") == machine.verified("changed")
    assert machine.verified("c") == machine.verified("source")


@pytest.mark.parametrize("damage", ("content", "missing", "map", "wrong map", "link"))
def test_other_images_are_not_trusted(machine: Machine, damage: str) -> None:
    """What is damaged there is fetched."""
    source = machine.images / "source"
    if damage == "content":
        with (source / "pages.img").open("r+b") as file:
            file.seek(5 * MIB)
            file.write(b"damaged")
    elif damage == "missing":
        (source / "pages.img").unlink()
    elif damage == "map":
        (source / ".cryo-chunks.jsonl").write_bytes(b'["pages.img",0,5]\n\xff[["x"]\n{}')
    elif damage == "wrong map":
        path = source / ".cryo-chunks.jsonl"
        lines = [json.loads(line) for line in path.read_bytes().split(b"\n")]
        wrong = (("../../etc/passwd", 0), ("pages.img", 1 << 62), ("pages.img", 1 << 70))
        changed = [[*wrong[at % 3], *line[2:]] for at, line in enumerate(lines)]
        path.write_text("\n".join(map(json.dumps, changed)))
    else:
        (source / "pages.img").rename(machine.root / "elsewhere")
        (source / "pages.img").symlink_to(machine.root / "elsewhere")

    done = machine.pull("b", images=machine.images)

    machine.verified("b")
    assert done.bytes_moved > MIB


def test_what_a_damaged_place_sent_is_not_kept(machine: Machine) -> None:
    """The image is refused, and the next pull starts again."""
    with (machine.layout / "blobs" / "sha256" / biggest(machine)).open("r+b") as file:
        file.write(b"damaged")
    with pytest.raises(ImageCorrupt):
        machine.pull("b")

    assert machine.partial_pulls() == []
    assert not (machine.images / "b").exists()


def biggest(machine: Machine) -> str:
    """Return the name of the largest blob of the layout."""
    blobs = (machine.layout / "blobs" / "sha256").iterdir()
    return max(blobs, key=lambda path: path.stat().st_size).name


def test_a_partial_pull_that_was_damaged_is_fetched_again(machine: Machine) -> None:
    """What the journal lists is hashed before it is used."""
    with pytest.raises(Unavailable):
        machine.pull("b", place=Watched(machine.layout, fail_at(6)))
    (partial,) = machine.partial_pulls()
    with (partial / "pages.img").open("r+b") as file:
        file.write(b"damaged")

    machine.pull("b")

    assert machine.verified("b") == machine.verified("source")


def test_partial_pulls_are_kept_for_a_day(machine: Machine) -> None:
    """Then they are removed with the other remains; one that is under way is never removed."""
    with pytest.raises(Unavailable):
        machine.pull("b", place=Watched(machine.layout, fail_at(6)))
    (partial,) = machine.partial_pulls()
    assert staging.is_staging(partial)
    assert not staging.is_abandoned(partial)

    os.utime(partial, (0, 0))

    assert staging.is_abandoned(partial)
    held = resumable.resume(machine.images / "b", partial.name.removeprefix(".cryo-pull-"))
    os.utime(partial, (0, 0))
    assert not staging.is_abandoned(partial)
    staging.remove_abandoned(partial)
    assert partial.exists()
    held.close()
    os.utime(partial, (0, 0))

    paths = Paths(images=str(machine.images), verified=str(machine.root / "verified"))
    asyncio.run(Images(Config(paths=paths)).prune())

    assert machine.partial_pulls() == []
    assert list(machine.images.glob(".cryo-*")) == []


def test_the_manifest_of_the_place_is_what_is_written(machine: Machine) -> None:
    """Byte for byte."""
    machine.pull("b")

    place = Layout(machine.layout)
    manifest = place.get_document(manifest_in(place.get_document(TAG), "layout").digest)
    config = b"".join(place.get_blob(decode(manifest, "layout").config))
    assert (machine.images / "b" / NAME).read_bytes() == config


def test_a_full_disk_is_not_kept_full(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was fetched until then is removed."""
    real, left = os.pwrite, [10 * MIB]

    def pwrite(fd: int, data: bytes, at: int) -> int:
        left[0] -= len(data)
        if left[0] < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(fd, data, at)

    monkeypatch.setattr(os, "pwrite", pwrite)
    with pytest.raises(ResourceExhausted, match="No space left"):
        machine.pull("b")
    monkeypatch.undo()

    assert [path.name for path in machine.images.iterdir()] == ["source"]
    machine.pull("b")
    assert machine.verified("b") == machine.verified("source")
