"""Opens the place that a reference names. Its module is loaded when it is needed."""

from __future__ import annotations

import os
from pathlib import Path

from shim.distribution.archive_reader import ArchiveReader
from shim.distribution.archive_writer import ArchiveWriter
from shim.distribution.http_options import HttpOptions
from shim.distribution.layout import Layout
from shim.distribution.place import Place
from shim.distribution.reference import ArchiveRef, BucketRef, LayoutRef, Reference
from shim.distribution.settings import TransferSettings


def open_place(reference: Reference, settings: TransferSettings, *, to_write: bool) -> Place:
    """Open a place; the caller closes it.

    Raises:
        CryoError: it cannot be opened; an object store is connected to later.
    """
    if isinstance(reference, LayoutRef):
        return Layout(Path(reference.path))
    if isinstance(reference, ArchiveRef):
        path = Path(reference.path)
        return ArchiveWriter(path) if to_write else ArchiveReader(path)
    if isinstance(reference, BucketRef):
        from shim.distribution.bucket import Bucket  # noqa: PLC0415 - loads obstore

        options = HttpOptions(plain_http=settings.plain_http, ca_file=settings.ca_file)
        return Bucket(reference, settings.object_store or os.environ, options)
    from shim.distribution.registry import Registry  # noqa: PLC0415 - loads urllib3

    options = HttpOptions(
        plain_http=settings.plain_http,
        ca_file=settings.ca_file,
        docker_config=settings.docker_config,
    )
    return Registry(reference, options)
