"""Converts the settings of transfers to plain values and back."""

from __future__ import annotations

from shim.api.cryo.v1 import cryo_pb2
from shim.distribution.compress import JOBS, Compress
from shim.distribution.key_sources import KeySources
from shim.distribution.settings import TransferSettings
from shim.service.convert import named

_COMPRESSIONS = {one: cryo_pb2.Compression.Value(f"COMPRESSION_{one.name}") for one in Compress}


def to_settings(settings: TransferSettings) -> cryo_pb2.TransferSettings:
    """Encode settings."""
    keys = settings.keys
    return cryo_pb2.TransferSettings(
        plain_http=settings.plain_http,
        ca_file=settings.ca_file or "",
        docker_config=settings.docker_config or "",
        object_store=settings.object_store,
        jobs=settings.jobs,
        compression=_COMPRESSIONS[settings.compress],
        key_file=keys.key_file or "",
        recipients=keys.recipients,
        identities=keys.identities,
    )


def from_settings(message: cryo_pb2.TransferSettings) -> TransferSettings:
    """Decode settings."""
    return TransferSettings(
        plain_http=message.plain_http,
        ca_file=message.ca_file or None,
        docker_config=message.docker_config or None,
        object_store=dict(message.object_store),
        jobs=message.jobs or JOBS,
        compress=named(_COMPRESSIONS, message.compression, "compression"),
        keys=KeySources(
            key_file=message.key_file or None,
            recipients=tuple(message.recipients),
            identities=tuple(message.identities),
        ),
    )
