"""Settings of the host: adjusted on request, and reported once where they are slow."""

from __future__ import annotations

from pathlib import Path

import pytest

from shim.config import Config, Cuda, Host
from shim.cuda import inventory
from shim.cuda.inventory import Gpu, Inventory
from shim.host import hugepages
from shim.transaction import host_settings
from tests.unit.test_host_hugepages import settings

GPUS = Inventory(driver="580.65.06", gpus=(Gpu(uuid="GPU-1"), Gpu(uuid="GPU-2")))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give a host with GPUs and without huge pages, whose settings are in this folder."""
    made = settings(tmp_path, "never", "madvise")
    described, adjust, used = hugepages.described, hugepages.adjust, hugepages.are_used
    monkeypatch.setattr(hugepages, "described", lambda: described(made))
    monkeypatch.setattr(hugepages, "adjust", lambda: adjust(made))
    monkeypatch.setattr(hugepages, "are_used", lambda _folder=made: used(_folder))
    monkeypatch.setattr(inventory, "read", lambda _proc: GPUS)
    monkeypatch.setattr(host_settings, "_given", set())
    return made


def test_the_host_is_changed_only_on_request(folder: Path) -> None:
    """What is changed is returned, so that it is logged."""
    before = (folder / "shmem_enabled").read_text()
    assert host_settings.adjust(Config()) == ""
    assert (folder / "shmem_enabled").read_text() == before

    changed = host_settings.adjust(Config(host=Host(huge_pages="adjust")))

    assert "shmem_enabled from never to advise" in changed
    assert (folder / "shmem_enabled").read_text().startswith("advise")


def test_a_host_that_cannot_be_changed(folder: Path) -> None:
    """That is reported, and nothing fails."""
    (folder / "shmem_enabled").unlink()
    adjusted = host_settings.adjust(Config(host=Host(huge_pages="adjust")))
    assert adjusted.startswith("huge pages could not be enabled")


def test_small_pages_are_reported_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the first result; `cryo info` says it each time. Without a GPU they do not matter."""
    assert (folder / "shmem_enabled").exists()
    [warning] = host_settings.new_warnings(Config())
    assert 'huge_pages = "adjust"' in warning
    assert host_settings.new_warnings(Config()) == ()
    assert host_settings.warnings(Config()) == (warning,)

    monkeypatch.setattr(inventory, "read", lambda _proc: Inventory())
    assert host_settings.warnings(Config()) == ()


@pytest.mark.parametrize(
    ("answer", "said"),
    (
        ("GPU-1, Enabled\nGPU-2, Enabled", "on"),
        ("GPU-1, Enabled\nGPU-2, Disabled", "off for GPU-2: each start"),
        ("GPU-1, [N/A]", "on"),
    ),
)
async def test_persistence_mode(folder: Path, answer: str, said: str) -> None:
    """GPUs without it are named."""
    assert (await _persistence(folder, f"printf '{answer}\n'")).startswith(said)


async def test_a_failing_nvidia_smi(folder: Path) -> None:
    """Nothing is known then, and the rest of `cryo info` is printed."""
    assert (await _persistence(folder, "exit 9")).startswith("unknown: ")


async def _persistence(folder: Path, does: str) -> str:
    program = folder / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{does}\n")
    program.chmod(0o755)
    return await host_settings.persistence(Config(cuda=Cuda(nvidia_smi=str(program))))
