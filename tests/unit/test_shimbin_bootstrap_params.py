"""What containerd writes to `start`, of each release, and malformed input."""

from __future__ import annotations

import pytest
from google.protobuf.any_pb2 import Any as AnyMessage
from hypothesis import given
from hypothesis import strategies as st

from shim.entry.shimbin import bootstrap_params

NAMED = b"\x12\x0c/etc/my.toml"
TEXT = b"\x1a\x04a=1\n"


def options(value: bytes, kind: str = "runtimeoptions.v1.Options") -> bytes:
    """Write the options of a container as containerd up to 2.2 does: an Any."""
    return AnyMessage(type_url=kind, value=value).SerializeToString()


def field(number: int, data: bytes) -> bytes:
    """Write a field of bytes, shorter than 128."""
    return bytes((number << 3 | 2, len(data))) + data


def bootstrap(*extensions: bytes) -> bytes:
    """Write BootstrapParams, with a log level (a negative varint) among its fields."""
    head = field(1, b"box") + field(2, b"ns") + b"\x18" + b"\xfc" + b"\xff" * 8 + b"\x01"
    return head + b"".join(field(8, field(1, packed)) for packed in extensions)


@pytest.mark.parametrize("prefix", ("", "types.containerd.io/"))
def test_a_named_file(prefix: str) -> None:
    """The options of ctr and CRI name a file, in the old form and in the new."""
    packed = options(NAMED, f"{prefix}runtimeoptions.v1.Options")

    assert bootstrap_params.config_of(packed, "box") == "/etc/my.toml"
    other = options(b"\x08\x01", "containerd.runc.v1.Options")
    assert bootstrap_params.config_of(bootstrap(other, packed), "box") == "/etc/my.toml"


def test_a_text() -> None:
    """Without a file the options may hold the settings; a file that is named comes first."""
    assert bootstrap_params.config_of(options(TEXT), "box") == b"a=1\n"
    assert bootstrap_params.config_of(options(NAMED + TEXT), "box") == "/etc/my.toml"


@pytest.mark.parametrize(
    "data", (b"", options(b"\x08\x01", "containerd.runc.v1.Options"), bootstrap())
)
def test_no_settings(data: bytes) -> None:
    """No options, those of runc, or none among the extensions name nothing."""
    assert bootstrap_params.config_of(data, "box") is None


@pytest.mark.parametrize("size", (1, 76, 127, 200))
def test_bootstrap_params_are_recognised_by_the_id(size: int) -> None:
    """BootstrapParams begin with the very id of the container, an Any with a type."""
    name = "x" * size
    head = AnyMessage(type_url=name).SerializeToString()  # field 1, of any length

    assert bootstrap_params.is_bootstrap_params(head, name)
    assert not bootstrap_params.is_bootstrap_params(head, f"{name}y")
    assert not bootstrap_params.is_bootstrap_params(options(NAMED), name)


@given(st.binary(max_size=200))
def test_anything(data: bytes) -> None:
    """Whatever is written gives an answer."""
    found = bootstrap_params.config_of(data, "box")
    assert found is None or len(found) > 0


@given(st.integers(min_value=0, max_value=60))
def test_what_is_cut_short(size: int) -> None:
    """A message that ends early has no fields."""
    whole = options(NAMED)
    if size < len(whole):
        assert bootstrap_params.config_of(whole[:size], "box") is None
