"""Volumes and networks of pods, and what comes back of them in another pod of the template."""

from __future__ import annotations

import contextlib
import shutil
import socket

import grpc
import pytest

from shim.simgpu.waiting import wait_until
from tests.builds import RunscBuild
from tests.containerd.cryo import Cryo
from tests.containerd.kubelet_pod import IDLE, KubeletPod, Pods
from tests.containerd.network import free_port

# Keeps files open in all volumes, and its working directory in one.
WRITER = """
mkdir -p /scratch/place && cd /scratch/place
exec 5>>/scratch/log 6>>/memory/log 7>>/dev/shm/log 8</conf/key
i=0
while true; do
  i=$((i+1)); echo $i >&5; echo $i >&6; echo $i >&7;
  { pwd; ls -l /proc/$$/fd/8; cat /proc/$$/fd/8; } > new; mv new seen
  echo $i > /count; sleep 0.1
done
"""
OLD_TIME, TIME, NEW_TIME = (f"2026_11_28_12_00_0{at}.123456789" for at in range(3))


def begin(pod: KubeletPod, time: str, text: str, image: str = "") -> str:
    """Run the sandbox and both containers of the template; return the id of the writer."""
    scratch, memory = pod.empty_dir("scratch"), pod.empty_dir("memory", size="8m")
    conf = pod.config_map("conf", time, {"key": text, "other": text})
    pod.sandbox(image=image)
    mounts = {"/scratch": scratch, "/memory": memory, "/conf": conf}
    if not image:
        init = pod.run("init", ("sh", "-c", "echo begun > /scratch/init"), mounts)
        pod.end(init)
    made = pod.run("writer", ("sh", "-c", WRITER), mounts, image=image)
    pod.run("reader", IDLE, {"/data": scratch, "/memory": memory}, image=image)
    return made


def ends(pod_node: Cryo, task: str, path: str) -> tuple[int, int]:
    """Return the first and the last number in a file of a container."""
    first, last = pod_node.exec(task, "sh", "-c", f"head -n 1 {path}; tail -n 1 {path}").out.split()
    return int(first), int(last)


@pytest.mark.every_combination
def test_volumes_come_back_in_another_pod(pod_node: Cryo, pods: Pods) -> None:
    """Contents, open files and a working directory in emptyDir volumes and /dev/shm come back.

    So does a file that is open in a config map, which has another folder there.
    """
    first = pods()
    writer = begin(first, OLD_TIME, "one\n")
    pod_node.until_counts(writer)
    image = pod_node.folder / "scratch" / pod_node.fresh("image")
    pod_node.ctr("tasks", "checkpoint", "--image-path", str(image), writer)
    _, saved = ends(pod_node, writer, "/scratch/log")
    first.remove()

    second = pods()
    copy = begin(second, TIME, "two\n", str(image))

    pod_node.until_counts(copy)
    reader = f"{second.id}-reader"
    assert pod_node.exec(reader, "cat", "/data/init").out == "begun\n"
    folder, file, text = pod_node.exec(reader, "cat", "/data/place/seen").out.splitlines()
    assert (folder, text) == ("/scratch/place", "two")
    assert file.endswith(f" /conf/..{OLD_TIME}/key")
    for path in ("/data/log", "/memory/log", "/dev/shm/log"):
        start, now = ends(pod_node, reader, path)
        assert start == 1
        assert now > saved
    mounts = pod_node.exec(reader, "mount").out
    assert "size=8192k" in mounts or "size=8388608" in mounts
    conf = second.config_map("conf", NEW_TIME, {"key": "three\n", "other": ""})
    assert pod_node.exec(copy, "cat", "/conf/key").out == "three\n"
    assert {path.name for path in conf.iterdir()} == {
        *("..data", "key", "other", f"..{NEW_TIME}", f"..{OLD_TIME}")
    }
    shutil.rmtree(image)


def test_how_containers_use_a_volume(pod_node: Cryo, pods: Pods) -> None:
    """A volume is in the sandbox, also for a restarted container; one used in part is on the host.

    To use a part of a volume that is in the sandbox is refused.
    """
    pod = pods()
    inside, part, host = (pod.empty_dir(name) for name in ("inside", "part", "host"))
    (part / "sub").mkdir()
    pod.sandbox(annotations={"io.cryo.host-volumes": "host"})
    write = ("sh", "-c", "for d in /inside /part /host; do echo one > $d/file; done; sleep 100000")
    mounts = {"/inside": inside, "/part": part / "sub", "/host": host}
    one = pod.run("one", write, mounts)
    read = ("cat", "/inside/file", "/part/sub/file", "/host/file")
    two = pod.run("two", IDLE, {"/inside": inside, "/part": part, "/host": host})
    wait_until((host / "file").exists, "the files", 30)

    assert pod_node.exec(two, *read).out == "one\n" * 3
    assert (part / "sub" / "file").read_text() == "one\n"
    assert not (inside / "file").exists()
    pod.end(one)
    again = pod.run("one", IDLE, mounts)
    assert pod_node.exec(again, "cat", "/inside/file").out == "one\n"
    remedy = "annotate the pod with io.cryo.host-volumes: inside"
    refusal = rf"three mounts a part \(subPath\) of volume inside, .*{remedy}"
    with pytest.raises(grpc.RpcError, match=refusal):
        pod.run("three", IDLE, {"/inside": inside / "sub"})


@pytest.mark.parametrize("runsc", ("new",), indirect=True)
def test_a_pod_on_the_hosts_network(pod_node: Cryo, pods: Pods, runsc: RunscBuild) -> None:
    """It has the host's network, also when it is restored."""
    port = free_port()
    serve = ("sh", "-c", f"while true; do echo hello | nc -l -p {port}; done")
    first = pods()
    first.sandbox(host_network=True)
    made = first.run("web", serve, host_network=True)
    assert received(port) == b"hello\n"
    image = pod_node.folder / "scratch" / pod_node.fresh("image")
    pod_node.ctr("tasks", "checkpoint", "--image-path", str(image), made)
    first.remove()

    second = pods()
    second.sandbox(host_network=True, image=str(image))
    second.run("web", serve, host_network=True, image=str(image))

    assert received(port) == b"hello\n"
    shutil.rmtree(image)


def received(port: int) -> bytes:
    """Connect to a port of the host as soon as something listens; return what it sends."""
    found = b""

    def answered() -> bool:
        nonlocal found
        where = ("127.0.0.1", port)
        with contextlib.suppress(ConnectionError), socket.create_connection(where, 5) as peer:
            found = peer.recv(100)
        return bool(found)

    wait_until(answered, f"a server on port {port}", 30)
    return found
