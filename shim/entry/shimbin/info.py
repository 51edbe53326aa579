"""`-info`, which containerd 2.0 and later run before the first task of a runtime."""

from __future__ import annotations

import json
import sys

from google.protobuf.any_pb2 import Any

from shim import __version__
from shim.api.containerd.types import introspection_pb2
from shim.entry.shimbin.features import TYPE_URL, features


def run() -> None:
    """Print a RuntimeInfo message."""
    sys.stdin.buffer.read(4 << 20)
    info = introspection_pb2.RuntimeInfo(
        name="io.containerd.cryo.v1",
        version=introspection_pb2.RuntimeVersion(version=__version__),
        features=Any(type_url=TYPE_URL, value=json.dumps(features()).encode()),
    )
    sys.stdout.buffer.write(info.SerializeToString())
