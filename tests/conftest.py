"""Fixtures that more than one room of tests uses."""

from __future__ import annotations

import signal

import pytest

from hack.tools.running import NotHere
from tests.builds import RunscBuild, can_run_runsc, excuse, find


@pytest.fixture(scope="session", autouse=True)
def interruptible() -> None:
    """Hear of SIGINT also where whoever started us ignores it, as a shell does with a job."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", params=("new", "old"))
def runsc(request: pytest.FixtureRequest) -> RunscBuild:
    """Give each runsc in turn, one that has been seen to run a container here."""
    return ready(request.param)


@pytest.fixture(scope="session")
def runsc_new() -> RunscBuild:
    """Give the runsc that has the built-in engine."""
    return ready("new")


@pytest.fixture(scope="session")
def runsc_old() -> RunscBuild:
    """Give the runsc without the built-in engine."""
    return ready("old")


def ready(name: str) -> RunscBuild:
    """Return a build that runs here; otherwise the test is skipped, or failed in CI."""
    try:
        build = find(name)
    except NotHere as no:
        excuse(str(no))
    if reason := can_run_runsc(build.path):
        excuse(reason)
    return build
