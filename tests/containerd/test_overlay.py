"""Changes to root filesystems, of which containerd makes a layer, with the default flags."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.builds import RunscBuild
from tests.containerd.builds import ContainerdBuild
from tests.containerd.cryo import COUNT, FLAGS, Cryo
from tests.containerd.place import Place

LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
WRITES = "dd if=/dev/urandom of=/kept bs=1M count=4 2>/dev/null; md5sum </kept >/sum; "
IS_WHOLE = '[ -s /sum ] && [ "$(md5sum </kept)" = "$(cat /sum)" ] && ls -a /'


@pytest.fixture(scope="module")
def in_memory(
    containerd_build: ContainerdBuild, place: Place, runsc_new: RunscBuild, archive: Path
) -> Iterator[Cryo]:
    """Yield a containerd with `overlay2` in memory."""
    flags = {**FLAGS, "overlay2": "root:memory"}
    with Cryo(containerd_build, place, runsc_new.path, flags=flags) as made:
        made.import_image(archive)
        made.run("first", "true")
        made.know()
        yield made


def saved_and_brought_back(cryo: Cryo) -> None:
    """Save a container with its layer, delete it, and restore it under the same id."""
    command = ("sh", "-c", WRITES + COUNT)
    with cryo.images_apart(), cryo.container(*command) as name:
        before = cryo.until_counts(name)
        reference = cryo.save(name, "--rw")
        sizes = [part["size"] for part in cryo.parts(reference) if part["mediaType"] == LAYER]
        # The changes are in the task's image; the snapshot is empty.
        assert sizes
        assert max(sizes) < 4096
        cryo.remove(name)
        cryo.bring_back(reference, name, "--rw")

        assert cryo.until_counts(name) >= before
        assert ".gvisor.filestore" not in cryo.exec(name, "sh", "-c", IS_WHOLE).out


def test_a_layer_has_nothing_of_runsc(cryo: Cryo, nothing_left: None) -> None:
    """A checkpoint with `--rw` is small, and is restored under the same id."""
    saved_and_brought_back(cryo)


def test_the_same_in_memory(in_memory: Cryo) -> None:
    """The same holds with an operator's own `overlay2`."""
    saved_and_brought_back(in_memory)
    in_memory.expect_nothing_new()
