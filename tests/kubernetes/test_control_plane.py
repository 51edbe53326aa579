"""Warm starts of pods that an API server gives to a kubelet: all that pods use comes back."""

from __future__ import annotations

import base64
import json
import logging
from typing import Any

import pytest

from shim.simgpu.waiting import wait_until
from tests.containerd.beside import serving
from tests.containerd.named import WAIT_S
from tests.containerd.warned import warnings_of
from tests.kubernetes.cluster import Cluster, is_ready, restarts
from tests.kubernetes.node import Node
from tests.kubernetes.template import BIRTH, KEPT, READ, pod, small, warm, warm_small

_log = logging.getLogger(__name__)
OTHER = "other"
TEN = 10
# How the reasons begin for which a pod was not restored.
COLD = "started cold instead of from the image {}"
DIFFERS = "the bundle differs from the one in the image: process.args"


def owner_of(token: str) -> dict[str, Any]:
    """Return which pod a token is of, from its payload, without a check of the signature."""
    payload = token.strip().split(".")[1]
    claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    found: dict[str, Any] = claims["kubernetes.io"]["pod"]
    return found


@pytest.mark.long
def test_all_that_a_pod_uses_comes_back(cluster: Cluster) -> None:
    """Cold, saved when it is ready, deleted, and restored by the next pod of the template.

    Contents and open files of its volumes come back; those of the config map, the secret, the
    token and the downward API are the current ones, of the new pod.
    """
    cluster.configure("one")
    first = pod("full-1", node=cluster.node, annotations=warm("full"))
    cold_s = cluster.start(first)
    assert cluster.exec(first, "web", "cat", READ["conf"]) == "one"
    cluster.until_saved("full")
    birth = cluster.exec(first, "web", "cat", BIRTH)
    before = cluster.read(first)
    cluster.remove(first)
    cluster.configure("two")

    second = pod("full-2", node=cluster.node, annotations=warm("full"))
    warm_s = cluster.start(second)

    _log.info("a pod of four containers: cold %.1f s, warm %.1f s", cold_s, warm_s)
    after = cluster.read(second)
    assert after["status"]["podIP"] != before["status"]["podIP"]
    cluster.until_hits("full", 1)
    assert restarts(after) == dict.fromkeys(("init", "side", "web", "tcp"), 0)
    for folder in KEPT:
        assert cluster.exec(second, "web", "cat", f"{folder}/birth") == birth
        assert cluster.exec(second, "web", "head", "-n", "1", f"{folder}/log") == "1\n"
        logged = cluster.number(second, "web", f"{folder}/log")
        cluster.until_number(second, "web", f"{folder}/log", logged + 1)
    assert (
        cluster.exec(second, "web", "sh", "-c", "echo $POD_IP").strip()
        == (after["status"]["podIP"])
    )
    cluster.exec(second, "web", "touch", "/scratch/read")
    cluster.until_exists(second, "web", "/scratch/done")
    seen = {name: cluster.exec(second, "web", "cat", f"/scratch/{name}") for name in READ}
    assert (seen["conf"], seen["secret"]) == ("two", "two")
    assert 'pod="full-2"' in seen["labels"]
    assert owner_of(seen["token"]) == {"name": "full-2", "uid": after["metadata"]["uid"]}
    now = {name: cluster.exec(second, "web", "cat", path) for name, path in READ.items()}
    assert now == seen
    assert cluster.exec(second, "side", "cat", "/scratch/init") == "prepared\n"
    cluster.remove(second)


@pytest.mark.long
def test_ten_pods_at_once(cluster: Cluster) -> None:
    """Of ten cold ones one is saved; the next ten are restored from it."""
    names = [f"ten-{number}" for number in range(2 * TEN)]
    pods = [small(name, node=cluster.node, annotations=warm_small("ten")) for name in names]
    cold, restored = pods[:TEN], pods[TEN:]
    cold_s = cluster.start(*cold)
    cluster.until_saved("ten")
    cluster.remove(*cold)

    warm_s = cluster.start(*restored)

    _log.info("ten pods at once: cold %.1f s, warm %.1f s", cold_s, warm_s)
    births = {cluster.exec(one, "app", "cat", BIRTH) for one in restored}
    assert len(births) == 1
    cluster.until_hits("ten", TEN)
    addresses = {cluster.read(one)["status"]["podIP"] for one in restored}
    assert len(addresses) == TEN
    cluster.remove(*restored)


@pytest.mark.long
def test_a_changed_template(cluster: Cluster, node: Node) -> None:
    """A pod with another command under the same name starts cold, and its image replaces the old.

    The reason is an event of the pod, a warning in containerd's events, and in `cryo warm show`.
    """
    name, notes = "changed", warm_small("changed")
    old, new, third = (
        small(f"{name}-{number}", node=cluster.node, annotations=notes, boot_s=boot_s)
        for number, boot_s in enumerate((1, 2, 2))
    )
    cluster.start(old)
    first = cluster.until_saved(name)

    with warnings_of(node) as warned:
        cluster.start(new)
        wait_until(lambda: COLD.format(name) in "".join(warned.everything()), "why", WAIT_S)

    cluster.event(new, "Failed", DIFFERS)
    (why,) = [text for text in warned.everything() if text.startswith(COLD.format(name))]
    assert DIFFERS in why
    assert len({cluster.exec(one, "app", "cat", BIRTH) for one in (old, new)}) == 2
    with serving(node) as cryo:
        assert DIFFERS in cryo("warm", "show", "-k", "default", name).out
    wait_until(lambda: first not in cluster.images(name), "the next image", WAIT_S)
    cluster.start(third)
    assert cluster.exec(third, "app", "cat", BIRTH) == cluster.exec(new, "app", "cat", BIRTH)
    cluster.remove(old, new, third)


@pytest.mark.long
def test_an_image_of_another_namespace(cluster: Cluster) -> None:
    """It is not used: the pod is refused, with the reason as an event, or starts cold."""
    first = small("mine", node=cluster.node, annotations=warm_small("mine"), boot_s=1)
    cluster.start(first)
    cluster.until_saved("mine")
    cluster.plane.add_namespace(OTHER)
    only = {"io.cryo.restore": "mine"}
    refused = small("always", node=cluster.node, namespace=OTHER, annotations=only, boot_s=1)
    cluster.objects.create(refused)
    cluster.event(refused, "FailedCreatePodSandBox", "there is no image named ")
    assert not is_ready(cluster.read(refused))

    possible = {**only, "io.cryo.restore-policy": "if-possible"}
    cold = small("possible", node=cluster.node, namespace=OTHER, annotations=possible, boot_s=1)
    cluster.start(cold)

    births = {cluster.exec(one, "app", "cat", BIRTH) for one in (first, cold)}
    assert len(births) == 2
    cluster.remove(first, refused, cold)
