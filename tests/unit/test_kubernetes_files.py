"""The files of hack/kubernetes agree with each other and with the program that they start."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from hack.kubernetes.node import bundle, containerd, image
from hack.kubernetes.node.__main__ import parser
from shim import config
from shim.oci import document
from shim.oci.annotations import read_annotations
from shim.task.readiness import HttpCheck, parse

ROOT = Path(__file__).parents[2] / "hack/kubernetes"


def objects(folder: str) -> dict[str, dict[str, Any]]:
    """Return the objects in the files of a directory, by kind."""
    files = [path for path in (ROOT / folder).glob("*.yaml") if path.name != "kustomization.yaml"]
    found = [each for path in files for each in yaml.safe_load_all(path.read_text("utf-8"))]
    return {each["kind"]: each for each in found}


def daemon_set() -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the specs of the installer's pod and of its container."""
    pod = objects("base")["DaemonSet"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    return pod, container


def test_the_installer_takes_its_arguments() -> None:
    """The DaemonSet starts the image that is built, with options that the installer has."""
    _, container = daemon_set()

    asked = parser().parse_args(container["args"])

    assert (asked.command, asked.unit, asked.owner) == ("run", "containerd.service", "$(POD_UID)")
    assert container["image"] == image.REFERENCE
    assert {asked.root, asked.config.parent} == {
        Path(mount["mountPath"]) for mount in container["volumeMounts"]
    }


def test_the_probe_looks_for_the_file_that_the_installer_writes() -> None:
    """The readiness probe runs the interpreter of the image, and names the file of `run`."""
    _, container = daemon_set()
    command = container["readinessProbe"]["exec"]["command"]
    launch = bundle.launch(image.BUNDLE)

    assert [command[0], command[3]] == [launch[0], launch[-1]]
    assert str(parser().parse_args(["run"]).ready) in command[-1]


def test_the_installer_waits_less_than_its_grace_period() -> None:
    """The grace period covers the wait for pods, a restart of containerd and a sidecar's stop."""
    pod, container = daemon_set()

    wait_s = parser().parse_args(container["args"]).wait

    assert pod["terminationGracePeriodSeconds"] >= wait_s + 120 + 120


def test_pods_are_scheduled_where_the_runtime_is() -> None:
    """The RuntimeClass has the handler that is installed, and selects the installer's nodes."""
    found = objects("base")["RuntimeClass"]
    pod, _ = daemon_set()

    assert found["handler"] == containerd.HANDLER
    assert found["scheduling"]["nodeSelector"] == pod["nodeSelector"]


SETTINGS = sorted(ROOT.rglob("config.toml"))
# The kubelet's default runtimeRequestTimeout.
KUBELET_S = 120.0


@pytest.mark.parametrize("path", SETTINGS, ids=lambda path: path.parent.name)
def test_the_settings_are_valid(path: Path) -> None:
    """config.toml of each variant is valid and allows restores by name."""
    assert config.load(path).pods.restore


@pytest.mark.parametrize("path", SETTINGS, ids=lambda path: path.parent.name)
def test_only_the_start_of_a_pod_is_bounded_by_the_kubelet(path: Path) -> None:
    """A Start ends before the kubelet gives it up; a sidecar's restore has its own deadline."""
    settings = config.load(path)

    assert settings.pods.start_timeout < KUBELET_S
    assert settings.timeouts == config.Config().timeouts


def example() -> dict[str, Any]:
    """Return the template of the example's pods."""
    template: dict[str, Any] = objects("example")["Deployment"]["spec"]["template"]
    return template


def test_the_example_names_all_of_its_files() -> None:
    """Every file of each directory is in its kustomization."""
    for path in ROOT.rglob("kustomization.yaml"):
        named = yaml.safe_load(path.read_text("utf-8"))
        files = {each.name for each in path.parent.glob("*.yaml")} - {path.name}

        assert {each for each in named["resources"] if each.endswith(".yaml")} == files


def test_the_pods_of_the_example_start_warm() -> None:
    """The annotations are ours and valid, and the pods run in the runtime that is installed."""
    pod = example()

    data = {
        "ociVersion": "1.1.0",
        "process": {"args": ["x"]},
        "root": {"path": "rootfs"},
        "annotations": pod["metadata"]["annotations"],
    }
    found = read_annotations(document.parse(data, Path("/b")))

    assert found.warm
    assert pod["spec"]["runtimeClassName"] == objects("base")["RuntimeClass"]["metadata"]["name"]


def test_the_example_is_saved_when_it_is_ready() -> None:
    """The check for the save asks the same as the readiness probe, on a port that is served."""
    (container,) = example()["spec"]["containers"]
    annotations = example()["metadata"]["annotations"]
    (port,) = container["ports"]
    probe = container["readinessProbe"]["httpGet"]

    check = parse(annotations["io.cryo.warm-when"])

    assert check == HttpCheck(port=port["containerPort"], path=probe["path"])
    assert probe["port"] == port["name"]
    assert str(port["containerPort"]) in container["command"]


def test_nothing_in_the_example_prevents_a_save() -> None:
    """No terminal and no subPath, of which a save is refused."""
    for container in example()["spec"]["containers"]:
        assert not container.get("tty")
        assert not [mount for mount in container.get("volumeMounts", ()) if "subPath" in mount]


def test_labels_of_the_example_agree() -> None:
    """The Deployment and the Service select the pods of the template."""
    found = objects("example")
    labels = example()["metadata"]["labels"]

    assert found["Deployment"]["spec"]["selector"]["matchLabels"] == labels
    assert found["Service"]["spec"]["selector"] == labels
