"""The pools of connections that urllib3 keeps, with TLS and the proxies of the environment."""

from __future__ import annotations

import socket
import ssl
import threading
import urllib.request
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from shim.distribution import watch as watches
from shim.distribution.endpoint import is_loopback
from shim.distribution.http_options import HttpOptions
from shim.distribution.watch import Cuttable
from shim.errors import InvalidArgument
from shim.host.files import read_bounded

_BLOCK_BYTES = 256 << 10
_MAX_CA_BYTES = 4 << 20


class _Plain(HTTPConnection):
    """A connection that the watch of its request can cut; sending has the timeout of an answer."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._cuttable = Cuttable()

    def _new_conn(self) -> socket.socket:
        made = super()._new_conn()
        self._cuttable.take(made)
        if watch := watches.current():
            watch.use(self._cuttable)
        return made

    def request(self, *arguments: Any, **options: Any) -> None:
        if self.sock is None:
            self.connect()
        if watch := watches.current():
            watch.use(self._cuttable)
            self.timeout = watch.answer_s
        super().request(*arguments, **options)

    def close(self) -> None:
        self._cuttable.close()
        super().close()


class _Secure(_Plain, HTTPSConnection):
    """The same over TLS."""


class _PlainPool(HTTPConnectionPool):
    ConnectionCls = _Plain


class _SecurePool(HTTPSConnectionPool):
    ConnectionCls = _Secure


class Pools:
    """Pools of direct connections, and of those by each proxy (HTTP_PROXY, HTTPS_PROXY, NO_PROXY).

    All methods may be called from several threads.
    """

    def __init__(self, options: HttpOptions) -> None:
        self._options = options
        self._context = _tls(options)
        self._proxies = urllib.request.getproxies()
        self._lock = threading.Lock()
        self._managers: dict[str | None, urllib3.PoolManager] = {}

    def of(self, url: str) -> urllib3.PoolManager:
        """Return the pools for a URL.

        Raises:
            InvalidArgument: the environment has a proxy that is not one of HTTP.
        """
        proxy = self._proxy_of(url)
        with self._lock:
            if proxy not in self._managers:
                self._managers[proxy] = self._manager(proxy)
            return self._managers[proxy]

    def clear(self) -> None:
        """Close the connections that are not in use."""
        with self._lock:
            for manager in self._managers.values():
                manager.clear()

    def _proxy_of(self, url: str) -> str | None:
        """Return the proxy for a URL; as for Docker, there is none for this machine."""
        found = urlsplit(url)
        host = found.hostname or ""
        if is_loopback(host) or urllib.request.proxy_bypass(host):
            return None
        return self._proxies.get(found.scheme)

    def _manager(self, proxy: str | None) -> urllib3.PoolManager:
        timeout = urllib3.Timeout(connect=self._options.connect_s, read=self._options.answer_s)
        kept: dict[str, Any] = {
            "maxsize": 64,
            "timeout": timeout,
            "blocksize": _BLOCK_BYTES,
            "ssl_context": self._context,
        }
        manager = urllib3.PoolManager(**kept)
        if proxy is not None:
            url, headers = _parsed(proxy)
            manager = urllib3.ProxyManager(url, proxy_headers=headers, **kept)
        manager.pool_classes_by_scheme = {"http": _PlainPool, "https": _SecurePool}
        return manager


def _parsed(proxy: str) -> tuple[str, dict[str, str]]:
    """Return the URL of a proxy without its user, and the headers with that."""
    text = proxy if "://" in proxy else f"http://{proxy}"
    try:
        found = urlsplit(text)
        port = f":{found.port}" if found.port else ""
    except ValueError:
        found, port = urlsplit(""), ""
    if found.scheme not in {"http", "https"} or not found.hostname:
        message = "the environment has a proxy that is not one of HTTP"
        raise InvalidArgument(message, remedy="correct HTTP_PROXY and HTTPS_PROXY")
    host = f"[{found.hostname}]" if ":" in found.hostname else found.hostname
    url = f"{found.scheme}://{host}{port}"
    if found.username is None:
        return url, {}
    user = f"{unquote(found.username)}:{unquote(found.password or '')}"
    return url, dict(urllib3.make_headers(proxy_basic_auth=user))


def _tls(options: HttpOptions) -> ssl.SSLContext:
    """Return the settings of TLS: the CAs of the system, and the one that is given.

    Raises:
        InvalidArgument: the file has no certificate.
    """
    context = ssl.create_default_context()
    if options.ca_file is None:
        return context
    data = read_bounded(Path(options.ca_file), _MAX_CA_BYTES, nofollow=False)
    try:
        context.load_verify_locations(cadata=data.decode("ascii"))
    except (ssl.SSLError, ValueError) as error:
        message = f"{options.ca_file} has no certificate in PEM"
        raise InvalidArgument(message, remedy="name the file of the CA's certificate") from error
    return context
