"""Runs random operations on many tasks in parallel."""

from __future__ import annotations

import random
import threading
from collections import Counter
from pathlib import Path

from shim.client import Client
from shim.errors import CryoError
from shim.model import CheckpointOptions, RestoreOptions
from shim.simgpu.simulation import Settings, Simulation
from shim.state import TaskState

_KILL = 9


class Member:
    """One task, with random operations that are valid in its state."""

    def __init__(self, sim: Simulation, name: str, rng: random.Random, *, gpu: bool) -> None:
        self._client = Client(sim.address)
        self._name = name
        self._rng = rng
        self._image = sim.image(f"crowd-{name}")
        # A long period, since two hundred busy tasks would leave no CPU time for the operations.
        settings = Settings(gpu=gpu, period_s=4.0, memory_bytes=1 << 16, file_bytes=1 << 16)
        self._bundle = sim.bundle(name, settings, inject_tool=False)
        self._saved = False

    def step(self) -> str:
        """Perform one operation and return its name."""
        known = {view.id: view.state for view in self._client.list()}
        choices = self._choices(known.get(self._name))
        name = self._rng.choice(choices)
        getattr(self, f"_{name}")()
        return name

    def _choices(self, state: TaskState | None) -> list[str]:
        if state is None:
            return ["restore", "restore", "create"] if self._saved else ["create"]
        if state is TaskState.CREATED:
            return ["start"]
        if state is TaskState.PAUSED:
            return ["resume", "save"]
        if state is TaskState.RUNNING:
            return ["save", "save", "save_and_stop", "pause", "kill"]
        return ["delete"]

    def _create(self) -> None:
        self._client.create(self._name, str(self._bundle))

    def _start(self) -> None:
        self._client.start(self._name)

    def _save(self, *, exit_: bool = False) -> None:
        if self._saved:
            self._client.remove(str(self._image))
            self._saved = False
        self._client.checkpoint(
            self._name, CheckpointOptions(image_path=str(self._image), exit=exit_)
        )
        self._saved = True

    def _save_and_stop(self) -> None:
        self._save(exit_=True)

    def _restore(self) -> None:
        options = RestoreOptions(image_path=str(self._image), bundle=str(self._bundle))
        self._client.restore(self._name, options)

    def _pause(self) -> None:
        self._client.pause(self._name)

    def _resume(self) -> None:
        self._client.resume(self._name)

    def _kill(self) -> None:
        self._client.kill(self._name, _KILL)
        self._client.wait(self._name)

    def _delete(self) -> None:
        self._client.delete(self._name)

    def end(self) -> None:
        """Remove the task and its image."""
        if self._name in {view.id for view in self._client.list()}:
            if self._client.state(self._name).state is not TaskState.STOPPED:
                self._client.kill(self._name, _KILL)
                self._client.wait(self._name)
            self._client.delete(self._name)
        if self._saved:
            self._client.remove(str(self._image))
        self._client.close()


class Crowd:
    """Many members, and the worker threads that run their operations."""

    def __init__(self, sim: Simulation, count: int, gpus: int, seed: int) -> None:
        self._rng = random.Random(seed)  # noqa: S311 - no secret
        self._lock = threading.Lock()
        self._free = [self._member(sim, number, gpu=number < gpus) for number in range(count)]
        self.done: Counter[str] = Counter()
        self.failures: list[str] = []
        self._over = threading.Event()

    def _member(self, sim: Simulation, number: int, *, gpu: bool) -> Member:
        rng = random.Random(self._rng.random())  # noqa: S311 - no secret
        return Member(sim, f"t{number}", rng, gpu=gpu)

    def begin(self, workers: int) -> list[threading.Thread]:
        """Start the workers."""
        threads = [threading.Thread(target=self._work, daemon=True) for _ in range(workers)]
        for thread in threads:
            thread.start()
        return threads

    def stop(self) -> None:
        """Stop the workers after their current operations."""
        self._over.set()

    def _work(self) -> None:
        while not self._over.is_set():
            with self._lock:
                member = self._free.pop(self._rng.randrange(len(self._free)))
            try:
                step = member.step()
                with self._lock:
                    self.done[step] += 1
            except CryoError as error:
                with self._lock:
                    self.failures.append(f"{type(error).__name__}: {error}")
            finally:
                with self._lock:
                    self._free.append(member)

    def end(self) -> None:
        """Remove every task."""
        for member in self._free:
            member.end()


def leftovers(sim: Simulation) -> list[Path]:
    """List the remaining images and task directories."""
    return [*sim.folder.glob("images/*"), *sim.folder.glob("state/tasks/*/*")]
