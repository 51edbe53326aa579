"""The template of a pod that uses what pods use, and the pods that are made of it.

Its containers: `init` ends before the others start, `side` is a side-car, `web` takes a while until
it answers, and `tcp` accepts connections. `web` keeps a file open in each of its volumes, and
copies what it reads there as soon as `/scratch/read` exists.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tests.containerd.image import REFERENCE
from tests.kubernetes.objects import Document

RUNTIME_CLASS = "cryo"
BOOT_S = 10
HTTP_PORT, TCP_PORT = 8080, 9000
TOKEN = "/var/run/secrets/kubernetes.io/serviceaccount/token"  # noqa: S105  # a path
# What `web` has open for reading, by the name of the copy.
READ = {"conf": "/conf/key", "secret": "/secret/key", "token": TOKEN, "labels": "/about/labels"}
# The volumes that are in an image; it has a file `log` open for writing in each.
KEPT = ("/scratch", "/memory", "/dev/shm")
BOOTED = "/tmp/booted"
# Differs between two cold starts.
BIRTH = "/tmp/birth"

_LOOP = "while true; do i=$((i+1)); {each}; sleep 0.2; done"
WRITE_BIRTH = f"head -c 16 /dev/urandom | busybox md5sum > {BIRTH}"
_INIT = "echo prepared > /scratch/init"
_SIDE = f"i=0; {_LOOP.format(each='echo $i > /scratch/side')}"
_IDLE = "while true; do sleep 1; done"
_TCP = f"while true; do echo hello | nc -l -p {TCP_PORT}; done"
_WEB = f"""
{WRITE_BIRTH}
for folder in {" ".join(KEPT)}; do cp {BIRTH} $folder/birth; done
sleep {BOOT_S}
mkdir -p /www; echo up > /www/index.html
exec 3>>{KEPT[0]}/log 4>>{KEPT[1]}/log 5>>{KEPT[2]}/log
exec 6<{READ["conf"]} 7<{READ["secret"]} 8<{READ["token"]} 9<{READ["labels"]}
busybox httpd -p {HTTP_PORT} -h /www
touch {BOOTED}
i=0
while true; do
  i=$((i+1)); echo $i >&3; echo $i >&4; echo $i >&5
  if [ -e /scratch/read ]; then
    cat <&6 >/scratch/conf; cat <&7 >/scratch/secret; cat <&8 >/scratch/token
    cat <&9 >/scratch/labels; mv /scratch/read /scratch/done
  fi
  sleep 0.2
done
"""


def pod(
    name: str,
    *,
    node: str,
    namespace: str = "default",
    annotations: Mapping[str, str] | None = None,
) -> Document:
    """Return a pod of the template, to be created on a node."""
    volumes: dict[str, Document] = {
        "conf": {"configMap": {"name": "conf"}},
        "secret": {"secret": {"secretName": "secret"}},
        "about": {"downwardAPI": {"items": [_about("labels", "metadata.labels")]}},
        "scratch": {"emptyDir": {}},
        "memory": {"emptyDir": {"medium": "Memory", "sizeLimit": "16Mi"}},
    }
    spec = {
        "volumes": [{"name": key, **value} for key, value in volumes.items()],
        "initContainers": [
            container("init", _INIT, volumes=("scratch",)),
            container("side", _SIDE, volumes=("scratch",), restartPolicy="Always"),
        ],
        "containers": [_web(tuple(volumes)), _tcp()],
    }
    labels = {"app": "full", "pod": name}
    return document(name, spec, node=node, namespace=namespace, notes=annotations, labels=labels)


def _web(volumes: tuple[str, ...]) -> Document:
    return container(
        "web",
        _WEB,
        volumes=volumes,
        env=[
            {"name": "FROM_CONF", "valueFrom": {"configMapKeyRef": {"name": "conf", "key": "key"}}},
            {"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
        ],
        lifecycle={"postStart": {"exec": {"command": ["touch", "/tmp/post-start"]}}},
        readinessProbe=probe(httpGet={"path": "/", "port": HTTP_PORT}),
        livenessProbe=probe(exec={"command": ["test", "-e", "/scratch/init"]}),
        resources={"limits": {"memory": "128Mi"}, "requests": {"cpu": "10m", "memory": "16Mi"}},
    )


def _tcp() -> Document:
    return container("tcp", _TCP, readinessProbe=probe(tcpSocket={"port": TCP_PORT}))


def small(
    name: str,
    *,
    node: str,
    namespace: str = "default",
    annotations: Mapping[str, str] | None = None,
    boot_s: int = BOOT_S,
) -> Document:
    """Return a pod with one container, which is ready after a while."""
    boot = f"{WRITE_BIRTH}; sleep {boot_s}; touch {BOOTED}; {_IDLE}"
    ready = probe(exec={"command": ["test", "-e", BOOTED]})
    spec = {"containers": [container("app", boot, readinessProbe=ready)]}
    return document(name, spec, node=node, namespace=namespace, notes=annotations)


def container(name: str, script: str, *, volumes: tuple[str, ...] = (), **more: Any) -> Document:
    """Return a container that runs a script, with volumes at the places of their names."""
    mounts = [{"name": one, "mountPath": f"/{one}"} for one in volumes]
    return {
        "name": name,
        "image": REFERENCE,
        "imagePullPolicy": "Never",
        "command": ["sh", "-c", script],
        "volumeMounts": mounts,
        **more,
    }


def document(
    name: str,
    spec: Document,
    *,
    node: str,
    namespace: str,
    notes: Mapping[str, str] | None,
    labels: Mapping[str, str] | None = None,
) -> Document:
    """Return the document of a pod."""
    given = {
        "nodeName": node,
        "runtimeClassName": RUNTIME_CLASS,
        "terminationGracePeriodSeconds": 1,
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "namespace": namespace,
            "labels": dict(labels or {}),
            "annotations": dict(notes or {}),
        },
        "spec": {**given, **spec},
    }


def _about(path: str, field: str) -> Document:
    return {"path": path, "fieldRef": {"fieldPath": field}}


def probe(**how: Any) -> Document:
    """Return a probe that is made each second."""
    return {"periodSeconds": 1, "timeoutSeconds": 5, "failureThreshold": 60, **how}


def warm(name: str) -> dict[str, str]:
    """Return the annotations of a warm start of the template."""
    return {
        "io.cryo.warm": name,
        "io.cryo.warm-when": "http://:8080/",
        "io.cryo.warm-period": "0.5",
    }


def warm_small(name: str) -> dict[str, str]:
    """Return the annotations of a warm start of the small pod."""
    return {**warm(name), "io.cryo.warm-when": f"file:{BOOTED}"}
