"""The identity of a runsc build in a manifest is that of the file that was probed."""

from __future__ import annotations

from pathlib import Path

import blake3
import pytest
from msgspec.structs import replace

from shim.errors import FailedPrecondition
from shim.runsc.probe import UNVERSIONED, Capabilities, identity
from shim.transaction.builds import runsc_build
from tests.unit.fakes_runsc import capabilities


def probed(path: Path) -> Capabilities:
    """Return what was probed of a file without a version."""
    return replace(capabilities(path), version=UNVERSIONED, identity=identity(str(path)))


def put(path: Path, content: bytes) -> None:
    """Put a new file at a path, as a package does."""
    new = path.with_name("new")
    new.write_bytes(content)
    new.replace(path)


async def test_a_version_is_enough() -> None:
    """No file is read for a release."""
    build = await runsc_build(capabilities("/does/not/exist"))

    assert (build.version, build.digest) == ("release-20260905.0", "")


async def test_a_digest_is_of_the_file_that_was_probed(tmp_path: Path) -> None:
    """One that is in its place by now is not taken for it, before or after the first look."""
    path = tmp_path / "runsc"
    put(path, b"one")
    first = probed(path)
    put(path, b"another")

    with pytest.raises(FailedPrecondition, match="was replaced"):
        await runsc_build(first)

    second = probed(path)
    digest = blake3.blake3(b"another").hexdigest()
    assert (await runsc_build(second)).digest == digest
    put(path, b"a third")
    assert (await runsc_build(second)).digest == digest
    assert (await runsc_build(probed(path))).digest == blake3.blake3(b"a third").hexdigest()
