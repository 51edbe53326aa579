"""Encryption of blobs: equal ones stay equal, and whatever was changed is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shim.distribution import cipher, media
from shim.distribution.cipher import OVERHEAD_BYTES, Cipher
from shim.errors import ImageCorrupt

WHERE = "r.example/a:v1"
CHUNK = media.CHUNK + media.ENCRYPTED
CONFIG = media.CONFIG + media.ENCRYPTED
KEY = bytes(range(32))
OURS = Cipher(KEY, "{}")
OTHERS = Cipher(bytes(range(1, 33)), "{}")


@given(st.binary(max_size=4096))
def test_what_was_encrypted_is_decrypted(data: bytes) -> None:
    """Also by another object with the same key; each time the bytes are the same."""
    sealed = OURS.encrypt(data, CHUNK)

    assert Cipher(KEY, "").encrypt(data, CHUNK) == sealed
    assert Cipher(KEY, "").decrypt(sealed, CHUNK, WHERE) == data
    assert len(sealed) == len(data) + OVERHEAD_BYTES


@given(st.binary(max_size=300), st.data())
def test_a_changed_byte_is_refused(data: bytes, draw: st.DataObject) -> None:
    """Each part is authenticated: the nonce, the ciphertext and the tag."""
    sealed = bytearray(OURS.encrypt(data, CHUNK))
    sealed[draw.draw(st.integers(0, len(sealed) - 1))] ^= draw.draw(st.integers(1, 255))

    with pytest.raises(ImageCorrupt, match=f"{WHERE}: an encrypted blob was changed"):
        OURS.decrypt(bytes(sealed), CHUNK, WHERE)


@given(st.binary(max_size=300), st.data())
def test_a_blob_of_another_length_is_refused(data: bytes, draw: st.DataObject) -> None:
    """One that is truncated at any length, or extended."""
    sealed = OURS.encrypt(data, CHUNK)
    end = draw.draw(st.integers(0, len(sealed) - 1))

    for other in (sealed[:end], sealed[end + 1 :], sealed + b"\0"):
        with pytest.raises(ImageCorrupt):
            OURS.decrypt(other, CHUNK, WHERE)


def test_another_key_does_not_decrypt() -> None:
    """And its ciphertext of the same bytes has nothing in common, not even the nonce."""
    sealed = OURS.encrypt(b"secret" * 100, CHUNK)

    with pytest.raises(ImageCorrupt):
        OTHERS.decrypt(sealed, CHUNK, WHERE)
    assert OTHERS.encrypt(b"secret" * 100, CHUNK)[:12] != sealed[:12]


@pytest.mark.parametrize("other", (CONFIG, media.CHUNK + media.ZSTD + media.ENCRYPTED, ""))
def test_a_blob_is_not_taken_for_one_of_another_type(other: str) -> None:
    """Otherwise memory that a container controls could be served as a config."""
    with pytest.raises(ImageCorrupt):
        OURS.decrypt(OURS.encrypt(b"{}", CHUNK), other, WHERE)


def test_the_same_bytes_of_another_type_have_another_nonce() -> None:
    """Equal nonces with different authenticated data would reveal the authentication key."""
    assert OURS.encrypt(b"{}", CHUNK)[:12] != OURS.encrypt(b"{}", CONFIG)[:12]


@given(st.binary(max_size=64), st.binary(max_size=64))
def test_unequal_blobs_have_unequal_nonces(one: bytes, other: bytes) -> None:
    """A nonce that was used twice would reveal the difference of both."""
    same = OURS.encrypt(one, CHUNK)[:12] == OURS.encrypt(other, CHUNK)[:12]

    assert same == (one == other)


def test_known_values() -> None:
    """What one version has encrypted, the next decrypts: these bytes never change."""
    sealed = OURS.encrypt(b"checkpoint", CHUNK)

    assert sealed.hex() == (
        "3b1581004c263f895d9b4f251ad64b5a8a5225f27b2a3706e01af85ea7b224ee642899c52f78"
    )
    assert cipher.check_value(KEY) == "dfca6131045a1643d7bfea4bbfbf0588"


def test_keys_for_different_purposes_differ() -> None:
    """The check value, which is public, is none of the others."""
    derived = {cipher.derive(KEY, purpose) for purpose in ("check", "encryption", "nonce")}

    assert len(derived) == 3
    assert cipher.derive(KEY, "identity", b"a") != cipher.derive(KEY, "identity", b"b")
