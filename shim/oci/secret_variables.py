"""Environment variables of a spec that look like secrets: their names are shown, values are not."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

MASK = "***"

_PARTS = re.compile(r"[^A-Z0-9]+")
# A part of a name that ends with one of these, as in GITHUB_TOKEN, PGPASSWORD and apiKey.
_ENDS = (
    "AUTH",
    "AUTHORIZATION",
    "CREDENTIAL",
    "CREDENTIALS",
    "KEY",
    "PASSPHRASE",
    "PASSWD",
    "PASSWORD",
    "PASSWORDS",
    "SECRET",
    "SECRETS",
    "TOKEN",
    "TOKENS",
)
# Whole parts: other words end with them.
_WORDS = frozenset(
    {"COOKIE", "CREDS", "DSN", "JWT", "KEYS", "PASS", "PAT", "PIN", "PRIVATE", "PWD"}
)
_HARMLESS = frozenset({"PWD", "OLDPWD"})
# A URL with a password, a private key, a JSON web token, and tokens of well-known services.
_VALUE = re.compile(
    r"://[^/\s@]*:[^/\s@]+@"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY"
    r"|\beyJ[\w-]{8,}\.eyJ[\w-]{8,}\."
    r"|\b(?:gh[pousr]_|github_pat_|glpat-|hf_|sk-|xox[abprs]-|AKIA|ASIA)[\w-]{12,}"
    r"|\bAGE-SECRET-KEY-1"
)


def looks_secret(name: str, value: str) -> bool:
    """Whether the name of a variable, or else its value, is like that of a secret."""
    if name not in _HARMLESS:
        for part in _PARTS.split(name.upper()):
            word = part.rstrip("0123456789")
            if word.endswith(_ENDS) or word in _WORDS:
                return True
    return _VALUE.search(value) is not None


def names_in(spec: Any) -> tuple[str, ...]:
    """List the variables of a spec, of its process and hooks, that look like secrets."""
    found = (_split(entry) for entry in _entries(spec))
    return tuple(sorted({name for name, value in found if looks_secret(name, value)}))


def masked(spec: Any) -> Any:
    """Return a spec with the values of these variables replaced by `MASK`.

    It may come from anywhere: lists named `env` are treated wherever they are.
    """
    if isinstance(spec, dict):
        return {
            key: [_masked(one) for one in value] if _is_env(key, value) else masked(value)
            for key, value in spec.items()
        }
    if isinstance(spec, list):
        return [masked(one) for one in spec]
    return spec


def _masked(entry: Any) -> Any:
    if not isinstance(entry, str):
        return masked(entry)
    name, value = _split(entry)
    return f"{name}={MASK}" if looks_secret(name, value) else entry


def _entries(spec: Any) -> Iterator[str]:
    if isinstance(spec, dict):
        for key, value in spec.items():
            if _is_env(key, value):
                yield from (one for one in value if isinstance(one, str))
            yield from _entries(value)
    elif isinstance(spec, list):
        for one in spec:
            yield from _entries(one)


def _is_env(key: str, value: Any) -> bool:
    return key == "env" and isinstance(value, list)


def _split(entry: str) -> tuple[str, str]:
    name, _, value = entry.partition("=")
    return name, value
