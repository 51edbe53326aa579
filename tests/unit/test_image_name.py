"""Names of images: what is one, and what is not."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shim.errors import InvalidArgument
from shim.image.name import MAX_NAME, ImageName, is_path, parse


@pytest.mark.parametrize(
    ("text", "repository", "tag"),
    (
        ("llama", "llama", "latest"),
        ("llama:warm", "llama", "warm"),
        ("team/llama-3.1_x:V1.0-a_b", "team/llama-3.1_x", "V1.0-a_b"),
        ("a/b/c:1", "a/b/c", "1"),
        ("x" * 128 + ":" + "y" * 128, "x" * 128, "y" * 128),
    ),
)
def test_names(text: str, repository: str, tag: str) -> None:
    """A repository and a tag, which is `latest` where there is none."""
    found = parse(text, "ns")

    assert found == ImageName(namespace="ns", repository=repository, tag=tag)
    assert parse(str(found), "ns") == found


@pytest.mark.parametrize(
    "text",
    (
        *("", ":", "a:", ":a", "/a", "a/", "a//b", "./a", "..", "-a", "a-", "a..b", "A", "a b"),
        *("a:b:c", "a:-b", "a@sha256:00", "a\n", "a:b\n", "\u0430", "a:\u0661"),
        *("oci:a", "oci-archive:a", "s3:a", "localhost/a", "registry.example.com/a:b"),
        *("x" * 129, "a:" + "y" * 129),
    ),
)
def test_what_is_no_name(text: str) -> None:
    """Anything else is an error with a remedy."""
    with pytest.raises(InvalidArgument) as caught:
        parse(text, "ns")
    assert caught.value.remedy


def test_a_namespace_is_checked() -> None:
    """It is a containerd identifier."""
    with pytest.raises(InvalidArgument, match="namespace"):
        parse("a", "../b")


@given(st.text(max_size=300))
def test_any_text_is_a_name_or_an_error(text: str) -> None:
    """A name is never a path, and is safe to show."""
    try:
        found = parse(text, "ns")
    except InvalidArgument:
        return

    assert not is_path(text)
    assert len(str(found)) <= MAX_NAME
    assert str(found).isascii()
    assert msgspec.json.decode(msgspec.json.encode(found), type=ImageName) == found
