"""What makes another fingerprint, and what does not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from shim.config import Config, Cuda, Runsc
from shim.image.named import Fingerprint
from shim.model import Mount
from shim.oci import document, pod
from shim.runsc.container_flags import ContainerFlags
from shim.runsc.probe import UNVERSIONED, Capabilities
from shim.transaction.fingerprint import describe, fingerprint
from tests.unit.fakes_runsc import capabilities

DATA: dict[str, Any] = {
    "ociVersion": "1.1.0",
    "process": {"args": ["server"], "cwd": "/", "env": ["A=1"]},
    "root": {"path": "rootfs"},
    "mounts": [{"destination": "/data", "type": "bind", "source": "/srv/1"}],
    "linux": {"devices": [{"path": "/dev/nvidia0", "type": "c", "major": 195, "minor": 0}]},
    "hostname": "one",
}
LAYERS = (Mount(type="overlay", source="overlay", options=("lowerdir=/s/1/fs:/s/2/fs",)),)


def made(
    data: dict[str, Any] | None = None,
    mounts: tuple[Mount, ...] = LAYERS,
    config: Config | None = None,
    able: Capabilities | None = None,
    *,
    gpu: bool = False,
    overlay2: str = "root:dir=/overlay/1",
) -> Fingerprint:
    """Compute the fingerprint of a container, which differs from the usual one as given."""
    spec = document.parse(DATA | (data or {}), Path("/b"))
    return fingerprint(
        spec,
        mounts,
        config or Config(),
        able or capabilities(),
        gpu=gpu,
        own_flags=ContainerFlags(overlay2=overlay2),
    )


def annotated(**annotations: str) -> dict[str, Any]:
    """Return the annotations of a spec."""
    return {"annotations": annotations}


@pytest.mark.parametrize(
    "data",
    (
        {"ociVersion": "1.2.0"},
        {"hostname": "two"},
        {"process": DATA["process"] | {"selinuxLabel": "c1,c2", "oomScoreAdj": 2}},
        {"linux": DATA["linux"] | {"mountLabel": "c1,c2"}},
        {"process": DATA["process"] | {"env": ["A=2"]}},
        {"mounts": [DATA["mounts"][0] | {"source": "/srv/2"}]},
        annotated(**{pod.SANDBOX_ID: "another"}),
    ),
)
def test_copies_of_a_template_have_one_fingerprint(data: dict[str, Any]) -> None:
    """What runsc does not compare may differ, as may the folder for the writes of a container."""
    assert made(data, overlay2="root:dir=/overlay/2") == made()


@pytest.mark.parametrize(
    ("other", "part"),
    (
        (made({"process": DATA["process"] | {"args": ["other"]}}), "spec process.args"),
        (made({"mounts": []}), "spec mounts /data"),
        (made(mounts=()), "image"),
        (made(annotated(**{pod.IMAGE_NAME: "docker.io/x:2"})), "image"),
        (made(able=msgspec.structs.replace(capabilities(), version="release-1")), "runsc"),
        (made(config=Config(runsc=Runsc(flags={"network": "host"}))), "flag network"),
        (made(overlay2="root:memory"), "flag overlay2"),
    ),
)
def test_what_makes_another(other: Fingerprint, part: str) -> None:
    """The difference is named, with both values."""
    plain = made()

    assert other.key != plain.key
    assert part in describe(plain, other)


def test_the_gpus_of_a_container_count(tmp_path: Path) -> None:
    """Driver and models do, for a container with GPUs; which of equal GPUs it has does not."""

    def host(driver: str, model: str, bus: str) -> Config:
        folder = tmp_path / driver / model / bus
        (folder / "gpus" / bus).mkdir(parents=True)
        (folder / "version").write_text(f"NVRM version: NVIDIA UNIX Module  {driver}  x\n")
        text = f"Model: {model}\nGPU UUID: GPU-{bus}\nDevice Minor: 0\n"
        (folder / "gpus" / bus / "information").write_text(text)
        return Config(cuda=Cuda(nvidia_proc=str(folder)))

    usual = made(config=host("580.1", "H100", "1"), gpu=True)

    assert usual.parts["GPUs"] == {"H100": 1}
    assert made(config=host("580.1", "H100", "2"), gpu=True) == usual
    newer, other = (host(*one) for one in (("590.1", "H100", "1"), ("580.1", "L4", "1")))
    assert describe(usual, made(config=newer, gpu=True)).startswith("NVIDIA driver (saved 580.1")
    assert describe(usual, made(config=other, gpu=True)).startswith("GPUs (")
    assert made(config=other) == made(config=newer)


def test_builds_without_a_version_are_distinguished_by_their_file() -> None:
    """They all print the same; nothing is read from the binary for that."""
    one, two = (
        msgspec.structs.replace(capabilities(), version=UNVERSIONED, identity=(1, 2, size))
        for size in (3, 4)
    )

    assert made(able=one).key != made(able=two).key


def test_an_image_without_its_parts() -> None:
    """A refusal says that they are not known."""
    assert "not recorded" in describe(None, made())
