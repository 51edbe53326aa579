"""Warm starts of static pods, which a kubelet without an API server runs."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from shim.simgpu.waiting import wait_until
from tests.containerd.builds import LINES
from tests.containerd.conftest import program
from tests.containerd.cri.client import Kubelet as Client
from tests.kubernetes.cluster import restarts, statuses_of
from tests.kubernetes.kubelet import NODE
from tests.kubernetes.node import Node
from tests.kubernetes.objects import Document
from tests.kubernetes.standalone import StaticKubelet
from tests.kubernetes.template import BIRTH, small, warm_small

pytestmark = pytest.mark.parametrize("containerd_build", LINES[-1:], indirect=True)
END_S = 60.0


@pytest.fixture(scope="module")
def static(node: Node) -> Iterator[StaticKubelet]:
    """Yield a kubelet that has no API server."""
    with StaticKubelet(node, program("kubelet")) as made:
        yield made


def birth(node: Node, pod: Document) -> bytes:
    """Return what a pod wrote at its cold start."""
    (status,) = statuses_of(pod)
    container = status["containerID"].removeprefix("containerd://")
    with Client(node.address) as runtime:
        return runtime.exec(container, "cat", BIRTH).stdout


def test_the_next_static_pod_is_restored(node: Node, static: StaticKubelet) -> None:
    """A pod is saved when it is ready and removed; the next one of its template is restored."""
    first, second = (
        small(name, node=NODE, annotations=warm_small("static"), boot_s=1)
        for name in ("static-1", "static-2")
    )
    named = node.named("static")
    cold = static.add(first)
    named.until_saved()
    mark = birth(node, cold)
    static.drop(first)
    wait_until(lambda: not node.tasks(), "the end of the first pod", END_S)

    warm = static.add(second)

    named.until_hit()
    assert birth(node, warm) == mark != b""
    assert warm["status"]["podIP"] != cold["status"]["podIP"]
    assert restarts(warm) == {"app": 0}
