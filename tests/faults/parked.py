"""Faults while a task is parked, or brought back from there."""

from __future__ import annotations

from concurrent.futures import Future
from typing import Any

import pytest

from shim.errors import CudaError, ResourceExhausted
from shim.state import TaskState
from tests.faults.judge import TASK
from tests.faults.plan import Scene, What
from tests.faults.trial import Trial


class ParkTrial(Trial):
    """A trial whose task is parked or runs when all is over, and never anything between."""

    def _prepare(self) -> None:
        if self._plan.scene is not Scene.PARK:
            self._rig.client.pause(TASK)

    def _begin(self) -> Future[Any]:
        if self._plan.scene is Scene.SAVE_PARKED:
            return self._rig.begin(self._image, exit=False)
        client = self._rig.client
        do = client.pause if self._plan.scene is Scene.PARK else client.resume
        return self._rig.run(lambda: do(TASK))

    def _judge_image(self, with_image: str, without: str) -> None:
        """Judge the image of a checkpoint. What moves in memory alone has none.

        Its task may be killed from outside when all was done, and there is nothing to report to.
        """
        if self._plan.scene is Scene.SAVE_PARKED:
            super()._judge_image(with_image, without)
            return
        assert not self._has_image()
        self._fail(without)

    def _judge_running(self) -> None:
        if self._wounded:
            self._judge_wounded()
            return
        if self._plan.what is What.GPU_FULL and self._error is not None:
            self._judge_given_up()
            return
        if self._plan.scene is Scene.SAVE_PARKED:
            self._judge_saved()
            return
        asked = TaskState.PAUSED if self._plan.scene is Scene.PARK else TaskState.RUNNING
        found = self._rig.state()
        if self._error is None:
            assert found is asked, found
        self._fail("parked" if found is TaskState.PAUSED else "runs")
        if found is TaskState.PAUSED:
            self._resume()
        self._rig.assert_unharmed(saved=False)
        self._rig.know_fine()

    def _resume(self) -> None:
        assert self._rig.sim.held_bytes() == 0, "it is said to be parked, and holds GPU memory"
        self._rig.client.resume(TASK)

    def _judge_saved(self) -> None:
        """Judge a parked task of which an image was to be made: it is parked as before."""
        assert self._rig.state() is TaskState.PAUSED
        self._resume()
        self._rig.assert_unharmed(saved=False)
        self._rig.know_fine()
        self._judge_image("parked, and an image", "parked")

    def _judge_given_up(self) -> None:
        """Judge a task whose GPU memory went to another between the look at it and its thaw.

        The driver has given a process up permanently; each resume says so.
        """
        assert self._plan.scene is Scene.UNPARK
        assert isinstance(self._error, ResourceExhausted), self._error
        assert self._rig.state() is TaskState.PAUSED
        [view] = self._rig.client.list()
        assert "could not go on" in view.warning
        with pytest.raises(CudaError, match="could not restore process"):
            self._rig.client.resume(TASK)
        self._rig.remove(TASK)
        self._rig.assert_clean()
        self._fail("given up by the driver, and reported")
