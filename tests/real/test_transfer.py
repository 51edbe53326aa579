"""A container whose memory travels through an OCI layout or an archive, and what moves again."""

from __future__ import annotations

from pathlib import Path

import pytest

from shim.errors import NotFound
from shim.simgpu.simulation import wait_until
from tests.real.helpers_rig import Rig, refused

pytestmark = pytest.mark.timeout(300)
WAIT_S = 120.0
MIB = 1 << 20
SUM = ["/bin/sh", "-c", "sha256sum /tmp/data"]


def filled(rig: Rig, mib: int) -> str:
    """Start a container with so much random memory; return the digest of that."""
    fill = f"dd if=/dev/urandom of=/tmp/data bs=4M count={mib // 4}"
    script = f"{fill}; touch /tmp/ready; exec sleep 1000"
    rig.program("box", "/bin/sh", "-c", script)
    ready = ["/bin/test", "-e", "/tmp/ready"]
    wait_until(lambda: rig.behind.exec("box", ready).status == 0, "the data", WAIT_S)
    return digest(rig, "box")


def digest(rig: Rig, name: str) -> str:
    """Return the digest of the memory of a container."""
    ran = rig.behind.exec(name, SUM)
    assert ran.status == 0, ran
    return ran.out


@pytest.mark.parametrize("kind", ("oci:{}/layout:v1", "oci-archive:{}/image.tar:v1"))
def test_memory_is_right_after_a_journey(rig: Rig, tmp_path: Path, kind: str) -> None:
    """The image is pushed, removed, pulled and restored."""
    before = filled(rig, 48)
    saved = rig.checkpoint("box", exit=True)
    rig.client.wait("box")
    rig.client.delete("box")
    reference = kind.format(tmp_path)

    pushed = rig.client.push(saved.image_path, reference)
    rig.client.remove(saved.image_path)
    refused(NotFound, lambda: rig.client.inspect(saved.image_path))
    pulled = rig.client.pull(reference)

    assert (pulled.digest, pulled.bytes_total) == (pushed.digest, pushed.bytes_total)
    assert rig.bytes_read("box", pulled.image_path, trust_spec=True) == 0, (
        "it was verified as it arrived"
    )
    assert digest(rig, "box") == before


@pytest.mark.long
def test_a_second_push_moves_what_changed(rig: Rig, tmp_path: Path) -> None:
    """Of 1 GiB 160 MiB change: at most 1.2 times that moves, in both directions."""
    filled(rig, 1024)
    changed = 160 * MIB
    first = rig.checkpoint("box")
    rig.client.push(first.image_path, f"oci:{tmp_path}/layout:v1")
    change = (
        f"dd if=/dev/urandom of=/tmp/data bs=4M seek=75 count={changed // MIB // 4} conv=notrunc"
    )
    assert rig.behind.exec("box", ["/bin/sh", "-c", change]).status == 0
    expected = digest(rig, "box")
    second = rig.checkpoint("box", exit=True)
    rig.client.wait("box")
    rig.client.delete("box")

    pushed = rig.client.push(second.image_path, f"oci:{tmp_path}/layout:v2")
    moved = f"{pushed.bytes_moved} of {pushed.bytes_total} bytes were sent"
    assert pushed.bytes_moved <= 1.2 * changed, moved
    rig.client.remove(second.image_path)
    pulled = rig.client.pull(f"oci:{tmp_path}/layout:v2")

    moved = f"{pulled.bytes_moved} of {pulled.bytes_total} bytes were fetched"
    assert pulled.bytes_moved <= 1.2 * changed, moved
    rig.restore("box", pulled.image_path, trust_spec=True)
    assert digest(rig, "box") == expected
