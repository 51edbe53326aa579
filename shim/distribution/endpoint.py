"""Where the API of a registry is, by the host that a reference names. Pure."""

from __future__ import annotations

import ipaddress
from urllib.parse import SplitResult, urlencode, urljoin, urlsplit

from shim.distribution.http_options import HttpOptions
from shim.distribution.reference import RegistryRef
from shim.errors import InvalidArgument, PermissionDenied, Unavailable
from shim.model import Value

_MAX_URL_CHARS = 8192
_PORTS = {"http": 80, "https": 443}
# Docker's default registry: its API has another host, and one-part names a folder.
_HUB, _HUB_API, _HUB_FOLDER = "docker.io", "registry-1.docker.io", "library"


class Origin(Value):
    """The server of a URL: credentials for one are not sent to another."""

    scheme: str
    host: str
    port: int


class Endpoint(Value):
    """The API of a registry for one repository; `login` is the host that `docker login` takes."""

    url: str
    login: str
    repository: str

    @property
    def origin(self) -> Origin:
        """Return the server of the API."""
        return origin_of(self.url)

    def at(self, *parts: str, **query: str) -> str:
        """Return the URL of a part of the repository."""
        path = "/".join((self.url, "v2", self.repository, *parts))
        return f"{path}?{urlencode(query)}" if query else path


def endpoint_of(reference: RegistryRef, options: HttpOptions) -> Endpoint:
    """Return the endpoint of a reference.

    A registry on the loopback interface is spoken to without TLS, as by Docker, unless its CA is
    given.

    Raises:
        InvalidArgument: the host cannot be one.
    """
    host, repository = reference.host.lower(), reference.repository
    login = host
    if host == _HUB:
        host = _HUB_API
        repository = repository if "/" in repository else f"{_HUB_FOLDER}/{repository}"
    try:
        name = check_url(f"https://{host}", "the reference").hostname or host
    except Unavailable as error:
        raise InvalidArgument(error.message, remedy="correct the host and its port") from error
    plain = options.plain_http or (is_loopback(name) and options.ca_file is None)
    url = f"{'http' if plain else 'https'}://{host}"
    return Endpoint(url=url, login=login, repository=repository)


def is_loopback(host: str) -> bool:
    """Whether a host is this machine by its name or address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def origin_of(url: str) -> Origin:
    """Return the server of a URL that was checked."""
    found = urlsplit(url)
    port = found.port or _PORTS[found.scheme]
    return Origin(scheme=found.scheme, host=found.hostname or "", port=port)


def check_url(url: str, namer: str) -> SplitResult:
    """Check a URL that a server, the `namer`, refers to.

    Raises:
        Unavailable: it is too long, of another scheme, or has a user or odd characters.
    """
    why = None
    if len(url) > _MAX_URL_CHARS or not url.isascii() or not url.isprintable() or " " in url:
        why = "it is too long, or has characters that a URL cannot have"
    try:
        found = urlsplit(url)
        usable = found.scheme in _PORTS and found.hostname and found.port != 0
    except ValueError:
        why = why or "its host or port is malformed"
    else:
        if not usable or found.username is not None:
            why = why or "it has no host, or a user name, or is not of HTTP"
        if why is None:
            return found
    # What is left out may be secret: a user with a password, or the signature of a URL.
    shown = url.partition("?")[0].rpartition("@")[2][:100]
    message = f"{namer} names {shown!a}, which cannot be used: {why}"
    raise Unavailable(message, remedy="check the registry and the proxies before it")


def follow(url: str, location: str) -> str:
    """Return the URL that a server at `url` refers to, which may be on another host.

    Raises:
        Unavailable: it is malformed.
        PermissionDenied: it leads from TLS to plain HTTP.
    """
    try:
        target = urljoin(url, location[: _MAX_URL_CHARS + 1])
    except ValueError:
        target = location
    found = check_url(target, urlsplit(url).netloc)
    if urlsplit(url).scheme == "https" and found.scheme != "https":
        message = f"{urlsplit(url).netloc} refers from https to http, at {found.netloc}"
        remedy = (
            "let the registry use relative URLs (http.relativeurls), or its proxy set "
            "X-Forwarded-Proto"
        )
        raise PermissionDenied(message, remedy=remedy)
    return found._replace(fragment="").geturl()


def with_query(url: str, **query: str) -> str:
    """Return a URL with more parameters; those that it has are left as they are."""
    found = urlsplit(url)
    joined = "&".join(filter(None, (found.query, urlencode(query))))
    return found._replace(query=joined).geturl()
