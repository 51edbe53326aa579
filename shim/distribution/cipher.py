"""Encrypts the blobs of an image with AES-256-GCM, so that equal ones stay equal under one key.

An encrypted blob is a nonce of 12 bytes, the ciphertext, and a tag of 16 bytes. What the blob is,
its media type, is authenticated too: a chunk is never taken for a config, nor a compressed chunk
for one that is not.

The nonce is synthetic: HMAC-SHA256, truncated to 96 bits, of the media type and the plaintext, with
a key of its own. Equal blobs become equal bytes, which a place stores once, and unequal ones have
equal nonces with a probability of 2^-33 after 2^32 blobs, the limit that NIST SP 800-38D allows for
random nonces. What that reveals to those without the key: which blobs are equal, and their sizes.
"""

from __future__ import annotations

import hashlib
import hmac
import struct

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from shim.distribution.artifact import corrupt

KEY_BYTES = 32
_NONCE_BYTES = 12
_TAG_BYTES = 16
OVERHEAD_BYTES = _NONCE_BYTES + _TAG_BYTES
_CHECK_BYTES = 16
_PURPOSE = b"cryoshim.checkpoint.v1/"


class Cipher:
    """Encrypts and decrypts with one data key; usable from several threads at once.

    `wrapped` is the JSON that says how the data key is obtained.
    """

    def __init__(self, data_key: bytes, wrapped: str) -> None:
        self.wrapped = wrapped
        self._nonce_key = derive(data_key, "nonce")
        self._gcm = AESGCM(derive(data_key, "encryption"))

    def encrypt(self, data: bytes, media_type: str) -> bytes:
        """Encrypt a blob; `media_type` is the one that it is stored with."""
        nonce = self._nonce(data, media_type)
        sealed = bytearray(len(data) + OVERHEAD_BYTES)
        sealed[:_NONCE_BYTES] = nonce
        with memoryview(sealed)[_NONCE_BYTES:] as rest:
            self._gcm.encrypt_into(nonce, data, media_type.encode(), rest)
        return bytes(sealed)

    def decrypt(self, data: bytes, media_type: str, where: str) -> bytes:
        """Decrypt a blob that has this media type; `where` is what it was read from.

        Raises:
            ImageCorrupt: a byte of it was changed, or it was encrypted as something else.
        """
        nonce, sealed = data[:_NONCE_BYTES], memoryview(data)[_NONCE_BYTES:]
        if len(sealed) < _TAG_BYTES:
            raise corrupt(where, "an encrypted blob is too short")
        try:
            return self._gcm.decrypt(nonce, sealed, media_type.encode())
        except InvalidTag as error:
            raise corrupt(where, "an encrypted blob was changed") from error

    def _nonce(self, data: bytes, media_type: str) -> bytes:
        """Return the nonce of a blob.

        It depends on the media type, because two tags of equal nonces with other authenticated
        data would reveal GCM's authentication key.
        """
        kind = media_type.encode()
        mac = hmac.new(self._nonce_key, struct.pack(">Q", len(kind)) + kind, hashlib.sha256)
        mac.update(data)
        return mac.digest()[:_NONCE_BYTES]


def derive(key: bytes, purpose: str, context: bytes = b"") -> bytes:
    """Return the key for one purpose, by HKDF-SHA256."""
    info = _PURPOSE + purpose.encode() + b"\0" + context
    return HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=None, info=info).derive(key)


def check_value(data_key: bytes) -> str:
    """Return a text by which a wrong data key is recognised; it reveals nothing of the key."""
    return derive(data_key, "check")[:_CHECK_BYTES].hex()
