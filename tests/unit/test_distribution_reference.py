"""References to images elsewhere: what each form means, and what is refused."""

from __future__ import annotations

import pytest

from shim.distribution.reference import (
    ArchiveRef,
    BucketRef,
    LayoutRef,
    Reference,
    RegistryRef,
    is_remote,
    parse,
)
from shim.errors import InvalidArgument

DIGEST = "sha256:" + "ab" * 32

GOOD: dict[str, Reference] = {
    "registry.example.com/snap/llama:warm": RegistryRef(
        host="registry.example.com", repository="snap/llama", tag="warm"
    ),
    "localhost/llama": RegistryRef(host="localhost", repository="llama"),
    "127.0.0.1:5000/a/b": RegistryRef(host="127.0.0.1:5000", repository="a/b"),
    "[::1]:5000/a:v1": RegistryRef(host="[::1]:5000", repository="a", tag="v1"),
    f"r.example/a:v1@{DIGEST}": RegistryRef(
        host="r.example", repository="a", tag="v1", digest=DIGEST
    ),
    "s3://bucket/some/prefix": BucketRef(bucket="bucket", prefix="some/prefix"),
    "s3://bucket/prefix/:v2": BucketRef(bucket="bucket", prefix="prefix", tag="v2"),
    "oci:/srv/layout:v1": LayoutRef(path="/srv/layout", tag="v1"),
    "oci-archive:/srv/llama.tar": ArchiveRef(path="/srv/llama.tar"),
}


@pytest.mark.parametrize("text", GOOD)
def test_a_reference_is_parsed(text: str) -> None:
    """Each form has its own kind, and a default tag; what is printed is parsed as the same."""
    assert is_remote(text)
    assert parse(text) == GOOD[text]
    assert parse(str(parse(text))) == GOOD[text]


@pytest.mark.parametrize("text", ("llama", "llama:warm", "team/llama:v1", "/srv/a", "./a/b", ""))
def test_a_local_name_or_path_is_not_remote(text: str) -> None:
    """What has no host and no scheme is local."""
    assert not is_remote(text)
    with pytest.raises(InvalidArgument, match="is not a reference"):
        parse(text)


@pytest.mark.parametrize(
    "text",
    (
        "r.example/Upper",
        "r.example/a:",
        "r.example/a:b/c:d e",
        "r.example/../a",
        "r.example/a@sha256:12",
        "r_x.example/a",
        "s3://bucket",
        "s3://bucket/",
        "s3://bucket/a//b",
        "s3://bucket/../b",
        "s3:///prefix",
        "oci:",
        "oci::tag",
        "r.example/a\0",
        "r.example/" + "a" * 5000,
    ),
)
def test_a_malformed_reference_is_refused(text: str) -> None:
    """Each is refused with the forms that are valid."""
    with pytest.raises(InvalidArgument) as caught:
        parse(text)
    assert "oci-archive" in caught.value.remedy or "tag" in caught.value.message
