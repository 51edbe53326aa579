"""The annotations by which a container says how it is saved and restored."""

from __future__ import annotations

from pathlib import Path

import pytest

from shim.errors import InvalidArgument
from shim.model import (
    CheckpointOptions,
    Connections,
    CudaMode,
    Direct,
    EngineName,
    ExecProcesses,
    RestoreOptions,
    Verify,
)
from shim.oci import document
from shim.oci.annotations import (
    TaskAnnotations,
    fill_checkpoint_options,
    read_annotations,
    restore_options,
)
from shim.oci.document import Spec

ALL = {
    "engine": "phased",
    "cuda": "require",
    "connections": "refuse",
    "timeout": "90",
    "exit": "true",
    "seal": "false",
    "compress": "true",
    "direct": "1",
    "verify": "full",
    "background": "true",
}


def spec(**said: str) -> Spec:
    """Make a spec that says so, among things that others say."""
    annotations = {f"io.cryo.{name}": text for name, text in said.items()}
    data = {
        "ociVersion": "1.1.0",
        "process": {"args": ["x"]},
        "root": {"path": "rootfs"},
        "annotations": {"io.kubernetes.cri.engine": "other", **annotations},
    }
    return document.parse(data, Path("/b"))


def test_nothing_is_said() -> None:
    """A container without annotations of ours has no options, and changes no call."""
    nothing = read_annotations(spec())

    assert nothing == TaskAnnotations()
    plain = CheckpointOptions(image_path="/i", fill=True)
    assert fill_checkpoint_options(plain, nothing) == plain
    assert restore_options("/i", nothing) == RestoreOptions(image_path="/i")


def test_a_call_of_containerds_gets_everything() -> None:
    """What containerd's calls have no room for comes from the container."""
    said = read_annotations(spec(**ALL))

    assert fill_checkpoint_options(CheckpointOptions(image_path="/i", fill=True), said) == (
        CheckpointOptions(
            image_path="/i",
            exit=True,
            engine=EngineName.PHASED,
            cuda=CudaMode.REQUIRE,
            connections=Connections.REFUSE,
            timeout_s=90.0,
            seal=False,
            compress=True,
            direct=True,
            fill=True,
        )
    )
    assert restore_options("/i", said) == RestoreOptions(
        image_path="/i", verify=Verify.FULL, background=True, direct=Direct.ON, timeout_s=90.0
    )


def test_a_call_of_ours_has_said_its_switches() -> None:
    """A switch that a caller of ours leaves off is off; what it leaves open is filled in."""
    said = read_annotations(spec(**ALL))

    filled = fill_checkpoint_options(CheckpointOptions(image_path="/i"), said)

    assert (filled.exit, filled.seal, filled.compress, filled.direct) == (False, True, False, False)
    assert (filled.engine, filled.timeout_s) == (EngineName.PHASED, 90.0)


def test_a_call_comes_first() -> None:
    """What a call says is not changed."""
    call = CheckpointOptions(
        exit=True,
        engine=EngineName.BUILTIN,
        cuda=CudaMode.AUTO,
        connections=Connections.CUT,
        timeout_s=1.0,
        fill=True,
    )

    filled = fill_checkpoint_options(call, read_annotations(spec(**{**ALL, "exit": "false"})))

    assert (filled.engine, filled.cuda) == (EngineName.BUILTIN, CudaMode.AUTO)
    assert (filled.connections, filled.timeout_s, filled.exit) == (Connections.CUT, 1.0, True)


def test_a_name_of_two_words_has_a_dash() -> None:
    """As the option has, and as annotations have by custom."""
    said = read_annotations(spec(**{"exec-processes": "drop"}))

    filled = fill_checkpoint_options(CheckpointOptions(), said)

    assert filled.exec_processes is ExecProcesses.DROP


@pytest.mark.parametrize(
    ("name", "text"),
    (
        ("engin", "phased"),
        ("engine", "fast"),
        ("seal", "perhaps"),
        ("timeout", "0"),
        ("timeout", "nan"),
        ("timeout", "30s"),
    ),
)
def test_a_mistake_is_reported(name: str, text: str) -> None:
    """An unknown name or value is refused, with the names that there are."""
    with pytest.raises(InvalidArgument, match=r"io\.cryo\.\*") as caught:
        read_annotations(spec(**{name: text}))

    assert "io.cryo.engine" in caught.value.remedy


@pytest.mark.parametrize("name", ("", ".x", "a/b", "../x", "a\n", "x" * 64, "x-"))
def test_a_name_of_an_image_leads_nowhere_else(name: str) -> None:
    """It is one visible path component, without a slash, a dot in front or a newline."""
    for key in ("restore", "warm"):
        with pytest.raises(InvalidArgument, match=key):
            read_annotations(spec(**{key: name}))


def test_a_warm_start_is_a_restore_if_possible() -> None:
    """A restore by name is required, unless its policy or a warm start says otherwise."""
    said = {
        "always": read_annotations(spec(restore="a")),
        "if-possible": read_annotations(spec(restore="a", **{"restore-policy": "if-possible"})),
        "warm": read_annotations(spec(warm="a")),
    }

    assert [one.image_name for one in said.values()] == ["a", "a", "a"]
    assert [one.policy for one in said.values()] == ["always", "if-possible", "if-possible"]
    assert read_annotations(spec()).image_name is None


def test_one_name_at_a_time() -> None:
    """A container cannot be restored from one image and saved as another."""
    with pytest.raises(InvalidArgument, match="cannot both be set"):
        read_annotations(spec(restore="a", warm="b"))
