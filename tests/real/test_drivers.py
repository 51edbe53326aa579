"""Drivers from 550 to 580, each with what it can do; older ones are refused."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from shim.cuda import native
from shim.errors import HostMismatch, Impossible
from tests.real.helpers_rig import Rig, refused

pytestmark = pytest.mark.timeout(120)
USUAL = 570


@pytest.fixture
def on_driver(rig: Rig) -> Iterator[Rig]:
    """Give a machine whose driver may be changed."""
    yield rig
    rig.sim.set_driver(USUAL)


@pytest.mark.parametrize(
    ("driver", "warnings"),
    (
        (550, ("can only toggle", "no lock timeout")),
        (555, ("no lock timeout",)),
        (580, ()),
    ),
)
def test_driver_is_used_as_it_can(on_driver: Rig, driver: int, warnings: tuple[str, ...]) -> None:
    """Every driver from 550 on works; what an old one lacks is reported."""
    rig = on_driver
    rig.sim.set_driver(driver)
    rig.workload("job", processes=2)

    made = rig.checkpoint("job")
    rig.restore("copy", made.image_path)

    assert rig.fine("job")
    assert rig.fine("copy")
    assert len(made.warnings) == len(warnings)
    assert all(part in text for part, text in zip(warnings, made.warnings, strict=True))
    ways = {call.via for call in rig.sim.calls() if call.action == "checkpoint"}
    toggled = driver == 550 or made.engine == "builtin"
    batched = "batch" if driver >= 570 and native.path() else ""
    assert ways == ({"toggle"} if toggled else {batched})


def test_driver_without_checkpoints_is_refused(on_driver: Rig) -> None:
    """Below 550 the answer is a no with the driver to install, and nothing was touched."""
    rig = on_driver
    rig.sim.set_driver(535)
    rig.workload("job")

    error = refused(Impossible, lambda: rig.checkpoint("job"))

    assert "535" in error.message
    assert "570" in error.remedy
    assert rig.sim.calls() == []
    assert rig.client.images() == []
    assert rig.fine("job")


def test_image_of_another_driver_is_refused(on_driver: Rig) -> None:
    """GPU state fits no other driver: restore and verify say which one is needed."""
    rig = on_driver
    rig.workload("job")
    image = rig.checkpoint("job", exit=True).image_path
    rig.sim.set_driver(580)

    for call in (lambda: rig.restore("copy", image), lambda: rig.client.verify(image)):
        error = refused(HostMismatch, call)
        assert "570.195.03" in error.message
        assert "580.159.04" in error.message
    assert [view.id for view in rig.client.list()] == ["job"]
    rig.sim.set_driver(USUAL)
    rig.restore("copy", image)
    assert rig.fine("copy")
