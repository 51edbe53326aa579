"""A container in a user namespace, with an idmapped root filesystem."""

from __future__ import annotations

from pathlib import Path

import pytest

from shim.host import idmap
from tests.containerd.builds import LINES
from tests.containerd.cryo import Cryo

_MAP = "0:100000:65536"
_FLAGS = ("--remap-labels", "--uidmap", _MAP, "--gidmap", _MAP)


# containerd 1.x has no idmapped layers.
@pytest.mark.parametrize("containerd_build", LINES[2:], indirect=True)
def test_the_rootfs_of_a_user_namespace(cryo: Cryo, archive: Path) -> None:
    """With the snapshotter overlayfs the layers are idmapped: root owns root's files inside."""
    if not idmap.kernel_has_it():
        pytest.skip("this kernel has no idmapped layers")
    cryo.import_image(archive, snapshotter="overlayfs")
    with cryo.removing("mapped"):
        cryo.run("mapped", "sleep", "1000", flags=("-d", *_FLAGS), snapshotter="overlayfs")
        rootfs = cryo.bundles / "mapped" / "rootfs"

        assert cryo.place.do("stat", "-c", "%u", f"{rootfs}/bin/busybox").strip() == "100000"
        inside = cryo.exec("mapped", "sh", "-c", "stat -c %u /bin/busybox && touch /other")
        assert inside.out.strip() == "0"
