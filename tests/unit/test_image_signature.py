"""Signatures of images: who signed what, and what is no signature of it."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from base64 import b64decode, b64encode
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from shim.errors import AlreadyExists, ImageCorrupt, InvalidArgument, NotFound, PermissionDenied
from shim.image import keys, signature
from shim.image.directory import open_image_dir
from shim.image.keys import PrivateKey, PublicKey
from shim.image.manifest import NAME
from shim.image.side_files import SIGNATURES
from shim.image.verify import verify
from shim.image.verify_cache import VerifyCache
from shim.model import Verify
from tests.unit.image_helpers import fill, manifest, put, seal_at, sealed

needs_openssl = pytest.mark.skipif(not shutil.which("openssl"), reason="there is no openssl")


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """Give a sealed image."""
    sealed(tmp_path / "image")
    return tmp_path / "image"


@pytest.fixture
def key(tmp_path: Path) -> PrivateKey:
    """Give a private key."""
    return pair(tmp_path, "key")


def pair(folder: Path, name: str) -> PrivateKey:
    """Make a key."""
    keys.generate(folder / name)
    return keys.read_private(folder / name)


def sign(image: Path, key: PrivateKey) -> int:
    """Sign an image as the command does."""
    signed = signature.to_sign(signature.image_statement(image))
    return signature.add(image, key.public, key.sign(signed))


def signers(image: Path, *given: PublicKey) -> list[str]:
    """List the ids of those of the keys that have signed an image."""
    with open_image_dir(image) as folder:
        return [key.id for key in signature.image_signers(folder, given)]


def change(image: Path, edit: Callable[[dict[str, Any]], None]) -> None:
    """Change the envelope of an image."""
    found = json.loads((image / SIGNATURES).read_bytes())
    edit(found)
    (image / SIGNATURES).write_text(json.dumps(found))


def test_each_signer_is_found_by_the_public_key(image: Path, tmp_path: Path) -> None:
    """Several keys sign one image; a key that has not is not among them."""
    one, other, third = (pair(tmp_path, name) for name in ("one", "other", "third"))

    assert signers(image, one.public) == []
    assert [sign(image, one), sign(image, other), sign(image, one)] == [1, 2, 2]

    public = [keys.read_public(tmp_path / f"{name}.pub") for name in ("one", "other", "third")]
    assert signers(image, *public) == [one.public.id, other.public.id]
    assert signers(image, third.public) == []


def test_a_signed_image_is_intact_and_moves_with_its_signatures(
    image: Path, key: PrivateKey, tmp_path: Path
) -> None:
    """Verification finds nothing added, and a copy is as signed as the image."""
    sign(image, key)
    shutil.copytree(image, tmp_path / "copy")

    verify(image, Verify.FULL, VerifyCache(tmp_path / "verified"), lambda _progress: None)
    assert signers(tmp_path / "copy", key.public) == [key.public.id]


def test_signatures_of_copies_are_joined(image: Path, tmp_path: Path) -> None:
    """Each once; those of another image are refused, and what there was stays."""
    one, other = pair(tmp_path, "one"), pair(tmp_path, "other")
    shutil.copytree(image, tmp_path / "copy")
    sealed(tmp_path / "third", task="third")
    sign(image, one)
    sign(tmp_path / "copy", other)
    sign(tmp_path / "third", other)
    theirs = (tmp_path / "copy" / SIGNATURES).read_bytes()

    signature.add_all(image, theirs)
    joined = (image / SIGNATURES).stat().st_ino
    signature.add_all(image, theirs)
    with pytest.raises(ImageCorrupt, match="not of its cryo"):
        signature.add_all(image, (tmp_path / "third" / SIGNATURES).read_bytes())

    assert signers(image, one.public, other.public) == [one.public.id, other.public.id]
    assert (image / SIGNATURES).stat().st_ino == joined
    assert len(json.loads((image / SIGNATURES).read_bytes())["signatures"]) == 2
    (image / SIGNATURES).unlink()
    signature.add_all(image, theirs)
    assert signers(image, one.public, other.public) == [other.public.id]


@needs_openssl
def test_openssl_verifies_what_docs_describe(image: Path, key: PrivateKey, tmp_path: Path) -> None:
    """The envelope is DSSE's: another program checks it with the PEM file alone."""
    sign(image, key)
    envelope = json.loads((image / SIGNATURES).read_bytes())
    payload, kind = b64decode(envelope["payload"]), envelope["payloadType"].encode()
    signed = b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)
    (tmp_path / "signed").write_bytes(signed)
    (tmp_path / "sig").write_bytes(b64decode(envelope["signatures"][0]["sig"]))

    argv = ["openssl", "pkeyutl", "-verify", "-rawin", "-pubin", "-inkey", "key.pub"]
    argv += ["-in", "signed", "-sigfile", "sig"]
    done = subprocess.run(argv, capture_output=True, check=False, cwd=tmp_path, timeout=60)
    assert done.returncode == 0, done.stderr
    data = (image / NAME).read_bytes()
    assert json.loads(payload) == {
        "created_at": "2026-11-23T18:10:03.123456+00:00",
        "manifest": {
            "blake3": json.loads(data)["digest"],
            "sha256": hashlib.sha256(data).hexdigest(),
        },
        "task": "t1",
    }
    argv = ["openssl", "pkey", "-pubin", "-in", str(tmp_path / "key.pub"), "-outform", "DER"]
    der = subprocess.run(argv, capture_output=True, check=True, timeout=60).stdout
    assert envelope["signatures"][0]["keyid"] == hashlib.sha256(der).hexdigest()


def test_an_image_that_was_sealed_again_is_not_signed(image: Path, key: PrivateKey) -> None:
    """Signatures are of one manifest: with another one they are refused, not ignored."""
    sign(image, key)
    (image / NAME).unlink()
    seal_at(image, manifest(task="other"))

    with pytest.raises(ImageCorrupt, match="not of its cryo"):
        signers(image, key.public)
    with pytest.raises(ImageCorrupt, match="not of its cryo"):
        sign(image, key)


def test_no_changed_envelope_is_accepted(image: Path, key: PrivateKey) -> None:
    """A payload, a type or a signature that was changed makes no signer."""
    sign(image, key)
    good = (image / SIGNATURES).read_bytes()

    def other_payload(found: dict[str, Any]) -> None:
        plain = json.loads(b64decode(found["payload"]))
        found["payload"] = b64encode(json.dumps({**plain, "task": "x"}).encode()).decode()

    for edit in (other_payload, lambda found: found.update(payloadType="text/plain")):
        change(image, edit)
        with pytest.raises(ImageCorrupt, match="not of its cryo"):
            signers(image, key.public)
        (image / SIGNATURES).write_bytes(good)

    def flip(found: dict[str, Any]) -> None:
        data = bytearray(b64decode(found["signatures"][0]["sig"]))
        data[7] ^= 1
        found["signatures"][0]["sig"] = b64encode(data).decode()

    change(image, flip)
    assert signers(image, key.public) == []


def test_the_id_of_a_key_proves_nothing(image: Path, key: PrivateKey, tmp_path: Path) -> None:
    """An envelope that claims another key's id is checked with the key itself."""
    forger = pair(tmp_path, "forger")
    sign(image, forger)
    change(image, lambda found: found["signatures"][0].update(keyid=key.public.id))

    assert signers(image, key.public) == []


@pytest.mark.parametrize(
    "data",
    (
        b"",
        b"[]",
        b"{}",
        b"\xff",
        b"[" * 10_000,
        b'{"payload":"?","payloadType":"a","signatures":[]}',
        b'{"payload":"","payloadType":"a","signatures":[{"sig":"' + b"A" * 5000 + b'"}]}',
        b" " * (signature.MAX_BYTES + 1),
    ),
)
def test_damaged_signatures_are_a_typed_error(image: Path, key: PrivateKey, data: bytes) -> None:
    """Nothing is made of an envelope that is not one."""
    (image / SIGNATURES).write_bytes(data)

    with pytest.raises(ImageCorrupt):
        signers(image, key.public)


@pytest.mark.parametrize("kind", ("link", "dangling link", "fifo", "folder"))
def test_signatures_are_read_from_a_regular_file(image: Path, key: PrivateKey, kind: str) -> None:
    """Anything else is refused, and not opened."""
    put(image / SIGNATURES, kind)

    with pytest.raises(ImageCorrupt, match="not a regular file"):
        signers(image, key.public)


def test_an_unsealed_image_is_not_signed(tmp_path: Path, key: PrivateKey) -> None:
    """It has no digests, so a signature of its manifest would protect nothing."""
    seal_at(fill(tmp_path / "image"), manifest(), sealed=False)

    with pytest.raises(InvalidArgument, match="not sealed"):
        sign(tmp_path / "image", key)


def test_no_wrong_signature_is_added(image: Path, key: PrivateKey) -> None:
    """A signature of something else would only be found out at the next host."""
    with pytest.raises(InvalidArgument, match="no signature of the image"):
        signature.add(image, key.public, key.sign(b"something else"))

    assert not (image / SIGNATURES).exists()


def test_a_private_key_is_readable_by_its_owner_alone(tmp_path: Path) -> None:
    """Whatever the umask; nothing is overwritten, and an open one is refused."""
    before = os.umask(0)
    try:
        public = keys.generate(tmp_path / "key")
    finally:
        os.umask(before)

    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600
    assert keys.read_private(tmp_path / "key").public.id == public.id
    with pytest.raises(AlreadyExists):
        keys.generate(tmp_path / "key")
    (tmp_path / "other.pub").touch()
    with pytest.raises(AlreadyExists):
        keys.generate(tmp_path / "other")
    assert not (tmp_path / "other").exists()
    (tmp_path / "key").chmod(0o640)
    with pytest.raises(PermissionDenied, match="other users can read"):
        keys.read_private(tmp_path / "key")


@needs_openssl
def test_what_is_no_key_is_refused(tmp_path: Path) -> None:
    """A missing file, another kind of key, the public one in place of the private one."""
    keys.generate(tmp_path / "key")
    argv = ["openssl", "genpkey", "-algorithm", "X25519", "-out", str(tmp_path / "x25519")]
    subprocess.run(argv, check=True, capture_output=True, timeout=60)
    (tmp_path / "key.pub").chmod(0o600)

    with pytest.raises(NotFound):
        keys.read_public(tmp_path / "missing")
    for name in ("key", "x25519"):
        with pytest.raises(InvalidArgument, match="no public Ed25519 key"):
            keys.read_public(tmp_path / name)
    with pytest.raises(InvalidArgument, match="no private key"):
        keys.read_private(tmp_path / "key.pub")
    with pytest.raises(InvalidArgument, match="not an Ed25519 key"):
        keys.read_private(tmp_path / "x25519")


def test_a_configured_key_can_be_replaced_by_root_alone(tmp_path: Path) -> None:
    """Who can write to a key that is trusted decides what is trusted."""
    keys.generate(tmp_path / "key")
    path = tmp_path / "key.pub"

    assert [one.name for one in keys.read_configured([str(path)])] == [str(path)]
    path.chmod(0o666)
    with pytest.raises(PermissionDenied, match="others may write"):
        keys.read_configured([str(path)])
