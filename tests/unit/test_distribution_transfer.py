"""Push and pull between an image and an OCI layout: what arrives is what was sent."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from shim.distribution import content, meter
from shim.distribution.compress import Compress
from shim.distribution.key_sources import KeySources
from shim.distribution.keys import for_push
from shim.distribution.layout import Layout
from shim.distribution.pull import pull
from shim.distribution.transfer import PullOptions, PullTarget
from shim.errors import ImageCorrupt, NotFound, ResourceExhausted
from shim.model import Progress
from tests.unit.image_helpers import ProgressLog
from tests.unit.transfer_helpers import MIB, TAG, Machine, Watched, pages


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """Give an empty one."""
    return Machine(tmp_path)


@pytest.mark.parametrize("compress", tuple(Compress))
def test_what_arrives_is_what_was_sent(machine: Machine, compress: Compress) -> None:
    """Files, manifest and holes are the same."""
    data = pages(1, 20) + bytes(8 * MIB) + pages(2, 3) + b"end" * 7
    image = machine.image("a", data)

    pushed = machine.push(image, compress=compress)
    pulled = machine.pull("b")

    assert machine.verified("b") == machine.verified("a")
    assert pulled.digest == pushed.digest
    assert (
        pulled.bytes_total
        == pushed.bytes_total
        == sum(len((image / name).read_bytes()) for name in ("pages.img", "checkpoint.img"))
    )
    assert (machine.images / "b" / "cryo.json").read_bytes() == (image / "cryo.json").read_bytes()
    blocks = (machine.images / "b" / "pages.img").stat().st_blocks * 512
    assert blocks <= len(data) - 8 * MIB + 4096


@pytest.mark.parametrize("tag", (TAG, "v2"))
def test_blobs_that_were_compressed_are_not_sent_again(machine: Machine, tag: str) -> None:
    """Also if they would not be compressed now, under the same tag or another one."""
    image = machine.image("a", pages(1, 1) * 12)
    machine.push(image, compress=Compress.ALWAYS)

    again = machine.push(image, tag, compress=Compress.AUTO)

    assert (again.blobs_moved, again.bytes_moved) == (0, 0)
    assert again.bytes_reused > 0


def test_equal_chunks_are_sent_once(machine: Machine) -> None:
    """Within one image, and between two that share most of their pages."""
    data = pages(1, 24)
    first = machine.push(machine.image("a", data + data))
    changed = pages(2, 1) + data[MIB:] + data

    second = machine.push(machine.image("b", changed))

    assert first.bytes_moved < 1.5 * len(data)
    assert second.bytes_moved < 16 * MIB
    machine.pull("c")
    assert machine.verified("c") == machine.verified("b")


@pytest.fixture
def keys(tmp_path: Path) -> KeySources:
    """Give a key file."""
    path = tmp_path / "key"
    path.write_text(random.Random(7).randbytes(32).hex())
    path.chmod(0o600)
    return KeySources(key_file=str(path))


@pytest.mark.parametrize("compress", (Compress.NEVER, Compress.ALWAYS))
def test_an_encrypted_image(machine: Machine, keys: KeySources, compress: Compress) -> None:
    """It arrives, no blob has its content, and nothing is sent twice with one key."""
    data = pages(1, 9) + b"secret memory " * 100_000
    image = machine.image("a", data)
    first = machine.push(image, compress=compress, cipher=for_push(keys))

    second = machine.push(image, compress=compress, cipher=for_push(keys))
    place = Layout(machine.layout)
    pull_options = PullOptions(keys=keys)
    target = PullTarget(path_for=lambda _offer: machine.images / "b", images=machine.images)
    pull(place, "it", TAG, target, pull_options, ProgressLog())

    assert machine.verified("b") == machine.verified("a")
    assert first.blobs_moved > 2
    assert second.bytes_moved == 0
    stored = [path.read_bytes() for path in (machine.layout / "blobs" / "sha256").iterdir()]
    assert not any(data[at : at + 64] in blob for blob in stored for at in (0, len(data) - 64))
    assert not any(b"cryo.content" in blob for blob in stored)


def test_parts_that_are_not_kept_in_memory(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are read again when they are sent, and arrive as well."""
    monkeypatch.setattr(content, "_IN_MEMORY_BYTES", 0)
    machine.push(machine.image("a", pages(1, 12)), compress=Compress.NEVER)

    machine.pull("b")

    assert machine.verified("b") == machine.verified("a")


@pytest.mark.parametrize("in_memory", (0, 16 * MIB))
def test_a_file_that_changes_while_it_is_sent(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, in_memory: int
) -> None:
    """It is refused whenever that happens, and the place has no document of it."""
    monkeypatch.setattr(content, "_IN_MEMORY_BYTES", in_memory)
    image = machine.image("a", pages(1, 24))

    def write(progress: Progress) -> None:
        """Change the start, which has been sent, as soon as something has."""
        if progress.bytes_done and not changed:
            changed.append(True)
            with (image / "pages.img").open("r+b") as file:
                file.write(b"changed")

    changed: list[bool] = []
    monkeypatch.setattr(meter, "_REPORT_EVERY_S", 0.0)
    with pytest.raises(ImageCorrupt, match="changed"):
        machine.push(image, report=write, jobs=1)

    assert changed
    with pytest.raises(NotFound):
        Layout(machine.layout).get_document(TAG)


@pytest.mark.parametrize("refusal", ("admit", "make_room"))
def test_a_refused_image_is_not_fetched(machine: Machine, refusal: str) -> None:
    """Neither an image that is not wanted nor one for which there is no room leaves anything."""
    machine.push(machine.image("a", pages(1, 9)))
    place = Watched(machine.layout)

    def refuse(_what: object) -> None:
        raise ResourceExhausted("no")

    target: dict[str, Any] = {refusal: refuse}
    with pytest.raises(ResourceExhausted, match="no"):
        machine.pull("b", place=place, **target)

    assert [one.size for one in place.fetched if one.size > MIB] == []
    assert [path.name for path in machine.images.iterdir()] == ["a"]


def test_room_is_asked_for_what_is_written(machine: Machine) -> None:
    """Holes need none."""
    machine.push(machine.image("a", pages(1, 3) + bytes(20 * MIB) + pages(2, 2)))
    asked: list[int] = []

    machine.pull("b", make_room=asked.append)

    (needed,) = asked
    assert 5 * MIB <= needed <= 6 * MIB
