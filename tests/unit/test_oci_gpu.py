"""Which GPUs a spec asks for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shim.errors import InvalidArgument
from shim.model import FromEnvironment
from shim.oci import document
from shim.oci.document import Spec
from shim.oci.gpu import GpuRequest, gpu_request


def spec(
    *env: str,
    devices: tuple[str, ...] = (),
    annotations: dict[str, str] | None = None,
    privileged: bool = False,
) -> Spec:
    """Make a spec that asks for GPUs in some way."""
    nodes = [{"path": path, "type": "c", "major": 195, "minor": 0} for path in devices]
    data: dict[str, Any] = {
        "ociVersion": "1.1.0",
        "process": {
            "args": ["x"],
            "env": list(env),
            "capabilities": {"bounding": ["CAP_KILL", *(["CAP_SYS_ADMIN"] if privileged else [])]},
        },
        "root": {"path": "rootfs"},
        "annotations": annotations or {},
        "linux": {"devices": nodes},
    }
    return document.parse(data, Path("/b"))


@pytest.mark.parametrize("value", ("", "none", "void", " ", ","))
def test_words_for_no_gpu(value: str) -> None:
    """Empty, none and void ask for nothing."""
    assert gpu_request(spec(f"NVIDIA_VISIBLE_DEVICES={value}")) == GpuRequest()


def test_a_plain_spec_wants_none() -> None:
    """Without any of the three languages there is no request."""
    assert not gpu_request(spec("PATH=/bin")).wanted


@pytest.mark.parametrize(
    ("value", "devices"),
    (
        ("all", ("all",)),
        ("0", ("0",)),
        ("0,2", ("0", "2")),
        (" 1 , 1,0 ", ("1", "0")),
        ("0,all", ("all",)),
        (
            "GPU-8a1d0f9c-0000-1111-2222-333344445555",
            ("GPU-8a1d0f9c-0000-1111-2222-333344445555",),
        ),
    ),
)
def test_the_variable(value: str, devices: tuple[str, ...]) -> None:
    """Indices, UUIDs and all are understood, each once and in order."""
    found = gpu_request(spec(f"NVIDIA_VISIBLE_DEVICES={value}"))

    assert found == GpuRequest(wanted=True, devices=devices, source="env")


def test_the_last_of_two_variables_counts() -> None:
    """An image's default is overruled by what the run says."""
    both = spec("NVIDIA_VISIBLE_DEVICES=all", "NVIDIA_VISIBLE_DEVICES=void")

    assert not gpu_request(both).wanted


def test_the_variable_may_hold_cdi_names() -> None:
    """The NVIDIA toolkit accepts qualified names there as well."""
    found = gpu_request(spec("NVIDIA_VISIBLE_DEVICES=nvidia.com/gpu=0"))

    assert found == GpuRequest(wanted=True, devices=("nvidia.com/gpu=0",), source="cdi")


@pytest.mark.parametrize(
    "name",
    (
        "acme.io/claim=tenant-b",
        "k8s.gpu.nvidia.com/claim=uid-1",
        "nvidia.com/mig=0",
        "notnvidia.com/gpu=0",
    ),
)
def test_the_variable_names_nvidia_gpus_alone(name: str) -> None:
    """An image cannot have another vendor's device, nor a claim of somebody else's."""
    with pytest.raises(InvalidArgument, match=r"is not nvidia\.com/gpu") as caught:
        gpu_request(spec(f"NVIDIA_VISIBLE_DEVICES=nvidia.com/gpu=0,{name}"))

    assert "annotation" in caught.value.remedy


@pytest.mark.parametrize(
    ("setting", "privileged", "counts"),
    (
        ("always", False, True),
        ("always", True, True),
        ("privileged", False, False),
        ("privileged", True, True),
        ("never", False, False),
        ("never", True, False),
    ),
)
@pytest.mark.parametrize("value", ("all", "0", "nvidia.com/gpu=0"))
def test_whose_variable_counts(setting: str, privileged: bool, counts: bool, value: str) -> None:
    """A request by the variable counts as cuda.from_environment says, and is named where not."""
    asking = spec(f"NVIDIA_VISIBLE_DEVICES={value}", privileged=privileged)

    found = gpu_request(asking, FromEnvironment(setting))

    assert found.wanted is counts
    assert ("cuda.from_environment" in found.ignored) is not counts


@pytest.mark.parametrize("setting", FromEnvironment)
def test_other_requests_always_count(setting: FromEnvironment) -> None:
    """Devices and annotations come from who runs the container, not from its image."""
    assert gpu_request(spec(devices=("/dev/nvidia0",)), setting).wanted
    assert gpu_request(spec(annotations={"cdi.k8s.io/a": "nvidia.com/gpu=0"}), setting).wanted


@pytest.mark.parametrize("value", ("MIG-5c1c-11", "0:1", "0,MIG-1"))
def test_mig_is_refused_by_name(value: str) -> None:
    """A slice of a GPU is refused with the reason."""
    with pytest.raises(InvalidArgument, match="MIG") as caught:
        gpu_request(spec(f"NVIDIA_VISIBLE_DEVICES={value}"))

    assert caught.value.remedy


@given(st.text(st.characters(codec="utf-8"), max_size=30))
def test_any_other_text_is_refused_or_understood(text: str) -> None:
    """No text whatever makes anything but a request or an InvalidArgument."""
    try:
        found = gpu_request(spec(f"NVIDIA_VISIBLE_DEVICES={text}"))
    except InvalidArgument:
        return

    assert found.wanted == bool(found.devices)


def test_annotations_name_cdi_devices() -> None:
    """All annotations of CDI's count, in the order of their keys; other vendors' are not ours."""
    found = gpu_request(
        spec(
            annotations={
                "cdi.k8s.io/b": "nvidia.com/gpu=1",
                "cdi.k8s.io/a": "nvidia.com/gpu=0,intel.com/nic=x",
                "other": "nvidia.com/gpu=9",
            }
        )
    )

    names = ("nvidia.com/gpu=0", "nvidia.com/gpu=1")
    assert found == GpuRequest(wanted=True, devices=names, source="cdi")


def test_other_vendors_alone_ask_for_no_gpu() -> None:
    """A network card is no GPU, nor is a vendor that only ends alike."""
    names = "intel.com/nic=x,notnvidia.com/gpu=0"

    assert not gpu_request(spec(annotations={"cdi.k8s.io/a": names})).wanted


def test_device_nodes_come_first() -> None:
    """Where somebody has put the nodes in already, nothing else needs doing."""
    found = gpu_request(
        spec(
            "NVIDIA_VISIBLE_DEVICES=void",
            devices=("/dev/null", "/dev/nvidiactl", "/dev/nvidia0"),
            annotations={"cdi.k8s.io/a": "nvidia.com/gpu=0"},
        )
    )

    assert found == GpuRequest(
        wanted=True, devices=("/dev/nvidiactl", "/dev/nvidia0"), source="devices"
    )
