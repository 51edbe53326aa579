"""The objects of a cluster: JSON documents that an API server keeps, by its REST interface."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlencode

Document = dict[str, Any]
Connect = Callable[[float], socket.socket]

_CALL_S = 60.0
_PLURALS = {
    "ConfigMap": "configmaps",
    "Deployment": "deployments",
    "Event": "events",
    "Namespace": "namespaces",
    "Node": "nodes",
    "Pod": "pods",
    "RuntimeClass": "runtimeclasses",
    "Secret": "secrets",
    "Service": "services",
    "ServiceAccount": "serviceaccounts",
}
_GROUPS = {"Deployment": "apis/apps/v1", "RuntimeClass": "apis/node.k8s.io/v1"}
_IN_NO_NAMESPACE = frozenset({"Namespace", "Node", "RuntimeClass"})


class Refused(Exception):
    """The server answered with an error; `code` is the status of HTTP."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(f"{code}: {text}")
        self.code = code


class Connection(http.client.HTTPSConnection):
    """One connection to the server, over a socket that the test has connected."""

    def __init__(self, connect: Connect, context: ssl.SSLContext) -> None:
        super().__init__("127.0.0.1", timeout=_CALL_S)
        self._connect_socket = connect
        self._tls = context

    def connect(self) -> None:
        """Connect, and begin TLS."""
        plain = self._connect_socket(_CALL_S)
        plain.settimeout(_CALL_S)
        self.sock = self._tls.wrap_socket(plain, server_hostname="127.0.0.1")


class Objects:
    """A client of an API server, with a token; a call that fails raises `Refused`."""

    def __init__(self, connect: Connect, *, authority: str, token: str) -> None:
        """Take a function that connects, the certificate of the authority, and the token."""
        self._connect = connect
        self._context = ssl.create_default_context(cadata=authority)
        self._token = token

    def create(self, document: Document) -> Document:
        """Create an object."""
        where = path_of(document["kind"], _namespace_of(document))
        return self.ask("POST", where, document)

    def replace(self, document: Document) -> Document:
        """Replace an object."""
        kind, name = document["kind"], document["metadata"]["name"]
        return self.ask("PUT", path_of(kind, _namespace_of(document), name), document)

    def read(self, kind: str, name: str, namespace: str = "default") -> Document | None:
        """Return an object; None if there is none of this name."""
        try:
            return self.ask("GET", path_of(kind, namespace, name))
        except Refused as error:
            if error.code != http.client.NOT_FOUND:
                raise
            return None

    def list(self, kind: str, namespace: str = "default", **where: str) -> list[Document]:
        """List the objects of a kind in a namespace; `where` are the parameters of the query."""
        path = path_of(kind, namespace)
        found = self.ask("GET", f"{path}?{urlencode(where)}" if where else path)
        items: list[Document] = found["items"]
        return items

    def delete(self, kind: str, name: str, namespace: str = "default") -> None:
        """Delete an object, or ask the kubelet to end a pod."""
        self.ask("DELETE", path_of(kind, namespace, name))

    def ask(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Document:
        """Make a call, and return the document of its answer."""
        answer = self.fetch(method, path, None if body is None else json.dumps(body).encode())
        found: Document = json.loads(answer)
        return found

    def fetch(self, method: str, path: str, body: bytes | None = None) -> bytes:
        """Make a call, and return the bytes of its answer.

        Raises:
            Refused: the status of the answer is that of an error.
        """
        headers = {"Authorization": f"Bearer {self._token}", "Accept": "application/json"}
        if body is not None:
            headers["Content-Type"] = "application/json"
        connection = Connection(self._connect, self._context)
        try:
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            data = answer.read()
        finally:
            connection.close()
        if answer.status >= http.client.BAD_REQUEST:
            raise Refused(answer.status, data.decode("utf-8", "replace"))
        return data


def path_of(kind: str, namespace: str, name: str = "") -> str:
    """Return the path of an object, or without a name of all of its kind."""
    parts = ["", _GROUPS.get(kind, "api/v1")]
    if kind not in _IN_NO_NAMESPACE:
        parts += ["namespaces", namespace]
    parts += [_PLURALS[kind], *([name] if name else [])]
    return "/".join(parts)


def _namespace_of(document: Document) -> str:
    return str(document["metadata"].get("namespace", "default"))
