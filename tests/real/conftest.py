"""What every test on real runsc needs before it begins, and what must be gone when it is over."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.builds import RunscBuild, excuse
from tests.real.helpers_rig import Rig
from tests.real.machines import Machines


@pytest.fixture(scope="session", autouse=True)
def require_root() -> None:
    """Skip the room, or fail it in CI, where we are not root."""
    if os.geteuid() != 0:
        excuse("real tests need root")


# First, so that an id does not depend on when this file is loaded.
@pytest.hookimpl(tryfirst=True)
def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test that asks for `engine`, and names none itself, with each one that there is."""
    marks = metafunc.definition.iter_markers("parametrize")
    named = any("engine" in mark.args[0] for mark in marks)
    if "engine" in metafunc.fixturenames and not named:
        metafunc.parametrize("engine", ("phased", "builtin"))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what cannot be: the old runsc has no built-in engine."""
    impossible = [item for item in items if _is_impossible(item)]
    config.hook.pytest_deselected(items=impossible)
    items[:] = [item for item in items if item not in impossible]


def _is_impossible(item: pytest.Item) -> bool:
    call = getattr(item, "callspec", None)
    chosen = call.params if call is not None and "real" in item.path.parts else {}
    return chosen.get("runsc") == "old" and chosen.get("engine") == "builtin"


@pytest.fixture(scope="session")
def machines() -> Iterator[Machines]:
    """Yield the machines with default settings, which all files share."""
    running = Machines()
    try:
        yield running
    finally:
        running.stop()


@pytest.fixture(scope="module")
def machine(runsc: RunscBuild, machines: Machines) -> Rig:
    """Return the machine with one of the two runsc versions, and a sidecar on it."""
    return machines.get(runsc)


@pytest.fixture
def rig(machine: Rig, machines: Machines) -> Iterator[Rig]:
    """Yield the machine; after the test nothing of it may be left."""
    yield machine
    try:
        machine.clear()
        assert machine.leftovers() == []
    except BaseException:
        machines.damaged(machine)
        raise
