"""Python source as a tree, for tests that read the code."""

from __future__ import annotations

import ast
import gc


def parsed(source: str) -> ast.Module:
    """Parse a module.

    The collector waits: an object whose end logs a traceback parses too, and CPython before 3.11.8
    and 3.12.2 cannot do that twice at once (gh-106905, a SystemError).
    """
    gc.disable()
    try:
        return ast.parse(source)
    finally:
        gc.enable()
