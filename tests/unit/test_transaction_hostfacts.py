"""Whether a host fits an image."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from shim.cuda.inventory import Gpu, Inventory
from shim.errors import HostMismatch
from shim.image.manifest import Build, Manifest
from shim.transaction import hostfacts
from shim.transaction.hostfacts import HostFacts, check_host, differences
from tests.unit.image_helpers import manifest

H100, A100 = Gpu(uuid="GPU-1", model="H100", minor=0), Gpu(uuid="GPU-2", model="A100", minor=1)
HOST = HostFacts(arch="x86_64", kernel="6.1.0", cpu_features=("avx", "sse"))
IMAGE = manifest(driver="580.65.06", gpus=(H100,))
HERE = Inventory(driver="580.65.06", gpus=(H100,))
UNVERSIONED = "VERSION_MISSING"


def found(
    image: Manifest = IMAGE,
    host: HostFacts = HOST,
    here: Inventory = HERE,
    runsc: Build | None = None,
) -> list[str]:
    """Name what does not fit."""
    return [one.what for one in differences(image, host, here, runsc or image.runsc)]


def test_the_same_host_fits() -> None:
    """An image restores where it was made."""
    assert found() == []
    check_host(IMAGE, HOST, HERE, IMAGE.runsc, {})


def test_another_kernel_and_more_features_fit() -> None:
    """GVisor is the kernel, and a CPU that can do more can do this."""
    host = HostFacts(arch="x86_64", kernel="7.0", cpu_features=("avx", "avx2", "sse"))

    assert found(host=host) == []


@pytest.mark.parametrize(
    ("changes", "what"),
    (
        ({"runsc": Build(version="release-20240729.0", digest="ab" * 32)}, "runsc"),
        ({"host": HostFacts(arch="aarch64", kernel="", cpu_features=())}, "architecture"),
        ({"host": HostFacts(arch="x86_64", kernel="", cpu_features=("sse",))}, "CPU"),
        ({"here": Inventory(driver="580.105.08", gpus=(H100,))}, "NVIDIA driver"),
        ({"here": Inventory(gpus=(H100,))}, "NVIDIA driver"),
        ({"here": Inventory(driver="580.65.06", gpus=(A100,))}, "GPUs"),
        ({"here": Inventory(driver="580.65.06")}, "GPUs"),
    ),
)
def test_each_difference_is_named(changes: dict[str, Any], what: str) -> None:
    """One difference, one name."""
    assert found(**changes) == [what]


def test_a_container_without_gpus_needs_none() -> None:
    """The driver of the machine that made it is then of no interest."""
    image = manifest(driver="580.65.06", gpus=(H100,), processes=())

    assert found(image=image, here=Inventory()) == []


def test_two_gpus_need_two() -> None:
    """They are counted by model."""
    image = manifest(driver="580.65.06", gpus=(H100, H100))

    assert found(image=image) == ["GPUs"]
    assert found(image=image, here=Inventory(driver="580.65.06", gpus=(H100, A100, H100))) == []


def test_a_simulated_driver_is_not_compared() -> None:
    """An image without a driver version asks for none."""
    assert found(image=manifest(), here=Inventory()) == []


def test_builds_of_one_release_fit_each_other() -> None:
    """A distribution may build a release again: its version counts."""
    assert found(runsc=Build(version=IMAGE.runsc.version, digest="00")) == []


def test_builds_without_a_version_are_distinguished_by_their_binary() -> None:
    """Two unversioned builds have one name and may be years apart."""
    image = manifest(runsc=Build(version=UNVERSIONED, digest="aa"), processes=())

    assert found(image=image, runsc=Build(version=UNVERSIONED, digest="aa")) == []
    assert found(image=image, runsc=Build(version=UNVERSIONED, digest="bb")) == ["runsc"]
    assert found(image=image, runsc=Build(version="release-1", digest="aa")) == ["runsc"]


def test_everything_is_said_at_once() -> None:
    """All differences are reported at once."""
    host = HostFacts(arch="aarch64", kernel="", cpu_features=())

    with pytest.raises(HostMismatch) as caught:
        check_host(IMAGE, host, Inventory(), Build(version="other"), {})

    for word in ("runsc", "release-20260905.0", "other", "x86_64", "580.65.06", "1 x H100"):
        assert word in str(caught.value)
    assert caught.value.remedy.count(";") == 3


def test_flags_of_runsc_that_do_not_fit() -> None:
    """A flag on which the load depends is named with both values and what to set."""
    spec = {"ociVersion": "1.1.0", "root": {"path": "/r"}}
    image = manifest(spec=spec, runsc_flags={"overlay2": "root:memory"}, processes=())

    check_host(image, HOST, HERE, image.runsc, {"overlay2": "root:memory"})
    with pytest.raises(HostMismatch, match=r"overlay2.*needs root:memory, this host has root:self"):
        check_host(image, HOST, HERE, image.runsc, {})


def test_the_features_that_are_lacking_are_named() -> None:
    """The message says which."""
    host = HostFacts(arch="x86_64", kernel="", cpu_features=("sse",))

    (one,) = differences(IMAGE, host, HERE, IMAGE.runsc)

    assert "avx" in str(one)


X86 = """processor\t: 0
flags\t\t: fpu sse sse4_2 avx512f amx_tile vmx pti retpoline hypervisor rep_good xsave
vmx flags\t: vnmi preemption_timer
bugs\t\t: spectre_v1

processor\t: 1
flags\t\t: fpu sse sse4_2 avx512f vmx xsave xsaveopt
"""


def test_features_are_those_that_programs_see_on_every_cpu() -> None:
    """Words of the kernel's own are left out: another kernel on the same CPU must fit."""
    assert hostfacts.parse_features(X86) == ("avx512f", "fpu", "sse", "sse4_2", "xsave")


def test_arm_words_are_all_kept() -> None:
    """Off x86 every word is one that programs can see."""
    assert hostfacts.parse_features("Features\t: fp asimd sve\n") == ("asimd", "fp", "sve")
    assert hostfacts.parse_features("") == ()


def test_this_host_can_be_read(tmp_path: Path) -> None:
    """The kernel's own words are taken for architecture and release."""
    (tmp_path / "cpuinfo").write_text(X86)

    facts = hostfacts.read_host(tmp_path / "cpuinfo")

    assert facts.cpu_features
    assert facts.arch
    assert facts.kernel
    assert hostfacts.read_host().arch == facts.arch
