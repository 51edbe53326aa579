"""A task that is saved here, pushed to a bucket, pulled again and restored."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from shim.distribution.key_sources import KeySources
from shim.distribution.settings import TransferSettings
from shim.errors import PermissionDenied
from tests.real.helpers_buckets import s3_server
from tests.real.helpers_rig import Rig, refused
from tests.real.helpers_travel import comes_back, leaves
from tests.s3_server import BUCKET, S3Server

REFERENCE = f"s3://{BUCKET}/team/job:v1"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """Yield a server."""
    with s3_server(tmp_path_factory.mktemp("s3")) as started:
        yield started


def key_in(folder: Path, name: str) -> KeySources:
    """Make a key file."""
    path = folder / name
    path.write_text(os.urandom(32).hex())
    path.chmod(0o600)
    return KeySources(key_file=str(path))


@pytest.mark.parametrize("encrypted", (False, True), ids=("plain", "encrypted"))
def test_a_task_travels_through_a_bucket(
    rig: Rig, server: S3Server, tmp_path: Path, *, encrypted: bool
) -> None:
    """It goes on where it was, with its state on the GPU; a wrong key is refused."""
    keys = key_in(tmp_path, "key") if encrypted else KeySources()
    settings = TransferSettings(object_store=server.settings, keys=keys)
    wrong = TransferSettings(object_store=server.settings, keys=key_in(tmp_path, "wrong"))

    digests = leaves(rig, REFERENCE, settings)
    refused(PermissionDenied, lambda: rig.client.pull(REFERENCE, wrong))
    comes_back(rig, REFERENCE, settings, digests)
