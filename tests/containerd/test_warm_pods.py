"""Warm starts of pods with volumes and networks: what is saved, and what the next pod gets."""

from __future__ import annotations

import json
import shutil

import pytest

from shim.simgpu.waiting import wait_until
from tests.builds import RunscBuild
from tests.containerd.cryo import COUNT, Cryo
from tests.containerd.kubelet_pod import IDLE, KubeletPod, Pods
from tests.containerd.named import WAIT_S, Named
from tests.containerd.network import free_port
from tests.containerd.warned import warnings_of

TEAM = "team"
OLD_TIME, TIME = (f"2026_11_28_12_00_0{at}.123456789" for at in range(2))
HOOKS = ("pre-freeze", "post-thaw", "post-restore")
# An HTTP server with a program for each hook, which notes its name.
NOTES = f"""
mkdir -p /www/cgi-bin
for hook in {" ".join(HOOKS)}; do
  printf '#!/bin/sh\\necho %s >> /tmp/log\\necho; echo\\n' $hook > /www/cgi-bin/$hook
  chmod +x /www/cgi-bin/$hook
done
exec busybox httpd -f -h /www -p 127.0.0.1:"""
# Ends when a file is there.
INIT = ("sh", "-c", "until test -e /end; do sleep 0.1; done")


def of_warm_pod(name: str, **more: str) -> dict[str, str]:
    """Return the annotations of a pod of a namespace of Kubernetes, with a warm start."""
    warm = {"io.cryo.warm": name, "io.cryo.warm-period": "0.1"}
    return {"io.kubernetes.cri.sandbox-namespace": TEAM, **warm, **more}


def images_of(node: Cryo, name: str) -> Named:
    """Return the images of a name in the pods' namespace."""
    return Named(node.folder / "images" / node.namespace / TEAM / name)


def members(images: Named) -> list[list[str]]:
    """Return the names of the containers in each image of a name."""
    found = [json.loads((path / "cryo.json").read_text("utf-8")) for path in images.images()]
    return [[one["name"] for one in manifest["members"]] for manifest in found]


def begin(pod: KubeletPod, notes: dict[str, str]) -> str:
    """Run the sandbox and the containers before the application; return the init container."""
    pod.sandbox(annotations=notes)
    pod.run("side", IDLE, annotations=notes)
    return pod.run("init", INIT, annotations=notes)


def run_app(node: Cryo, pod: KubeletPod, init: str, notes: dict[str, str]) -> str:
    """Run the application when the init container has ended, as the kubelet does."""
    node.until_all_stopped([init])
    pod.end(init)
    return pod.run("app", ("sh", "-c", COUNT), annotations=notes)


def test_a_warm_pod_with_files_that_no_other_pod_has(pod_node: Cryo, pods: Pods) -> None:
    """It is not saved, and the reason names the container and the files."""
    name, pod = pod_node.fresh("warm"), pods()
    host, conf = pod.empty_dir("host"), pod.config_map("conf", OLD_TIME, {"key": "one"})
    more = {
        "io.cryo.host-volumes": "host",
        "io.cryo.warm-when": "exec test -e /conf/other",
        "io.cryo.warm-timeout": "20",
    }
    notes = of_warm_pod(name, **more)
    pod.sandbox(annotations=notes)
    script = "exec 4>/host/gone; rm /host/gone; exec 5>/host/log 6</conf/key; sleep 100000"
    pod.run("writer", ("sh", "-c", script), {"/host": host, "/conf": conf}, annotations=notes)
    wait_until((host / "log").exists, "the open files", 30)

    pod.config_map("conf", TIME, {"key": "two", "other": ""})

    images = images_of(pod_node, name)
    wait_until(lambda: images.use()["failures"] > 0, "the failure", WAIT_S)
    reason = images.use()["reasons"][0]["text"]
    assert f"writer: /conf/..{OLD_TIME}/key (of an earlier version of volume conf)" in reason
    assert "writer: /host/log (in volume host, which is on the host)" in reason
    assert "gone" not in reason
    shutil.rmtree(images.folder)


def test_a_warm_pod_with_a_part_of_a_volume(pod_node: Cryo, pods: Pods) -> None:
    """It can never be saved: it is tried once, and one event has the reason."""
    name, pod = pod_node.fresh("warm"), pods()
    part = pod.empty_dir("part") / "sub"
    part.mkdir()
    more = {"io.cryo.warm-when": "exec true", "io.cryo.warm-timeout": "3600"}
    notes = of_warm_pod(name, **more)
    with warnings_of(pod_node) as warned:
        sandbox = pod.sandbox(annotations=notes)
        pod.run("web", IDLE, {"/part": part}, annotations=notes)

        text = warned.until(sandbox)

    assert text.startswith(f"not saved as the image {name}: volumes that are mounted with subPath")
    assert "part (of container web)" in text
    images = images_of(pod_node, name)
    wait_until(lambda: images.use()["failures"] == 1, "the failure", WAIT_S)
    assert members(images) == []
    shutil.rmtree(images.folder)


@pytest.mark.long
def test_a_warm_pod_that_is_ready_before_its_init_container_has_ended(
    pod_node: Cryo, pods: Pods
) -> None:
    """It is saved again when the others run, and the next pod is restored from that image."""
    name, first, second = pod_node.fresh("warm"), pods(), pods()
    notes, images = of_warm_pod(name), images_of(pod_node, name)
    init = begin(first, notes)
    wait_until(lambda: members(images) == [["side", "init"]], "the first save", WAIT_S)
    pod_node.exec(init, "touch", "/end")
    run_app(pod_node, first, init, notes)
    wait_until(lambda: members(images) == [["side", "app"]], "the second save", WAIT_S)
    first.remove()

    app = run_app(pod_node, second, begin(second, notes), notes)

    pod_node.until_counts(app)
    assert (images.use()["hits"], images.use()["saves"]) == (1, 2)
    shutil.rmtree(images.folder)


@pytest.mark.long
def test_a_warm_pod_that_ends_before_its_init_container_has_ended(
    pod_node: Cryo, pods: Pods
) -> None:
    """Its image has the init container; the next pod is restored from it, and replaces it."""
    name, first, second, third = pod_node.fresh("warm"), pods(), pods(), pods()
    notes, images = of_warm_pod(name), images_of(pod_node, name)
    begin(first, notes)
    wait_until(lambda: members(images) == [["side", "init"]], "the first save", WAIT_S)
    first.remove()

    init = begin(second, notes)
    pod_node.exec(init, "touch", "/end")
    run_app(pod_node, second, init, notes)

    wait_until(lambda: members(images) == [["side", "app"]], "the second save", WAIT_S)
    wait_until(lambda: images.use()["saves"] == 2, "the end of its checkpoint", WAIT_S)
    second.remove()
    pod_node.until_counts(run_app(pod_node, third, begin(third, notes), notes))
    assert images.use()["hits"] == 2
    shutil.rmtree(images.folder)


@pytest.mark.parametrize("runsc", ("new",), indirect=True)
def test_hooks_of_a_warm_pod_on_the_hosts_network(
    pod_node: Cryo, pods: Pods, runsc: RunscBuild
) -> None:
    """Its server is asked on the host's loopback: whether it is ready, and by all hooks."""
    name, port = pod_node.fresh("warm"), free_port()
    hooks = {f"io.cryo.hook.{kind}": f"http://:{port}/cgi-bin/{kind}" for kind in HOOKS}
    notes = of_warm_pod(name, **hooks, **{"io.cryo.warm-when": f"tcp://:{port}"})
    images = images_of(pod_node, name)

    def run() -> tuple[KubeletPod, str]:
        pod, serve = pods(), ("sh", "-c", f"{NOTES}{port}")
        pod.sandbox(host_network=True, annotations=notes)
        return pod, pod.run("web", serve, host_network=True, annotations=notes)

    def called(web: str) -> list[str]:
        return pod_node.exec(web, "cat", "/tmp/log").out.split()

    first, web = run()
    images.until_saved()
    assert called(web) == ["pre-freeze", "post-thaw"]
    first.remove()

    _, web = run()

    assert called(web) == ["pre-freeze", "post-restore"]
    shutil.rmtree(images.folder)
