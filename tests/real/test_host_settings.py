"""Huge pages of the host: reported once where they are off, and enabled only on request."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from shim.host import hugepages
from shim.simgpu.simulation import Simulation
from tests.builds import RunscBuild
from tests.real.helpers_rig import Rig

FOLDER = Path("/sys/kernel/mm/transparent_hugepage")
NAMES = ("shmem_enabled", "defrag")

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def small_pages() -> Iterator[None]:
    """Turn huge pages off, and set the host back as it was."""
    before = {name: (FOLDER / name).read_text() for name in NAMES}
    (FOLDER / "shmem_enabled").write_text("never")
    yield
    for name, text in before.items():
        (FOLDER / name).write_text(text.partition("[")[2].partition("]")[0])


@pytest.mark.usefixtures("small_pages")
def test_small_pages_are_reported_once(runsc: RunscBuild) -> None:
    """By the first checkpoint of GPU processes; nothing is changed."""
    with Simulation(runsc.path) as sim:
        sim.start_sidecar(host={"huge_pages": "warn"})
        rig = Rig(sim, runsc)
        rig.workload("job")
        first, second = rig.checkpoint("job"), rig.checkpoint("job")

        assert ["small pages" in text for text in first.warnings] == [True]
        assert second.warnings == ()
        assert "small pages" in rig.client.info()["warnings"]
        assert "[never]" in (FOLDER / "shmem_enabled").read_text()
        rig.clear()


@pytest.mark.usefixtures("small_pages")
def test_huge_pages_are_enabled_on_request(runsc: RunscBuild) -> None:
    """The log says what was changed, and the checkpoints no longer warn."""
    with Simulation(runsc.path) as sim:
        sim.start_sidecar(host={"huge_pages": "adjust"})
        rig = Rig(sim, runsc)
        rig.workload("job")

        assert hugepages.are_used()
        assert rig.client.info()["warnings"] == "none"
        assert rig.checkpoint("job").warnings == ()
        assert "shmem_enabled from never to advise" in sim.sidecar_log.read_text()
        rig.clear()
