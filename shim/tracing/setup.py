"""Makes the tracer of a process where the environment asks for it; loads nothing otherwise."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping

from shim.host import trace_context
from shim.host.trace_context import Tracer

_WANTED = (
    "OTEL_EXPORTER_OTLP_ENDPOINT",
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
    "OTEL_TRACES_EXPORTER",
)
INSTALL = "pip install 'cryoshim[tracing]'"

_was_set_up = False


def is_wanted(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether the environment asks for traces, in the variables of OpenTelemetry's SDK."""
    disabled = environ.get("OTEL_SDK_DISABLED", "").lower() == "true"
    if disabled or environ.get("OTEL_TRACES_EXPORTER") == "none":
        return False
    return any(environ.get(name) for name in _WANTED)


def preload() -> None:
    """Load what makes spans, if the environment asks for it, for processes that are forked."""
    if is_wanted():
        _load()


def set_up(service: str) -> None:
    """Make the tracer of this process, once, if the environment asks for it.

    What it has left is sent at the exit of the interpreter, or by `trace_context.close`.
    """
    global _was_set_up  # noqa: PLW0603 - one for the process
    if _was_set_up or not is_wanted():
        return
    _was_set_up = True
    import atexit  # noqa: PLC0415 - what only traces need is loaded with them
    import logging  # noqa: PLC0415 - as above

    make = _load()
    if make is None:
        text = "OTEL_* asks for traces, and their packages are missing: %s"
        logging.getLogger(__name__).warning(text, INSTALL)
        return
    trace_context.install(make(service))
    atexit.register(trace_context.close)


def _load() -> Callable[[str], Tracer] | None:
    """Load the module of the tracer; None if its packages are missing."""
    try:
        from shim.tracing.tracer import make  # noqa: PLC0415 - only where it is wanted
    except ModuleNotFoundError as error:
        if not (error.name or "").startswith("opentelemetry"):
            raise
        return None
    return make
