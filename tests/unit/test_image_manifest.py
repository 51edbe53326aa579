"""The manifest: one form of bytes, and no other is accepted."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shim.cuda.inventory import Gpu
from shim.errors import CryoError, HostMismatch, ImageCorrupt, InvalidArgument
from shim.image import manifest as manifests
from shim.image.manifest import ImageFile, Member
from shim.model import CheckpointOptions, CudaProcess
from shim.oci import canonical
from tests.unit.image_helpers import manifest

FULL = manifest(
    files=(ImageFile(name="pages.img", size_bytes=3, blake3="0" * 64),),
    gpus=(Gpu(uuid="GPU-1", model="H100", bus="b", minor=1),),
    options=CheckpointOptions(exit=True, compress=True),
)
DONE, DATA = manifests.encode(FULL)


def resealed(**changes: Any) -> bytes:
    """Make the bytes of a manifest with other values and a digest that is right for them."""
    plain = json.loads(DATA) | changes
    del plain["digest"]
    plain["digest"] = canonical.digest(canonical.encode(plain))
    return canonical.encode_pretty(plain)


def test_what_was_written_is_read() -> None:
    """Every value comes back, and its digest is set."""
    assert manifests.decode(DATA, "/i") == DONE
    assert DONE.digest
    assert manifests.encode(DONE) == (DONE, DATA)


def test_the_file_is_for_people_too() -> None:
    """It is indented ASCII with one newline at its end."""
    assert DATA.endswith(b"\n}\n")
    assert DATA.isascii()
    assert len(DATA.splitlines()) > 30


def test_sizes_and_cuda_are_reported() -> None:
    """The image's size is that of its files."""
    assert FULL.size_bytes == 3
    assert FULL.has_cuda
    assert not manifest(processes=()).has_cuda


def test_members_come_back() -> None:
    """A pod's containers are read as they were written; each is found by its name."""
    member = Member(
        task="b",
        name="n",
        spec={"x": 1},
        spec_digest="d",
        processes=(CudaProcess(pid=1, name="p"),),
    )
    pod, data = manifests.encode(manifest(members=(member,)))

    found = manifests.decode(data, "/i")

    assert found == pod
    assert found.member("n") == member
    assert found.root.spec == pod.spec
    assert [(p.container, p.pid) for p in found.all_processes] == [("", 1), ("b", 1)]
    with pytest.raises(InvalidArgument, match="has no container x; it has n"):
        found.member("x")
    assert manifest(processes=(), members=(member,)).has_cuda


@given(st.integers(0, len(DATA) - 1), st.integers(1, 255))
def test_any_changed_byte_is_refused(at: int, mask: int) -> None:
    """No single byte can be changed unseen."""
    damaged = bytearray(DATA)
    damaged[at] ^= mask

    with pytest.raises(ImageCorrupt) as caught:
        manifests.decode(bytes(damaged), "/images/i")

    assert "/images/i" in str(caught.value)


@given(st.integers(0, len(DATA) - 1))
def test_any_cut_is_refused(length: int) -> None:
    """No part of it passes for the whole."""
    with pytest.raises(ImageCorrupt):
        manifests.decode(DATA[:length], "/i")


@pytest.mark.parametrize("tail", (b"\n", b" ", b"{}", b"\0"))
def test_an_appended_byte_is_refused(tail: bytes) -> None:
    """Nor may anything follow it."""
    with pytest.raises(ImageCorrupt):
        manifests.decode(DATA + tail, "/i")


def test_a_second_key_of_the_same_name_is_refused() -> None:
    """A duplicate that a parser would drop is seen in the bytes."""
    twice = DATA.replace(b'{\n "arch"', b'{\n "arch": "arm",\n "arch"', 1)

    assert twice != DATA
    with pytest.raises(ImageCorrupt):
        manifests.decode(twice, "/i")


@given(st.binary(max_size=64))
def test_any_bytes_give_a_typed_error(data: bytes) -> None:
    """Rubbish is refused as rubbish."""
    with pytest.raises(ImageCorrupt):
        manifests.decode(data, "/i")


def test_a_newer_format_is_distinguished_from_damage() -> None:
    """An intact manifest of a format to come asks for a newer program."""
    with pytest.raises(HostMismatch, match="format 2") as caught:
        manifests.decode(resealed(format=2, runsc="changed meaning"), "/i")

    assert "newer" in caught.value.remedy


def test_a_value_that_is_added_later_does_no_harm() -> None:
    """Within a format, what is not known is passed over."""
    assert manifests.decode(resealed(novel=1), "/i").task == "t1"


@pytest.mark.parametrize(
    "changes",
    (
        {"files": [{"name": "../x", "size_bytes": 1, "blake3": "0" * 64}]},
        {"files": [{"name": "..", "size_bytes": 1, "blake3": "0" * 64}]},
        {"files": [{"name": "", "size_bytes": 1, "blake3": "0" * 64}]},
        {"files": [{"name": "cryo.json", "size_bytes": 1, "blake3": "0" * 64}]},
        {"files": [{"name": "a\0b", "size_bytes": 1, "blake3": "0" * 64}]},
        {"files": [{"name": "a", "size_bytes": -1, "blake3": "0" * 64}]},
        {"files": [{"name": "a", "size_bytes": 1, "blake3": ""}]},
        {"files": [{"name": "a", "size_bytes": 1, "blake3": "0" * 64}] * 2},
        {"files": "a"},
        {"created_at": "yesterday"},
        {"engine": None},
        {"created_at": "\ud800"},
    ),
)
def test_an_impossible_manifest_is_refused(changes: dict[str, Any]) -> None:
    """Even with the right digest, a manifest cannot point out of its folder or say nonsense."""
    with pytest.raises(ImageCorrupt):
        manifests.decode(resealed(**changes), "/i")


def test_an_unsealed_manifest_needs_no_hashes() -> None:
    """An image that was not sealed says so."""
    files = (ImageFile(name="a", size_bytes=1),)
    _, data = manifests.encode(manifest(sealed=False, files=files))

    assert not manifests.decode(data, "/i").sealed


def test_a_manifest_that_could_not_be_read_is_not_written(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The limit of reading is the limit of writing."""
    monkeypatch.setattr(manifests, "MAX_MANIFEST_BYTES", 100)

    with pytest.raises(InvalidArgument):
        manifests.encode(FULL)


def test_errors_have_remedies() -> None:
    """The error says what to do."""
    with pytest.raises(CryoError) as caught:
        manifests.decode(b"", "/i")

    assert caught.value.remedy


MEMBER = {"task": "b", "name": "b", "spec": {}, "spec_digest": ""}
BEYOND: tuple[dict[str, Any], ...] = (
    {"created_at": "2026-01-01T00:00:00"},
    {"created_at": "0001-01-01T00:00:00+14:00"},
    {"created_at": "9999-12-31T23:59:59-14:00"},
    {"files": [{"name": "a", "size_bytes": 1 << 63, "blake3": "0" * 64}]},
    {"files": [{"name": "a", "size_bytes": 10**30, "blake3": "0" * 64}]},
    {"files": [{"name": n, "size_bytes": (1 << 63) - 1, "blake3": "0" * 64} for n in "ab"]},
    {"files": [{"name": "a" * 256, "size_bytes": 1, "blake3": "0" * 64}]},
    {"files": [{"name": f"f{n}", "size_bytes": 1, "blake3": "0" * 64} for n in range(5000)]},
    {"processes": [{"pid": -1}]},
    {"processes": [{"pid": 0}]},
    {"processes": [{"pid": 1 << 70}]},
    {"members": [MEMBER] * 65},
    {"task": "x" * 5000},
    {"timings_s": {"save": 1e300}},
    {"timings_s": {"save": -1}},
    {"memory_bytes": -1},
    {"warnings": ["w"] * 5000},
    {"gpus": [{"minor": 1 << 40}]},
)


@pytest.mark.parametrize("changes", BEYOND, ids=range(len(BEYOND)))
def test_values_have_bounds(changes: dict[str, Any]) -> None:
    """What no host has, or no protocol could carry, is refused though its digest is right."""
    with pytest.raises(ImageCorrupt):
        manifests.decode(resealed(**changes), "/i")


def test_a_pod_of_many_containers_is_read() -> None:
    """The bound on members leaves room for any pod."""
    assert len(manifests.decode(resealed(members=[MEMBER] * 64), "/i").members) == 64


@pytest.mark.parametrize(
    "data",
    (
        b"[" * 60 + b"]" * 60,
        b"[" * 100_000 + b"]" * 100_000,
        b'{"a":' * 60 + b"1" + b"}" * 60,
        b'{"a":[' + b"{}," * 200_000 + b"{}]}",
        b'{"a":[' + b"[[[[[[[[]]]]]]]]," * 100_000 + b"[]]}",
    ),
    ids=("deep", "very deep", "deep objects", "many", "many and deep"),
)
def test_no_objects_are_made_of_what_is_deep_or_many(data: bytes) -> None:
    """A file that is no manifest is refused by its bytes, before anything is built of them."""
    with pytest.raises(ImageCorrupt, match=r"nested too deep|more than \d+ objects"):
        manifests.decode(data, "/i")


def test_a_deep_or_large_spec_is_refused() -> None:
    """The same bounds hold inside a spec, where any value is allowed."""
    deep: dict[str, Any] = {}
    for _ in range(60):
        deep = {"a": deep}
    with pytest.raises(ImageCorrupt, match="nested too deep"):
        manifests.decode(resealed(spec=deep), "/i")
    with pytest.raises(ImageCorrupt, match="objects and lists"):
        manifests.decode(resealed(spec={"a": [{}] * 200_000}), "/i")


def test_brackets_in_texts_do_not_count() -> None:
    """An argument may hold any brackets, escaped quotes before them too."""
    text = '\\"' + "[{" * 1000

    assert manifests.decode(resealed(spec={"a": text}), "/i").spec == {"a": text}


@pytest.mark.parametrize(
    "more",
    (
        {"members": (Member(task="m", name="m", spec={}, spec_digest=""),) * 65},
        {"spec": {"a": "x" * (5 << 20)}},
        {"warnings": ("x" * 5000,)},
    ),
    ids=("members", "bytes", "text"),
)
def test_what_could_not_be_read_is_not_written(more: dict[str, Any]) -> None:
    """A manifest is written within the bounds by which it is read."""
    with pytest.raises(InvalidArgument):
        manifests.encode(manifest(**more))


def test_the_digest_is_that_of_the_values() -> None:
    """It is what earlier releases wrote: of the compact form, without the digest itself."""
    plain = json.loads(DATA)
    del plain["digest"]

    assert DONE.digest == canonical.digest(canonical.encode(plain))
