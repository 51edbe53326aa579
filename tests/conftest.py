"""Fixtures that several folders of tests use, and the choice of the tests that run."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterable

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling
from xdist.workermanage import WorkerController

from hack.tools.running import NotHere
from tests import matrix
from tests.builds import RunscBuild, can_run_runsc, excuse, find, real_is_required
from tests.needs import tools_for

_TOOLS_S = 3600.0


class BySharedMachine(LoadScopeScheduling):
    """Gives each worker the tests of one unit after the other; see `matrix.unit_of`."""

    def _split_scope(self, nodeid: str) -> str:
        return matrix.unit_of(nodeid)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add our options."""
    group = parser.getgroup("cryoshim")
    group.addoption("--all", action="store_true", help="run all combinations, and long tests")
    group.addoption("--tools", action="store_true", help="obtain the tools that real tests need")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what only `--all` runs."""
    if not config.getoption("all"):
        items[:], left = matrix.select(items)
        config.hook.pytest_deselected(items=left)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadScopeScheduling:
    """Distribute the tests by what they share."""
    return BySharedMachine(config, log)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Obtain the tools where this process runs the tests itself."""
    if not hasattr(session.config, "workerinput"):
        obtain_tools(session.config, (item.nodeid for item in session.items))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_node_collection_finished(node: WorkerController, ids: list[str]) -> None:
    """Obtain the tools before the first worker begins."""
    obtain_tools(node.config, ids)


def obtain_tools(config: pytest.Config, ids: Iterable[str]) -> None:
    """Obtain the tools that these tests need, once, where asked to."""
    tools = tools_for(ids) if config.getoption("tools") else []
    if not tools:
        return
    config.option.tools = False
    required = ["--require"] if real_is_required() else []
    argv = [sys.executable, "-m", "hack.tools", *required, *tools]
    capture = config.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled():
        done = subprocess.run(argv, check=False, timeout=_TOOLS_S)
    if done.returncode:
        pytest.exit("the tools could not be obtained", returncode=1)


@pytest.fixture(scope="session", autouse=True)
def interruptible() -> None:
    """Receive SIGINT also where our parent ignores it, as a shell does with a job."""
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
