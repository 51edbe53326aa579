"""Pushes and pulls by the clients and the command line, against a real server."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from shim.client import AsyncClient
from shim.distribution.compress import Compress
from shim.distribution.key_sources import KeySources
from shim.distribution.settings import TransferSettings
from shim.entry.cli import exits
from shim.entry.cli.app import main
from shim.errors import InvalidArgument, Unavailable
from shim.image.named import ImageRef
from shim.model import Progress, RestoreOptions, TaskRef
from tests.unit.image_helpers import sealed
from tests.wire.conftest import Cryo, Sidecar
from tests.wire.fakes import UPDATES, FakeTasks
from tests.wire.fakes_transfers import TRANSFERRED

REFERENCE = "r.example/a:v1"
SETTINGS = TransferSettings(
    plain_http=True,
    ca_file="/ca.pem",
    docker_config="/docker/config.json",
    object_store={"AWS_REGION": "here"},
    jobs=7,
    compress=Compress.NEVER,
    keys=KeySources(key_file="/key", recipients=("age1a", "/recipients"), identities=("/id",)),
)


@pytest.fixture
def plain_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Have a docker config, and no variables of an object store; return the config."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    path = tmp_path / "config.json"
    path.write_text("{}", "utf-8")
    return path


async def test_push_streams_progress(client: AsyncClient, core: FakeTasks) -> None:
    """All settings arrive, each progress update arrives in order, and the result is whole."""
    updates: list[Progress] = []

    result = await client.push("/images/a", REFERENCE, SETTINGS, on_progress=updates.append)

    assert core.calls == [("push", "/images/a", "default", REFERENCE, SETTINGS)]
    assert tuple(updates) == UPDATES
    assert result == TRANSFERRED


async def test_pull_streams_progress(client: AsyncClient, core: FakeTasks) -> None:
    """The same for pull, with the name that the image gets."""
    updates: list[Progress] = []

    result = await client.pull(REFERENCE, SETTINGS, "ns", name="b:v2", on_progress=updates.append)
    await client.pull(REFERENCE)

    assert core.calls == [
        ("pull", REFERENCE, "ns", SETTINGS, "b:v2"),
        ("pull", REFERENCE, "default", TransferSettings(), None),
    ]
    assert tuple(updates) == UPDATES
    assert result == TRANSFERRED


@pytest.mark.parametrize(
    "settings",
    (
        {"jobs": 65},
        {"ca_file": "ca.pem"},
        {"docker_config": "config.json"},
        {"keys": KeySources(key_file="key")},
        {"keys": KeySources(identities=("/id", "id"))},
    ),
)
def test_settings_that_no_transfer_can_use(settings: dict[str, object]) -> None:
    """A path that is relative is of another process, and there is a limit to the jobs."""
    with pytest.raises(InvalidArgument):
        TransferSettings(**settings)  # type: ignore[arg-type]  # each value has its field's type


def test_push(cryo: Cryo, sidecar: Sidecar, plain_environment: Path) -> None:
    """The options become settings, with the caller's credentials; the digest is printed."""
    status, out, err = cryo(
        *("checkpoints", "push", "--jobs", "2", "--plain-http", "--ca-file", "/ca.pem"),
        *("--key-file", "/key", "--compress", "always", "llama:warm", REFERENCE),
    )

    assert (status, out) == (0, "sha256:00ff\n")
    assert "push of llama:warm: 1.0 TiB, 8.0 GiB copied, 512.0 GiB were there, 1.50 s" in err
    settings = TransferSettings(
        plain_http=True,
        ca_file="/ca.pem",
        docker_config=str(plain_environment),
        jobs=2,
        compress=Compress.ALWAYS,
        keys=KeySources(key_file="/key"),
    )
    assert sidecar.core.calls == [("push", "llama:warm", "default", REFERENCE, settings)]


def test_pull(
    cryo: Cryo,
    sidecar: Sidecar,
    plain_environment: Path,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """A relative layout is made absolute, variables of the object store are sent."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AWS_REGION", "here")

    status, out, _ = cryo("--output", "json", "checkpoints", "pull", "oci:layout:v1", "--name", "b")

    assert (status, json.loads(out)["image_path"]) == (0, "/images/a")
    settings = TransferSettings(
        docker_config=str(plain_environment), object_store={"AWS_REGION": "here"}
    )
    wanted = f"oci:{tmp_path}/layout:v1"
    assert sidecar.core.calls == [("pull", wanted, "default", settings, "b")]


def test_export_and_import(
    cryo: Cryo, sidecar: Sidecar, plain_environment: Path, tmp_path: Path
) -> None:
    """An archive is a reference like others, made from the path of its file."""
    file = tmp_path / "llama.tar"
    assert cryo("checkpoints", "export", "--key-file", "/key", "llama:v1", str(file))[0] == 0
    assert cryo("checkpoints", "import", "--name", "b:v2", str(file))[:2] == (0, "/images/a\n")

    config = str(plain_environment)
    written = TransferSettings(docker_config=config, keys=KeySources(key_file="/key"))
    read = TransferSettings(docker_config=config)
    wanted = f"oci-archive:{file}"
    assert sidecar.core.calls == [
        ("push", "llama:v1", "default", f"{wanted}:latest", written),
        ("pull", wanted, "default", read, "b:v2"),
    ]


def test_export_without_a_sidecar(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, plain_environment: Path
) -> None:
    """The path of an image is enough; for a name a sidecar is needed."""
    sealed(tmp_path / "image")
    nowhere = ("-a", f"unix://{tmp_path}/none.sock", "checkpoints", "export")
    with pytest.raises(SystemExit) as done:
        main([*nowhere, str(tmp_path / "image"), str(tmp_path / "a.tar")])
    with pytest.raises(SystemExit) as failed:
        main([*nowhere, "llama:v1", str(tmp_path / "b.tar")])

    assert (done.value.code, failed.value.code) == (0, exits.CODES[Unavailable])
    assert capfd.readouterr().out.startswith("sha256:")
    assert sorted(path.name for path in tmp_path.glob("*.tar")) == ["a.tar"]


@pytest.mark.parametrize("inner", (None, "team-a"))
def test_pull_for_warm_starts(
    cryo: Cryo, sidecar: Sidecar, plain_environment: Path, inner: str | None
) -> None:
    """The name is that of annotations, in the namespaces that are given."""
    more = ("-k", inner) if inner else ()
    assert cryo("-n", "ns", "checkpoints", "pull", "--warm", "llama", *more, REFERENCE)[0] == 0

    ref = ImageRef(namespace="ns", name="llama", kubernetes_namespace=inner)
    settings = TransferSettings(docker_config=str(plain_environment))
    assert sidecar.core.calls == [("pull_warm", REFERENCE, ref, settings)]
    assert cryo("checkpoints", "pull", "--warm", "llama", "--name", "a", REFERENCE)[0] == 2
    assert cryo("checkpoints", "pull", "-k", "team-a", REFERENCE)[0] == 2


def test_restore_of_an_image_elsewhere(
    cryo: Cryo, sidecar: Sidecar, plain_environment: Path
) -> None:
    """It is pulled first, and restored from where it is then."""
    assert cryo("tasks", "restore", "--image", REFERENCE, "--identity", "/id", "job")[0] == 0

    settings = TransferSettings(
        docker_config=str(plain_environment), keys=KeySources(identities=("/id",))
    )
    job = TaskRef(namespace="default", id="job")
    assert sidecar.core.calls == [
        ("pull", REFERENCE, "default", settings, None),
        ("restore", job, RestoreOptions(image_path="/images/a")),
    ]
