"""What a failed request to an S3-compatible store means: one clear error each.

The library has few classes of errors, so the status and the code are taken from its text. Of what
the store says only the code is shown: some stores repeat parts of the request.
"""

from __future__ import annotations

import re
from http import HTTPStatus

from shim.errors import (
    Busy,
    CryoError,
    DeadlineExceeded,
    FailedPrecondition,
    ImageCorrupt,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
    Unavailable,
    Unimplemented,
)

_STATUS = re.compile(r"status: (\d{3})\b|status code: (\d{3})\b")
_CODE = re.compile(r"<Code>(\w{1,64})</Code>")

# Where obstore looks for the credentials of a virtual machine.
_METADATA = re.compile(r"/latest/(?:api/token|meta-data/)")

_KEYS = (PermissionDenied, "check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")
_TOKEN = (PermissionDenied, "renew AWS_SESSION_TOKEN and the key that belongs to it")
_DENIED = (
    PermissionDenied,
    "allow the key s3:GetObject, s3:PutObject and s3:ListBucket of this bucket",
)
_SLOWER = (ResourceExhausted, "try again later, or use fewer --jobs")
_FULL = (ResourceExhausted, "free some space of the store, or raise its quota")
_REGION = (InvalidArgument, "set AWS_REGION to the region of the bucket")
_LATER = (Unavailable, "try again later, or look at the log of the store")
_CONNECT = (Unavailable, "check AWS_ENDPOINT_URL, and that the store runs")

_Kind = tuple[type[CryoError], str]
_CODES: dict[str, _Kind] = {
    "AccessDenied": _DENIED,
    "AuthorizationHeaderMalformed": _REGION,
    "EntityTooLarge": _FULL,
    "ExpiredToken": _TOKEN,
    "InvalidAccessKeyId": _KEYS,
    "InvalidBucketName": (InvalidArgument, "correct the name of the bucket"),
    # A part that was asked for is not there.
    "InvalidRange": (ImageCorrupt, "push the image again, or use another one"),
    "InvalidToken": _TOKEN,
    "NoSuchBucket": (NotFound, "make the bucket, or check its name and AWS_ENDPOINT_URL"),
    "NoSuchKey": (NotFound, "check the prefix and the tag"),
    "NotImplemented": (Unimplemented, "use another store"),
    "PermanentRedirect": _REGION,
    "QuotaExceeded": _FULL,
    "RequestTimeTooSkewed": (PermissionDenied, "set the clock of this machine"),
    "SignatureDoesNotMatch": _KEYS,
    "SlowDown": _SLOWER,
    "XAdminUserNotFound": _KEYS,
    "XMinioStorageFull": _FULL,
}
_STATUSES: dict[int, _Kind] = {
    HTTPStatus.UNAUTHORIZED: _KEYS,
    HTTPStatus.FORBIDDEN: _DENIED,
    HTTPStatus.NOT_FOUND: _CODES["NoSuchKey"],
    HTTPStatus.REQUEST_TIMEOUT: (DeadlineExceeded, "check the network, and try again"),
    HTTPStatus.CONFLICT: (Busy, "try again"),
    HTTPStatus.PRECONDITION_FAILED: (Busy, "try again"),
    HTTPStatus.TOO_MANY_REQUESTS: _SLOWER,
    HTTPStatus.NOT_IMPLEMENTED: _CODES["NotImplemented"],
    HTTPStatus.INSUFFICIENT_STORAGE: _FULL,
}
# Parts of the library's text, where there was no answer.
_TEXTS: tuple[tuple[str, str, _Kind], ...] = (
    ("Missing", "the credentials are not complete", _KEYS),
    ("BareRedirect", "the store redirects without saying where to", _REGION),
    ("dns error", "its host is not known", _CONNECT),
    (
        "invalid peer certificate",
        "its certificate is not trusted",
        (Unavailable, "name its CA with --ca-file"),
    ),
    (
        "InvalidContentType",
        "it does not use TLS",
        (Unavailable, "use http:// in AWS_ENDPOINT_URL, and --plain-http"),
    ),
    ("ConnectionRefused", "the connection was refused", _CONNECT),
    (
        "kind: Timeout",
        "it does not answer in time",
        (DeadlineExceeded, "check the network, and try again"),
    ),
    (
        "TimedOut",
        "it does not answer in time",
        (DeadlineExceeded, "check the network, and try again"),
    ),
    ("kind: Connect", "it cannot be reached", _CONNECT),
    ("Metadata {", "its answer is not that of an S3-compatible store", _CONNECT),
    ("HttpError", "the connection broke", _LATER),
)


def of(error: Exception, where: str, doing: str) -> CryoError:
    """Return the error that a failure of the library means, while `doing` something."""
    text = str(error)
    if _METADATA.search(text):
        message = f"{where}: cannot {doing}: there are no credentials, and no instance provides any"
        return PermissionDenied(message, remedy=_KEYS[1])
    status = next((int(one or other) for one, other in _STATUS.findall(text)), None)
    if status is None:
        for part, why, (kind, remedy) in _TEXTS:
            if part in text:
                return kind(f"{where}: cannot {doing}: {why}", remedy=remedy)
        kind, remedy = FailedPrecondition, "look at the log of the store"
        return kind(f"{where}: cannot {doing}: {type(error).__name__}", remedy=remedy)
    found = _CODE.search(text)
    code = found[1] if found else None
    kind, remedy = _of_answer(status, code)
    said = f"{status} ({code})" if code else str(status)
    return kind(f"{where}: cannot {doing}: the store answered {said}", remedy=remedy)


def _of_answer(status: int, code: str | None) -> _Kind:
    if code in _CODES:
        return _CODES[code]
    if status in _STATUSES:
        return _STATUSES[status]
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return _LATER
    return FailedPrecondition, "look at the log of the store"
