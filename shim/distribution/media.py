"""The media types and annotations of an image as an OCI artifact."""

from __future__ import annotations

ARTIFACT = "application/vnd.cryoshim.checkpoint.v1"
CONFIG = "application/vnd.cryoshim.checkpoint.manifest.v1+json"
# A part of a file: as it is, compressed, encrypted, or first the one and then the other.
CHUNK = "application/vnd.cryoshim.checkpoint.chunk.v1"
ZSTD = "+zstd"
ENCRYPTED = "+encrypted"
# What lies beside the files of an image: signatures, and the fingerprint of a warm start.
SIGNATURES = "application/vnd.cryoshim.checkpoint.signatures.v1+json"
FINGERPRINT = "application/vnd.cryoshim.checkpoint.fingerprint.v1+json"

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"

# Of a layer: the file that it is a part of, where, and how many bytes it has there.
FILE = "io.cryo.file"
OFFSET = "io.cryo.offset"
LENGTH = "io.cryo.length"
# Of a compressed layer: the digest of what it has when it is not compressed.
CONTENT = "io.cryo.content"
# Of the manifest: how the data key is wrapped.
KEY = "io.cryo.key"
# Of a tag in an OCI layout.
TAG = "org.opencontainers.image.ref.name"
CREATED = "org.opencontainers.image.created"
# What checkpointctl, CRI-O and containerd look for.
CRIU = "org.criu.checkpoint."
