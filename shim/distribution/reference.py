"""References to images elsewhere: in a registry, a bucket, an OCI layout or an archive. Pure.

    registry.example.com[:PORT]/REPOSITORY[:TAG][@DIGEST]
    s3://BUCKET/PREFIX[:TAG]
    oci:FOLDER[:TAG]
    oci-archive:FILE.tar[:TAG]

The first part of a registry's reference has a dot or a port, or is `localhost`, as for Docker; so
it cannot be confused with the name of a local image.
"""

from __future__ import annotations

import re
from typing import TypeAlias

from shim.errors import InvalidArgument
from shim.model import Value

DEFAULT_TAG = "latest"
_HOST = re.compile(
    r"(?:[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?(?:\.[a-zA-Z0-9-]+)*|\[[0-9a-fA-F:]+\])(?::\d{1,5})?"
)
_COMPONENT = r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*"
_REPOSITORY = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,254}")
_MAX_CHARS = 4096
S3, LAYOUT, ARCHIVE = "s3://", "oci:", "oci-archive:"


class RegistryRef(Value):
    """An image in a registry; with `digest` it is that one, whatever has the tag."""

    host: str
    repository: str
    tag: str = DEFAULT_TAG
    digest: str | None = None

    def __str__(self) -> str:
        """Return the form that a user writes."""
        tagged = f"{self.host}/{self.repository}:{self.tag}"
        return f"{tagged}@{self.digest}" if self.digest else tagged


class BucketRef(Value):
    """An image below a prefix of a bucket of an S3-compatible store."""

    bucket: str
    prefix: str
    tag: str = DEFAULT_TAG

    def __str__(self) -> str:
        """Return the form that a user writes."""
        return f"{S3}{self.bucket}/{self.prefix}:{self.tag}"


class LayoutRef(Value):
    """An image in an OCI layout, a folder."""

    path: str
    tag: str = DEFAULT_TAG

    def __str__(self) -> str:
        """Return the form that a user writes."""
        return f"{LAYOUT}{self.path}:{self.tag}"


class ArchiveRef(Value):
    """An image in a tar of an OCI layout."""

    path: str
    tag: str = DEFAULT_TAG

    def __str__(self) -> str:
        """Return the form that a user writes."""
        return f"{ARCHIVE}{self.path}:{self.tag}"


Reference: TypeAlias = RegistryRef | BucketRef | LayoutRef | ArchiveRef


def is_remote(text: str) -> bool:
    """Whether a text refers to an image elsewhere, rather than to a path or a local name."""
    if text.startswith((S3, LAYOUT, ARCHIVE)):
        return True
    host, slash, _ = text.partition("/")
    return bool(slash) and ("." in host or ":" in host or host == "localhost") and host[0] != "."


def parse(text: str) -> Reference:
    """Parse a reference.

    Raises:
        InvalidArgument: it is none of the forms above.
    """
    if len(text) > _MAX_CHARS or "\0" in text:
        raise _invalid(text, "it is too long or has a NUL byte")
    if text.startswith(S3):
        return _bucket(text)
    if text.startswith(ARCHIVE):
        path, tag = _with_tag(text, text.removeprefix(ARCHIVE))
        return ArchiveRef(path=path, tag=tag)
    if text.startswith(LAYOUT):
        path, tag = _with_tag(text, text.removeprefix(LAYOUT))
        return LayoutRef(path=path, tag=tag)
    if is_remote(text):
        return _registry(text)
    raise _invalid(text, "it names no registry, bucket, layout or archive")


def _registry(text: str) -> RegistryRef:
    rest, at, digest = text.partition("@")
    if at and not _DIGEST.fullmatch(digest):
        raise _invalid(text, f"{digest!r} is not a sha256 digest")
    host, _, path = rest.partition("/")
    if not _HOST.fullmatch(host):
        raise _invalid(text, f"{host!r} is not a host")
    repository, tag = _with_tag(text, path)
    if not _REPOSITORY.fullmatch(repository):
        raise _invalid(text, f"{repository!r} is not a repository: use lowercase letters")
    return RegistryRef(host=host, repository=repository, tag=tag, digest=digest or None)


def _bucket(text: str) -> BucketRef:
    bucket, _, rest = text.removeprefix(S3).partition("/")
    prefix, tag = _with_tag(text, rest)
    prefix = prefix.strip("/")
    if not _BUCKET.fullmatch(bucket):
        raise _invalid(text, f"{bucket!r} is not a bucket")
    if not prefix or any(part in {"", ".", ".."} for part in prefix.split("/")):
        raise _invalid(text, "the prefix is missing, or has an empty part or dots")
    return BucketRef(bucket=bucket, prefix=prefix, tag=tag)


def _with_tag(text: str, rest: str) -> tuple[str, str]:
    """Split a tag from the last part of a path."""
    folder, slash, last = rest.rpartition("/")
    name, colon, tag = last.partition(":")
    if colon and not _TAG.fullmatch(tag):
        raise _invalid(text, f"{tag!r} is not a tag")
    if not folder + slash + name:
        raise _invalid(text, "it has no path")
    return folder + slash + name, tag or DEFAULT_TAG


def _invalid(text: str, why: str) -> InvalidArgument:
    message = f"{text[:200]!r} is not a reference to an image: {why}"
    remedy = "write HOST/REPOSITORY:TAG, s3://BUCKET/PREFIX:TAG, oci:FOLDER or oci-archive:FILE.tar"
    return InvalidArgument(message, remedy=remedy)
