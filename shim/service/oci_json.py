"""OCI objects in messages: JSON with its type URL, as containerd sends it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from google.protobuf.any_pb2 import Any as AnyMessage

from shim.errors import InvalidArgument
from shim.oci import untrusted_json

PROCESS_TYPE = "types.containerd.io/opencontainers/runtime-spec/1/Process"
RESOURCES_TYPE = "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources"

_MAX_BYTES = 1 << 20


def pack(type_url: str, value: Mapping[str, Any]) -> AnyMessage:
    """Encode an object."""
    return AnyMessage(type_url=type_url, value=json.dumps(value).encode())


def unpack(packed: AnyMessage, what: str) -> dict[str, Any]:
    """Decode an object.

    Raises:
        InvalidArgument: it is absent, too long, or not a JSON object.
    """
    if len(packed.value) > _MAX_BYTES:
        message = f"the {what} is longer than {_MAX_BYTES} bytes"
        raise InvalidArgument(message)
    try:
        value = untrusted_json.decode(packed.value)
    except ValueError as error:
        message = f"the {what} is not JSON: {error}"
        raise InvalidArgument(message) from error
    if isinstance(value, dict):
        return value
    message = f"the {what} is not a JSON object"
    raise InvalidArgument(message)
