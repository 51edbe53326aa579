"""The example of hack/kubernetes: its objects are valid, and pods of its template are warm."""

from __future__ import annotations

import copy
import tarfile
from pathlib import Path
from typing import Any

import pytest
import yaml

from hack.tools.servers import ARCHIVE
from shim.simgpu.waiting import PACKAGE_ROOT
from tests.containerd import image
from tests.containerd.conftest import program
from tests.containerd.cryo import Cryo
from tests.kubernetes.cluster import Cluster
from tests.kubernetes.objects import Document

_EXAMPLE = PACKAGE_ROOT / "hack/kubernetes/example"


def example(name: str) -> Document:
    """Return an object of the example, in the namespace that its kustomization names."""
    found: Document = yaml.safe_load((_EXAMPLE / f"{name}.yaml").read_text("utf-8"))
    rules = yaml.safe_load((_EXAMPLE / "kustomization.yaml").read_text("utf-8"))
    assert f"{name}.yaml" in rules["resources"]
    found["metadata"]["namespace"] = rules["namespace"]
    return found


def replica(deployment: Document, name: str, *, node: str) -> Document:
    """Return a pod as the controllers and the scheduler, which do not run here, make it."""
    template: dict[str, Any] = copy.deepcopy(deployment["spec"]["template"])
    namespace = deployment["metadata"]["namespace"]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {**template["metadata"], "name": name, "namespace": namespace},
        "spec": {**template["spec"], "nodeName": node},
    }


def provide_image(node: Cryo, archive: Path, reference: str) -> None:
    """Import an image of this name that has a `python3`: that of Debian."""
    archive.write_bytes(program("server-python", ARCHIVE).read_bytes())
    link = tarfile.TarInfo("./usr/bin/python3")
    link.type, link.linkname = tarfile.SYMTYPE, "python3.11"
    with tarfile.open(archive, "a") as tar:
        tar.addfile(link)
    image.write_layer(archive, archive.read_bytes(), reference=reference, command=("/bin/sh",))
    node.import_image(archive)


@pytest.mark.long
def test_the_example(cluster: Cluster, node: Cryo, tmp_path: Path) -> None:
    """The API server takes its objects; two replicas boot cold, and the next two are restored."""
    deployment, service = example("deployment"), example("service")
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    provide_image(node, tmp_path / "image.tar", container["image"])
    for one in (deployment, service):
        cluster.objects.create(one)
    name = deployment["spec"]["template"]["metadata"]["annotations"]["io.cryo.warm"]
    number = deployment["spec"]["replicas"]
    pods = [replica(deployment, f"web-{at}", node=cluster.node) for at in range(2 * number)]

    cluster.start(*pods[:number])
    cluster.until_saved(name)
    cluster.remove(*pods[:number])
    cluster.start(*pods[number:])

    cluster.until_hits(name, number)
    selector = service["spec"]["selector"]
    for one in pods[number:]:
        assert selector.items() <= cluster.read(one)["metadata"]["labels"].items()
    cluster.remove(*pods[number:])
