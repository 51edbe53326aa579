"""Push and pull between an image and an OCI layout: what arrives is what was sent."""

from __future__ import annotations

from pathlib import Path

import pytest

from shim.distribution.transfer import Compress
from tests.unit.transfer_helpers import MIB, TAG, Machine, pages


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
