"""The Authorization header of requests to one registry; its secrets are in no message."""

from __future__ import annotations

import enum
import threading
from http import HTTPStatus

from shim.distribution import challenge as challenges
from shim.distribution import credentials as stored
from shim.distribution.challenge import Challenge
from shim.distribution.connections import Connections
from shim.distribution.credentials import Credentials
from shim.distribution.endpoint import Endpoint
from shim.distribution.http_options import HttpOptions
from shim.distribution.token_server import Token, TokenServer
from shim.errors import PermissionDenied


class Access(enum.StrEnum):
    """What a request does with the repository, as scopes of tokens have it."""

    PULL = "pull"
    PUSH = "pull,push"


class Authorization:
    """Answers the challenges of a registry. All methods may be called from several threads."""

    def __init__(self, endpoint: Endpoint, options: HttpOptions, connections: Connections) -> None:
        self._endpoint = endpoint
        self._options = options
        self._server = TokenServer(endpoint, options, connections)
        self._lock = threading.Lock()
        self._is_known = False
        self._credentials: Credentials | None = None
        self._is_basic = False
        self._challenges: dict[Access, Challenge] = {}
        self._tokens: dict[Access, Token] = {}
        self._secrets: set[str] = set()

    def header(self, access: Access) -> str | None:
        """Return the header's value, None before the registry has asked for one.

        A token near its end is replaced first.
        """
        with self._lock:
            if self._is_basic and self._credentials is not None:
                return self._credentials.basic
            token = self._tokens.get(access)
            if token is None:
                return None
            if not token.is_fresh:
                token = self._renewed(self._challenges[access], access)
            return f"Bearer {token.text}"

    def answer(self, asked: str, access: Access, used: str | None) -> str | None:
        """Return the header's value that a 401 asks for, None if there is no other one.

        `used` is the value that was refused.

        Raises:
            Passing: the token server cannot answer now.
            PermissionDenied: it refuses the credentials, or must not get them.
        """
        offered = {each.scheme: each for each in reversed(challenges.parse(asked))}
        with self._lock:
            if "bearer" in offered:
                token = self._tokens.get(access)
                # Another thread may have fetched one meanwhile.
                if token is None or f"Bearer {token.text}" == used:
                    token = self._renewed(offered["bearer"], access)
                return f"Bearer {token.text}"
            credentials = self._known()
            if "basic" not in offered or credentials is None or not credentials.username:
                return None
            self._is_basic = True
            return None if credentials.basic == used else credentials.basic

    def denied(self, doing: str, status: int) -> PermissionDenied:
        """Return the error of a request that is refused, with what was used for it."""
        login = self._endpoint.login
        with self._lock:
            found = self._known()
        if found is None:
            without = f"there are no credentials for it in {stored.looked_into(self._options)}"
            message = f"{login} requires a login ({status}): cannot {doing}, and {without}"
            return PermissionDenied(message, remedy=f"use `docker login {login}`")
        if status == HTTPStatus.UNAUTHORIZED:
            message = f"{login} refuses the credentials of {found.source} (401): cannot {doing}"
            return PermissionDenied(message, remedy=f"use `docker login {login}` again")
        message = f"{login} forbids the user of {found.source} to {doing} ({status})"
        remedy = f"use `docker login {login}` as a user who may, or ask for that right"
        return PermissionDenied(message, remedy=remedy)

    def hidden(self, text: str) -> str:
        """Return a text of a server without the secrets that it was sent."""
        with self._lock:
            return stored.hidden(text, self._secrets)

    def _known(self) -> Credentials | None:
        if not self._is_known:
            self._credentials = stored.find(self._endpoint, self._options)
            self._is_known = True
            if self._credentials is not None:
                self._secrets.update(self._credentials.secrets)
        return self._credentials

    def _renewed(self, asked: Challenge, access: Access) -> Token:
        ours = f"repository:{self._endpoint.repository}:{access}"
        scope = asked.parameters.get("scope") or ours
        token = self._server.get(asked, scope, self._known())
        self._challenges[access] = asked
        self._tokens[access] = token
        self._secrets.add(token.text)
        return token
