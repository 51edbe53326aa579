"""What a failed request to a registry means: one clear error for each answer, and for none."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator, Mapping
from http import HTTPStatus
from http.client import HTTPException
from typing import TypeAlias

import msgspec
from urllib3.exceptions import (
    ConnectTimeoutError,
    HTTPError,
    LocationParseError,
    NameResolutionError,
    NewConnectionError,
    ProxyError,
    ReadTimeoutError,
    SSLError,
)

from shim.distribution.connections import Broken
from shim.distribution.retry import Passing, retry_after_s
from shim.errors import (
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
from shim.host.text import printable
from shim.model import Value

MAX_ERROR_BYTES = 64 << 10
_MAX_CHARS = 300
# A wait that was in vain is long: it is repeated once.
_AFTER_TIMEOUT = 2

Failure: TypeAlias = CryoError | Passing

_KINDS: dict[int, tuple[type[CryoError], str]] = {
    HTTPStatus.NOT_FOUND: (NotFound, "check the repository and the tag"),
    HTTPStatus.METHOD_NOT_ALLOWED: (Unimplemented, "check that the registry accepts pushes"),
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: (
        ResourceExhausted,
        "raise the limit of the registry or of the proxy before it (client_max_body_size)",
    ),
    HTTPStatus.INSUFFICIENT_STORAGE: (ResourceExhausted, "free some space of the registry"),
    HTTPStatus.TOO_MANY_REQUESTS: (
        ResourceExhausted,
        "try again later, log in for a higher limit, or use fewer --jobs",
    ),
}
_CODES: dict[str, tuple[type[CryoError], str]] = {
    "DIGEST_INVALID": (ImageCorrupt, "check the image: its content is not what was sealed"),
    "SIZE_INVALID": (ImageCorrupt, "check the image: its content is not what was sealed"),
    "MANIFEST_BLOB_UNKNOWN": (FailedPrecondition, "push again: the registry lost a blob"),
    "NAME_INVALID": (InvalidArgument, "use another repository name"),
    "TAG_INVALID": (InvalidArgument, "use another tag"),
    "DENIED": (PermissionDenied, "check what the registry lets this user do"),
    "UNSUPPORTED": (Unimplemented, "use a registry that stores OCI artifacts"),
}
_PASSING = frozenset(
    {
        HTTPStatus.TOO_MANY_REQUESTS,
        HTTPStatus.INTERNAL_SERVER_ERROR,
        HTTPStatus.BAD_GATEWAY,
        HTTPStatus.SERVICE_UNAVAILABLE,
        HTTPStatus.GATEWAY_TIMEOUT,
    }
)
_TO_TLS = b"HTTP request to an HTTPS server"


class _Problem(Value):
    code: str = ""
    message: str | None = None


class _Problems(Value):
    errors: tuple[_Problem, ...] = ()


def of_status(
    host: str,
    doing: str,
    status: int,
    headers: Mapping[str, str],
    body: bytes,
    hide: Callable[[str], str],
) -> Failure:
    """Return the failure that an answer with an error means, while `doing` something.

    `hide` removes secrets from what the server says.
    """
    problems = _problems(body)
    said = printable(hide(_text(problems)), _MAX_CHARS)
    shown = f"{host} answered {status}{f' ({said})' if said else ''}: cannot {doing}"
    if status in _PASSING:
        if status == HTTPStatus.TOO_MANY_REQUESTS:
            kind, remedy = _KINDS[status]
        else:
            kind, remedy = Unavailable, "try again later, or look at the log of the registry"
        return Passing(
            kind(shown, remedy=remedy), after_s=retry_after_s(headers.get("Retry-After"))
        )
    if status == HTTPStatus.BAD_REQUEST and _TO_TLS in body:
        remedy = "it uses TLS: leave out --plain-http, or name its CA with --ca-file"
        return InvalidArgument(shown, remedy=remedy)
    for problem in problems:
        if problem.code in _CODES:
            kind, remedy = _CODES[problem.code]
            return kind(shown, remedy=remedy)
    kind, remedy = _KINDS.get(status, (FailedPrecondition, "check that it is a registry"))
    return kind(shown, remedy=remedy)


def of_broken(
    host: str, doing: str, broken: Broken, hide: Callable[[str], str], *, has_answered: bool
) -> Failure:
    """Return the failure of a request without a complete answer.

    A host that never answered is not tried again: its name is more likely to be wrong.
    """
    error = broken.cause
    if broken.expired or isinstance(error, ReadTimeoutError):
        message = f"{host} does not answer: cannot {doing} in time"
        failure = DeadlineExceeded(
            message, remedy="try again, or check the registry and the network"
        )
        return Passing(failure, attempts=_AFTER_TIMEOUT)
    if isinstance(error, ProxyError):
        message = f"the proxy to {host} cannot be used: {printable(_reason(error), _MAX_CHARS)}"
        return Unavailable(message, remedy="check HTTPS_PROXY, HTTP_PROXY and NO_PROXY")
    if isinstance(error, SSLError):
        return _of_tls(host, error)
    if isinstance(error, LocationParseError):
        message = f"{host} is not a host"
        return InvalidArgument(message, remedy="correct the reference")
    if isinstance(error, (NewConnectionError, ConnectTimeoutError)):
        unreachable = _unreachable(host, error)
        return Passing(unreachable) if has_answered else unreachable
    # It may have a part of what the server sent.
    why = printable(hide(_reason(error)), _MAX_CHARS)
    message = f"{host} broke the connection: cannot {doing}: {why}"
    return Passing(Unavailable(message, remedy="try again, or look at the log of the registry"))


def _unreachable(host: str, error: HTTPError) -> CryoError:
    if isinstance(error, ConnectTimeoutError) and not isinstance(error, NewConnectionError):
        message = f"{host} cannot be reached: no connection in time"
        return DeadlineExceeded(message, remedy="check the host, its port and the firewall")
    if isinstance(error, NameResolutionError):
        message = f"{host} cannot be reached: {_reason(error)}"
        return Unavailable(message, remedy="check the name of the host, and DNS on this machine")
    message = f"{host} cannot be reached: {_reason(error)}"
    return Unavailable(message, remedy="check the host and its port, and that the registry runs")


def _of_tls(host: str, error: SSLError) -> CryoError:
    for cause in _causes(error):
        if isinstance(cause, ssl.SSLCertVerificationError):
            message = f"the certificate of {host} is not trusted: {cause.verify_message}"
            remedy = "name the certificate of its CA with --ca-file"
            return Unavailable(message, remedy=remedy)
    message = f"{host} cannot be reached by TLS: {_reason(error)}"
    return Unavailable(message, remedy="use --plain-http if it speaks HTTP without TLS")


def _reason(error: BaseException) -> str:
    """Return the innermost reason that is worth reading."""
    for cause in reversed(list(_causes(error))):
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
        if isinstance(cause, HTTPException):
            return str(cause)
    last = list(_causes(error))[-1]
    return str(last) or type(last).__name__


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and what caused it; urllib3 also has causes as arguments."""
    seen: set[int] = set()
    waiting: list[BaseException] = [error]
    while waiting:
        one = waiting.pop(0)
        if id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        waiting += [each for each in one.args if isinstance(each, BaseException)]
        waiting += [each for each in (one.__cause__, one.__context__) if each is not None]


def _problems(body: bytes) -> tuple[_Problem, ...]:
    """Return what the body of an error says, if it is as the specification has it."""
    try:
        return msgspec.json.decode(body, type=_Problems).errors
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return ()


def _text(problems: tuple[_Problem, ...]) -> str:
    return "; ".join(
        ": ".join(filter(None, (problem.code, problem.message))) for problem in problems[:3]
    )
