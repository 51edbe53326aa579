"""The host's driver and GPUs."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shim.cuda import inventory
from shim.cuda.inventory import Gpu, Inventory
from shim.oci.document import Device

CLOSED = (
    "NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.65.06  Sun Jul 27 07:10:27 UTC 2025\n"
    "GCC version:  gcc version 12.2.0 (Debian 12.2.0-14)\n"
)
OPEN = (
    "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  570.124.06  "
    "Release Build  (root@host)  Wed Feb 26 01:48:56 UTC 2025\nGCC version: 12.2.0\n"
)
GPU = """Model: \t\t NVIDIA H100 80GB HBM3
IRQ:   \t\t 59
GPU UUID: \t GPU-11111111-2222-3333-4444-555555555555
Video BIOS: \t 96.00.89.00.01
Bus Location: \t 0000:8a:00.0
Device Minor: \t 3
GPU Excluded:\t No
"""


@pytest.mark.parametrize(
    ("text", "version"),
    ((CLOSED, "580.65.06"), (OPEN, "570.124.06"), ("", ""), ("NVRM version: x 12.2.0\n", "")),
)
def test_the_driver_version(text: str, version: str) -> None:
    """Both kernel modules' lines are read, and the compiler's version is not taken for it."""
    assert inventory.parse_driver(text) == version


def test_a_gpu() -> None:
    """The fields are found whatever the space around them."""
    assert inventory.parse_gpu(GPU) == Gpu(
        uuid="GPU-11111111-2222-3333-4444-555555555555",
        model="NVIDIA H100 80GB HBM3",
        bus="0000:8a:00.0",
        minor=3,
    )


@given(st.text(max_size=200))
def test_any_text_is_read_without_an_error(text: str) -> None:
    """Whatever the kernel or nvidia-smi says, reading it does not fail."""
    inventory.parse_driver(text)
    inventory.parse_gpu(text)
    inventory.parse_apps(text, 7)
    inventory.parse_gpus(text)


def test_a_host_is_read_in_bus_order(tmp_path: Path) -> None:
    """GPUs come in the order of the bus, as nvidia-smi counts them; a broken one is left out."""
    (tmp_path / "version").write_text(CLOSED)
    for bus, minor in (("0000:8a:00.0", 0), ("0000:0b:00.0", 1)):
        folder = tmp_path / "gpus" / bus
        folder.mkdir(parents=True)
        (folder / "information").write_text(f"Bus Location: {bus}\nDevice Minor: {minor}\n")
    (tmp_path / "gpus" / "0000:ff:00.0").mkdir()

    found = inventory.read(str(tmp_path))

    assert found.driver == "580.65.06"
    assert [gpu.minor for gpu in found.gpus] == [1, 0]


def test_a_host_without_a_driver(tmp_path: Path) -> None:
    """No driver is no error."""
    assert inventory.read(str(tmp_path / "nvidia")) == Inventory()


def test_the_gpus_of_a_container() -> None:
    """A GPU is the container's by its minor number, under whatever path it has it."""
    gpus = (Gpu(uuid="a", minor=0), Gpu(uuid="b", minor=1), Gpu(uuid="c", minor=2))
    devices = (
        Device(path="/dev/nvidiactl", minor=0),
        Device(path="/dev/nvidia0", minor=2),
        Device(path="/dev/null", minor=1),
    )

    assert inventory.visible(gpus, devices) == (gpus[2],)


async def test_bytes_by_gpu() -> None:
    """The lines of a process are added up; what the driver does not report is left out."""
    asked: list[list[str]] = []

    async def spawn(argv: list[str]) -> str:
        asked.append(argv)
        return "12, A, 100\n12, A, 28\n12, B, 1\n12, C, [N/A]\n\nnonsense\n13, A, 7\n12\n"

    held = await inventory.bytes_by_gpu("/x/nvidia-smi", spawn, 12)

    assert held == {"A": 128 << 20, "B": 1 << 20}
    assert asked[0][0] == "/x/nvidia-smi"


async def test_free_bytes() -> None:
    """Each GPU has its own."""

    async def spawn(argv: list[str]) -> str:
        assert argv[1] == "--query-gpu=uuid,memory.free"
        return "A, 100\nB, 0\nC, [N/A]\n"

    assert await inventory.free_bytes("nvidia-smi", spawn) == {"A": 100 << 20, "B": 0}
