"""When the clones of an image get different GPUs, and what is said when they do not."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from shim.config import Config, Cuda
from shim.cuda.inventory import Gpu
from shim.model import EngineName, Progress
from shim.transaction.clone_gpus import spread_of
from tests.unit.image_helpers import manifest

GPUS = tuple(Gpu(uuid=f"GPU-{at}", model="H100", minor=at) for at in range(2))
PHASED = manifest(gpus=GPUS)


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """Make a host with two GPUs, of which the second one has more free memory."""
    return host(tmp_path, "580.65.06")


def host(folder: Path, version: str, smi: str = "echo 'GPU-0, 10'; echo 'GPU-1, 20'") -> Config:
    """Write the files of a driver, and its nvidia-smi."""
    folder.joinpath("version").write_text(
        f"NVRM version: NVIDIA UNIX x86_64 Kernel Module  {version}  Sun\n", "utf-8"
    )
    for gpu in GPUS:
        place = folder / "gpus" / f"0000:0{gpu.minor}:00.0"
        place.mkdir(parents=True, exist_ok=True)
        text = f"Model: {gpu.model}\nGPU UUID: {gpu.uuid}\nDevice Minor: {gpu.minor}\n"
        place.joinpath("information").write_text(text, "utf-8")
    program = folder / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{smi}\n", "utf-8")
    program.chmod(0o755)
    return Config(cuda=Cuda(nvidia_proc=str(folder), nvidia_smi=str(program)))


async def test_the_freest_gpu(config: Config) -> None:
    """The GPUs that the processes used are known, and so is what is free."""
    said: list[Progress] = []
    image = msgspec.structs.replace(PHASED, used_gpus=("GPU-0",))
    spread = await spread_of(image, config, said.append)

    assert spread.next() == {"GPU-0": "GPU-1", "GPU-1": "GPU-0"}
    assert said == []


async def test_without_nvidia_smi(tmp_path: Path) -> None:
    """They are then used in turn, with a warning."""
    said: list[Progress] = []
    image = msgspec.structs.replace(PHASED, used_gpus=("GPU-0",))
    spread = await spread_of(image, host(tmp_path, "580.65.06", "exit 9"), said.append)

    assert [spread.next(), spread.next()] == [{}, {"GPU-0": "GPU-1", "GPU-1": "GPU-0"}]
    [warning] = said
    assert warning.warning
    assert "exited with status 9" in warning.message


async def test_an_image_that_does_not_say(config: Config) -> None:
    """An older image may use all GPUs of its container."""
    spread = await spread_of(PHASED, config, lambda _: None)

    assert spread.next() == {}
    assert spread.gpus_of({}) == ("GPU-0", "GPU-1")


@pytest.mark.parametrize(
    ("engine", "version", "why"),
    (
        (EngineName.BUILTIN, "580.65.06", "checkpoint with --engine phased"),
        (EngineName.PHASED, "570.124.06", "580 or newer does"),
    ),
)
async def test_no_device_map(tmp_path: Path, engine: EngineName, version: str, why: str) -> None:
    """All clones get the GPUs of the image, with the reason, where there are others."""
    said: list[Progress] = []
    image = msgspec.structs.replace(PHASED, engine=engine, used_gpus=("GPU-0",))
    spread = await spread_of(image, host(tmp_path, version), said.append)

    assert spread.next() == {}
    assert spread.gpus_of({}) == ("GPU-0",)
    assert [(one.warning, why in one.message) for one in said] == [(True, True)]
    said.clear()
    await spread_of(
        msgspec.structs.replace(image, used_gpus=()), host(tmp_path, version), said.append
    )
    assert said == []


async def test_an_image_without_gpus(config: Config) -> None:
    """There is nothing to choose."""
    spread = await spread_of(manifest(processes=()), config, lambda _: None)

    assert (spread.next(), spread.gpus_of({})) == ({}, ())
