"""The index.json of an OCI image layout: which manifest has which tag. Pure."""

from __future__ import annotations

from typing import Any

import msgspec

from shim.distribution import media
from shim.distribution.artifact import MAX_DOCUMENT_BYTES, corrupt
from shim.distribution.blob import Descriptor
from shim.errors import NotFound, ResourceExhausted
from shim.model import Value
from shim.oci import canonical, untrusted_json

MARKER_NAME = "oci-layout"
MARKER = b'{"imageLayoutVersion":"1.0.0"}'
NAME = "index.json"
_MAX_ENTRIES = 4096


class _Typed(Value, rename="camel"):
    media_type: str = ""


class _Index(Value):
    """What is used of the entries; those of other programs stay as they are."""

    manifests: list[dict[str, Any]]


def find(data: bytes | None, tag: str, where: str) -> Descriptor:
    """Return what has a tag; `data` is None if there is no index.

    Raises:
        NotFound: nothing has it.
        ImageCorrupt: the index is damaged.
    """
    entries = _entries(data, where) if data is not None else []
    found = [entry for entry in entries if _tag(entry) == tag]
    if not found:
        message = f"{where} has nothing with the tag {tag}"
        raise NotFound(message, remedy="check the tag, or push the image first")
    try:
        return msgspec.convert(found[-1], Descriptor)
    except msgspec.ValidationError as error:
        raise corrupt(where, f"{NAME}: {error}") from error


def tagged(data: bytes | None, descriptor: Descriptor, tag: str, where: str) -> bytes:
    """Return the index with a tag moved to a manifest; the entries of others stay.

    Raises:
        ImageCorrupt: the index is damaged.
        ResourceExhausted: it would become too large.
    """
    entries = _entries(data, where) if data is not None else []
    plain: dict[str, Any] = msgspec.to_builtins(descriptor)
    new = {name: value for name, value in plain.items() if value is not None}
    new["annotations"] = {**descriptor.annotations, media.TAG: tag}
    kept = [entry for entry in entries if _tag(entry) != tag]
    if len(kept) >= _MAX_ENTRIES:
        message = f"{where} has {len(kept)} tags already"
        raise ResourceExhausted(message, remedy="use another place")
    whole = {"schemaVersion": 2, "mediaType": media.INDEX, "manifests": [*kept, new]}
    return canonical.encode(whole)


def media_type_of(data: bytes, where: str) -> str:
    """Return the media type that a stored document says that it has.

    Raises:
        ImageCorrupt: it is not a manifest or index of OCI.
    """
    try:
        found = msgspec.json.decode(data, type=_Typed).media_type
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise corrupt(where, f"a manifest cannot be read: {error}") from error
    if found not in {media.MANIFEST, media.INDEX}:
        raise corrupt(where, "a blob that should be a manifest is none")
    return found


def _entries(data: bytes, where: str) -> list[dict[str, Any]]:
    try:
        if len(data) > MAX_DOCUMENT_BYTES:
            raise corrupt(where, f"{NAME} is too large")
        untrusted_json.check_shape(data)
        return msgspec.json.decode(data, type=_Index).manifests
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise corrupt(where, f"{NAME}: {error}") from error


def _tag(entry: dict[str, Any]) -> object:
    annotations = entry.get("annotations")
    return annotations.get(media.TAG) if isinstance(annotations, dict) else None
