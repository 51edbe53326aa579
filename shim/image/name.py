"""Names of images: `REPOSITORY[:TAG]` in a containerd namespace, such as `llama:warm`."""

from __future__ import annotations

import re

from shim.errors import InvalidArgument
from shim.host.text import printable
from shim.model import Value, check_id

DEFAULT_TAG = "latest"
MAX_REPOSITORY = 128
# A repository, a colon and a tag.
MAX_NAME = MAX_REPOSITORY + 1 + 128
_COMPONENT = "[a-z0-9]+(?:[._-][a-z0-9]+)*"
_REPOSITORY = re.compile(f"{_COMPONENT}(?:/{_COMPONENT})*")
_TAG = re.compile("[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
# What stands before the colon of a reference to an image elsewhere.
_SCHEMES = ("oci", "oci-archive", "s3")
_SHOWN = 80


class ImageName(Value):
    """A name in a namespace; it refers to at most one image at a time."""

    namespace: str
    repository: str
    tag: str = DEFAULT_TAG

    def __post_init__(self) -> None:
        """Reject what is not a name."""
        check_id("namespace", self.namespace)
        if len(self.repository) > MAX_REPOSITORY or not _REPOSITORY.fullmatch(self.repository):
            raise _invalid(self.repository)
        if self.repository in _SCHEMES or _has_host(self.repository):
            message = f"{self} refers to an image elsewhere, and cannot be the name of an image"
            raise InvalidArgument(message, remedy="choose a name without host or scheme")
        if not _TAG.fullmatch(self.tag):
            raise _invalid(self.tag)

    def __str__(self) -> str:
        """Return the form that users write, with the tag."""
        return f"{self.repository}:{self.tag}"


def parse(text: str, namespace: str) -> ImageName:
    """Return the name that a user wrote, in this namespace.

    Raises:
        InvalidArgument: it is not a name.
    """
    repository, colon, tag = text.partition(":")
    if not _REPOSITORY.fullmatch(repository):
        raise _invalid(text)
    return ImageName(namespace=namespace, repository=repository, tag=tag if colon else DEFAULT_TAG)


def is_path(text: str) -> bool:
    """Whether a text is a path, which begins with a slash, and no name does."""
    return text.startswith("/")


def _has_host(repository: str) -> bool:
    """Whether the first of several parts is a host, as in a reference to a registry."""
    first, slash, _ = repository.partition("/")
    return bool(slash) and ("." in first or first == "localhost")


def _invalid(text: str) -> InvalidArgument:
    message = f"{printable(text, _SHOWN)!r} is neither an absolute path nor the name of an image"
    return InvalidArgument(
        message,
        remedy="write a name as NAME or NAME:TAG, the name in lower-case letters, digits and "
        f"single '.', '_', '-' or '/' between them, at most {MAX_REPOSITORY} in all",
    )
