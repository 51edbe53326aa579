"""The parsers of what comes with images from elsewhere: registries, buckets, archives and keys."""

from __future__ import annotations

import contextlib
import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from hack.fuzzing.parser import Parser, as_text
from shim.distribution import (
    age,
    artifact,
    challenge,
    chunk_map,
    compression,
    docker_config,
    layout_index,
    media,
    reference,
    s3_settings,
)
from shim.distribution import keys as data_keys
from shim.distribution.archive_reader import ArchiveReader
from shim.distribution.archive_writer import ArchiveWriter
from shim.distribution.artifact import Artifact, Chunk
from shim.distribution.blob import Descriptor, digest_of
from shim.distribution.cipher import Cipher
from shim.distribution.http_options import HttpOptions
from shim.distribution.key_sources import KeySources
from shim.distribution.place import Document
from shim.image import keys, labels, manifest, signature
from shim.image.manifest import ImageFile
from shim.image.side_files import CHUNKS, LABELS
from shim.oci import secret_variables

_WHERE = "r.example/a:v1"
_TAG = "v1"
_KEY = bytes(range(32))
_RECIPIENT = b"age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p"
_PEM = (
    b"-----BEGIN PUBLIC KEY-----\n"
    b"MCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=\n"
    b"-----END PUBLIC KEY-----\n"
)
_DOCKER = b'{"auths":{"r.example":{"auth":"dTpw"}},"credHelpers":{"x.example":"ecr-login"}}'
_CHALLENGE = b'Bearer realm="https://r.example/token",service="r",scope="repository:a:pull", Basic'
_AWS = b"[default]\naws_access_key_id = a\naws_secret_access_key = b\nregion = eu-west-1\n"
_LABELS = (
    b'{"names":[{"name":{"namespace":"default","repository":"a","tag":"v1"},'
    b'"since":"2026-01-01T00:00:00Z"}],"pinned":true,"source":"r.example/a:v1"}'
)
_ENVELOPE = (
    b'{"payload":"e30=","payloadType":"application/x","signatures":[{"sig":"AAAA","keyid":"00"}]}'
)


class _Files:
    """Parsers of files, which are first written into a directory."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.key = self._put("key", _KEY.hex().encode())
        self.key.chmod(0o600)

    def _put(self, name: str, data: bytes) -> Path:
        path = self._folder / name
        path.write_bytes(data)
        return path

    def archive(self, data: bytes) -> object:
        path = self._put("a.tar", data)
        with contextlib.closing(ArchiveReader(path)) as place:
            index = place.get_document(_TAG)
            inner = artifact.manifest_in(index, _WHERE)
            return artifact.decode(place.get_document(inner.digest), _WHERE)

    def docker(self, data: bytes) -> object:
        return docker_config.load(self._put("docker.json", data))

    def aws(self, data: bytes) -> object:
        path = str(self._put("credentials", data))
        files = {"AWS_SHARED_CREDENTIALS_FILE": path, "AWS_CONFIG_FILE": path}
        return s3_settings.config_of(files, HttpOptions())

    def labels(self, data: bytes) -> object:
        self._put(LABELS, data)
        return labels.read(self._folder)

    def chunks(self, data: bytes) -> object:
        self._put(CHUNKS, data)
        folder = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            return list(chunk_map.read(folder))
        finally:
            os.close(folder)

    def recipients(self, data: bytes) -> object:
        return age.recipients_in([str(self._put("recipients", data))])

    def unwrap(self, text: str) -> object:
        return data_keys.unwrap(text, KeySources(key_file=str(self.key)), _WHERE)


def _artifact() -> Document:
    blob = Descriptor(media_type=media.CHUNK, digest=digest_of(b"x"), size=1)
    config = msgspec.structs.replace(blob, media_type=media.CONFIG)
    chunk = Chunk(file="pages.img", offset=0, length=1, blob=blob)
    return artifact.encode(Artifact(config=config, chunks=(chunk,), key="{}"))


def _index(document: Document) -> bytes:
    return layout_index.tagged(None, artifact.describe(document), _TAG, _WHERE)


def _archive(folder: Path, document: Document) -> bytes:
    path = folder / "seed.tar"
    with contextlib.closing(ArchiveWriter(path)) as place:
        place.put_blob(Descriptor(media_type="x", digest=digest_of(b"x"), size=1), io.BytesIO(b"x"))
        place.put_document(document)
        place.put_document(artifact.wrap(document, {}), _TAG)
    data = path.read_bytes()
    path.unlink()
    return data


def _decoded(manifest_bytes: bytes) -> Callable[[bytes], object]:
    """Return what decodes a manifest and compares it with the files of an image."""
    pages = ImageFile(name="pages.img", size_bytes=1, blake3="00" * 32)
    image = msgspec.structs.replace(manifest.decode(manifest_bytes, _WHERE), files=(pages,))

    def decode(data: bytes) -> object:
        found = artifact.decode(Document(media_type=media.MANIFEST, data=data), _WHERE)
        artifact.check_files(found, image, _WHERE)
        return found

    return decode


def _tags(data: bytes) -> object:
    found = layout_index.find(data, _TAG, _WHERE)
    return layout_index.tagged(data, found, "v2", _WHERE)


def _masked(data: bytes) -> object:
    try:
        spec: Any = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return secret_variables.masked(spec), secret_variables.names_in(spec)


def parsers(folder: Path, manifest_bytes: bytes) -> list[Parser]:
    """Return the parsers; those of files use the directory."""
    files, document = _Files(folder), _artifact()
    cipher = Cipher(_KEY, "")
    packed = compression.compress(b"memory " * 1000)
    wrapped = data_keys.for_push(KeySources(key_file=str(files.key)))
    spec = b'{"process":{"env":["A_TOKEN=x","PATH=/bin"]},"hooks":{"poststop":[{"env":["B=c"]}]}}'
    index = artifact.wrap(document, {}).data
    return [
        Parser("artifact", [document.data], _decoded(manifest_bytes), json=True),
        Parser(
            "artifact's index",
            [index],
            lambda data: artifact.manifest_in(Document(media_type=media.INDEX, data=data), _WHERE),
            json=True,
        ),
        Parser("index.json", [_index(document)], _tags, json=True),
        Parser("archive", [_archive(folder, document)], files.archive),
        Parser(
            "encrypted chunk",
            [cipher.encrypt(b"memory" * 100, media.CHUNK)],
            lambda data: cipher.decrypt(data, media.CHUNK, _WHERE),
        ),
        Parser(
            "compressed chunk",
            [packed],
            lambda data: b"".join(compression.decompressed([data], 7000, _WHERE)),
        ),
        Parser(
            "wrapped key",
            [(wrapped.wrapped if wrapped else "").encode()],
            as_text(files.unwrap),
            json=True,
        ),
        Parser("age recipients", [_RECIPIENT + b"\n# comment\n"], files.recipients),
        Parser("public key", [_PEM], as_text(lambda text: keys.parse_public(text, "k.pub"))),
        Parser(
            "signatures",
            [_ENVELOPE],
            lambda data: signature.read_envelope(data, _WHERE),
            json=True,
        ),
        Parser("labels", [_LABELS], files.labels, json=True),
        Parser("chunk map", [b'["pages.img",0,7,"sha256:%b"]\n' % (b"0" * 64)], files.chunks),
        Parser("docker config", [_DOCKER], files.docker, json=True),
        Parser("challenge", [_CHALLENGE], as_text(challenge.parse)),
        Parser("AWS credentials", [_AWS], files.aws),
        Parser(
            "reference",
            [b"s3://images/p:v1", b"r.example:5000/a/b:v1@sha256:" + b"0" * 64],
            _referred,
        ),
        Parser("environment of a spec", [spec], _masked, json=True),
    ]


def _referred(data: bytes) -> object:
    return reference.parse(data.decode("utf-8", "replace"))
