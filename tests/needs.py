"""Which tools the tests of a run need, by their ids."""

from __future__ import annotations

from collections.abc import Iterable

from hack.tools import cli, servers, suites

_REAL = ("tests/real/", "tests/faults/", "tests/containerd/", "tests/kubernetes/")
_CLUSTERS = "tests/kubernetes/"
_NO_CLUSTER = "tests/kubernetes/test_standalone.py"
_BOOTED = ("tests/real/test_deb.py::test_the_service", "tests/containerd/test_node_systemd.py::")
_MORE_SERVERS = "tests/containerd/test_servers.py::test_server["


def tools_for(ids: Iterable[str]) -> list[str]:
    """Return the names of the tools; none where no test runs a real program."""
    real = [each for each in ids if each.startswith(_REAL)]
    needed = set(cli.usual() if real else ())
    if any(each.startswith(_CLUSTERS) and not each.startswith(_NO_CLUSTER) for each in real):
        needed |= set(cli.CLUSTER)
    if any(each.startswith(_MORE_SERVERS) for each in real):
        needed |= {tool.name for tool in servers.MORE}
    if any(each.startswith(_BOOTED) for each in real):
        needed.add(suites.BOOTED.name)
    return [name for name in cli.TOOLS if name in needed]
