"""The process that owns tasks: its context, from `enter` to `leave`."""

from __future__ import annotations

from shim.config import Config
from shim.errors import Unavailable
from shim.runsc.probe import Capabilities
from shim.runsc.prober import Prober
from shim.task.context import Context, Publish
from shim.task.runtime_env import RuntimeEnv


class Owner:
    """Makes the context of this process's tasks, available from `enter` to `leave`."""

    def __init__(self, config: Config, publish: Publish, runtime_env: RuntimeEnv) -> None:
        self.address = runtime_env.address
        self.adopts = runtime_env.adopts
        self.is_closing = False
        self._config = config
        self._publish = publish
        self._runtime_env = runtime_env
        self._context: Context | None = None

    async def enter(self) -> Context:
        """Lock the state folder, reach the supervisor, and make the context.

        Raises:
            AlreadyExists: another process owns the folder.
            Unavailable: the supervisor does not start.
        """
        layout, supervisor = await self._runtime_env.enter()
        runsc = self._config.runsc
        self._context = Context(
            config=self._config,
            layout=layout,
            supervisor=supervisor,
            prober=Prober(runsc.binary, layout.known_runsc, runsc.flags),
            publish=self._publish,
        )
        return self._context

    def context(self) -> Context:
        """Return the context.

        Raises:
            Unavailable: there is none yet, or the process is closing.
        """
        if self._context is None or self.is_closing:
            message = "the sidecar is " + ("stopping" if self.is_closing else "not ready")
            raise Unavailable(message, remedy="try again in a moment")
        return self._context

    async def capabilities(self) -> Capabilities:
        """Return what the configured runsc can do.

        Raises:
            Unavailable: there is no runsc, or no context.
        """
        return await self.context().capabilities()

    async def leave(self) -> None:
        """End the background work, and let another process own the tasks."""
        if self._context is not None:
            await self._context.background.aclose()
            await self._context.supervisor.close()
        self._runtime_env.leave()
