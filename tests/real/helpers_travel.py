"""A task that is saved here, pushed elsewhere, pulled again and restored."""

from __future__ import annotations

from shim.distribution.settings import TransferSettings
from shim.errors import NotFound
from tests.real.helpers_rig import Rig, refused


def leaves(rig: Rig, reference: str, settings: TransferSettings) -> tuple[str, str]:
    """Save a task and push its image, of which nothing is left here.

    Return the digest of the image, and the one that it has elsewhere.
    """
    rig.workload("job")
    saved = rig.checkpoint("job", exit=True)
    rig.client.wait("job")
    rig.client.delete("job")
    pushed = rig.client.push(saved.image_path, reference, settings)
    rig.client.remove(saved.image_path)
    refused(NotFound, lambda: rig.client.inspect(saved.image_path))
    return saved.digest, pushed.digest


def comes_back(
    rig: Rig, reference: str, settings: TransferSettings, digests: tuple[str, str]
) -> None:
    """Pull the image, and restore it: the task goes on where it was, also on the GPU."""
    pulled = rig.client.pull(reference, settings)

    assert pulled.name == "job:v1"
    assert (rig.client.inspect("job:v1")["digest"], pulled.digest) == digests
    rig.restore("job", pulled.image_path, trust_spec=True)
    assert rig.fine("job")
