"""The tools that a run of the tests obtains."""

from __future__ import annotations

import pytest

from hack.tools import cli
from tests.needs import tools_for


@pytest.mark.parametrize(
    ("test", "more"),
    (
        ("tests/real/test_tasks.py::test_one", ()),
        ("tests/containerd/test_servers.py::test_one_server[nginx-2.4]", ()),
        (
            "tests/containerd/test_servers.py::test_server[redis-2.4]",
            ("server-redis", "server-postgres", "server-python", "server-node", "server-java"),
        ),
        ("tests/real/test_deb.py::test_the_service", ("debian-12-systemd",)),
        ("tests/containerd/test_node_systemd.py::test_one", ("debian-12-systemd",)),
        ("tests/kubernetes/test_standalone.py::test_one[2.4]", ()),
        ("tests/kubernetes/test_killed.py::test_one[2.4]", ("kube-apiserver", "etcd")),
    ),
)
def test_a_test_needs_the_usual_tools_and_its_own(test: str, more: tuple[str, ...]) -> None:
    """Those on request are obtained for the tests that need them."""
    assert set(tools_for(["tests/unit/test_x.py::test_one", test])) == {*cli.usual(), *more}


def test_unit_tests_need_no_tools() -> None:
    """Without a test of a real program nothing is obtained."""
    assert tools_for(["tests/unit/test_x.py::test_one", "tests/wire/test_x.py::test_one"]) == []
