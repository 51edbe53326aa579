"""Which hooks run in which containers of a sandbox, and in what order. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from shim.errors import HookFailed
from shim.oci import pod
from shim.oci.app_hooks import PREFIX, Action, AppHookKind, Command, read_app_hooks
from shim.transaction.target import CheckpointTarget


@dataclass(frozen=True)
class HookCall:
    """A hook, and the container in which it runs."""

    container: CheckpointTarget
    action: Action
    timeout_s: float


class HookCalls:
    """The hooks of one sandbox: of its root container, then of the others by name."""

    def __init__(self, target: CheckpointTarget) -> None:
        self._target = target
        self._root = read_app_hooks(target.spec)
        self._members = [(one, read_app_hooks(one.spec)) for one in target.members]
        self._members.sort(key=lambda pair: pair[0].shown_name)

    def has(self, *kinds: AppHookKind) -> bool:
        """Whether there is a hook of one of these kinds."""
        every = (self._root, *(hooks for _, hooks in self._members))
        return any(hooks.kinds.intersection(kinds) for hooks in every)

    @property
    def timeouts_s(self) -> list[float]:
        """Return the timeout of each container's hooks."""
        return [self._root.timeout_s, *(hooks.timeout_s for _, hooks in self._members)]

    def of(self, kind: AppHookKind) -> list[HookCall]:
        """List the hooks of a kind, in order.

        Raises:
            HookFailed: it is unclear in which container one is to run.
        """
        return [*self._of_root(kind), *self._of_members(kind)]

    def _of_root(self, kind: AppHookKind) -> list[HookCall]:
        """Return the hook without a name: of a pod's it is not the sandbox's own container."""
        action, container = self._root.own.get(kind), self._target
        if action is None:
            return []
        if isinstance(action, Command) and pod.is_sandbox(self._target.spec):
            if len(self._members) != 1:
                count = len(self._members)
                message = f"the hook {kind} does not name one of the {count} containers"
                remedy = f"use the annotation {PREFIX}{kind}.CONTAINER"
                raise HookFailed(message, remedy=remedy)
            container = self._members[0][0]
        return [HookCall(container, action, self._root.timeout_s)]

    def _of_members(self, kind: AppHookKind) -> list[HookCall]:
        """Return the hooks that name a member, and those that only a member's annotations have."""
        found = []
        for one, hooks in self._members:
            named, own = self._root.named.get((kind, one.shown_name)), hooks.own.get(kind)
            if named is not None:
                found.append(HookCall(one, named, self._root.timeout_s))
            elif own is not None and own != self._root.own.get(kind):
                found.append(HookCall(one, own, hooks.timeout_s))
        return found
