"""What a sidecar loads only where it is configured: metrics, and the page."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from shim.config import Config
from shim.errors import Unimplemented

if TYPE_CHECKING:
    from shim.metrics.sidecar import SidecarMetrics
    from shim.page.sidecar import SidecarPage
    from shim.service.shims import Shims
    from shim.task.tasks import Tasks


def metrics(config: Config, tasks: Tasks, shims: Shims) -> SidecarMetrics | None:
    """Make the metrics if they are configured; without, nothing of them is loaded."""
    if not config.metrics.address:
        return None
    from shim.metrics.sidecar import SidecarMetrics

    return SidecarMetrics(config, tasks, shims)


def page(config: Config, settings_path: str) -> SidecarPage | None:
    """Make the page if it is configured; without, nothing of it is loaded.

    Raises:
        Unimplemented: the packages that it needs are not installed.
    """
    if not config.http.address:
        return None
    try:
        from shim.page.sidecar import SidecarPage
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] == "shim":
            raise
        message = f"the page at {config.http.address} needs the Python package {error.name}"
        remedy = f"{sys.executable} -m pip install 'cryoshim[page]'"
        raise Unimplemented(message, remedy=remedy) from error
    return SidecarPage(config, settings_path)
