"""A task that is saved here, pushed to a registry with a login, pulled again and restored."""

from __future__ import annotations

from pathlib import Path

import pytest

from shim.distribution.settings import TransferSettings
from shim.errors import PermissionDenied
from tests.certificates import Certificates
from tests.real.helpers_registries import registry_server
from tests.real.helpers_rig import Rig, refused
from tests.real.helpers_travel import comes_back, leaves
from tests.registry_server import NAMES, PASSWORD, USER
from tests.wire.helpers_registry import write_config


@pytest.mark.parametrize("name", NAMES)
def test_a_task_travels_through_a_registry(rig: Rig, tmp_path: Path, name: str) -> None:
    """Over TLS with a CA of its own; without the login it stays where it is."""
    certificates = Certificates(tmp_path / "tls")
    ca = str(certificates.ca)
    with registry_server(name, tmp_path / "registry") as server:
        server.certificates, server.with_login = certificates, True
        server.start()
        reference = f"{server.host}/team/job:v1"
        config = write_config(tmp_path, server.host, username=USER, password=PASSWORD)
        settings = TransferSettings(ca_file=ca, docker_config=config)
        without = TransferSettings(ca_file=ca, docker_config=str(tmp_path / "none.json"))

        digests = leaves(rig, reference, settings)
        refused(PermissionDenied, lambda: rig.client.pull(reference, without))
        comes_back(rig, reference, settings, digests)
