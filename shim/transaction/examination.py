"""What a checkpoint of a sandbox would meet: its survey, with every answer instead of the first.

Nothing is frozen, paused, resumed or written; programs look for CUDA processes in the containers,
as they do before a checkpoint.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import replace
from pathlib import Path

from shim.config import Defaults
from shim.errors import CryoError
from shim.finding import Finding
from shim.host.filecalls import file_call
from shim.host.sizes import size
from shim.image import store
from shim.image.images import Images
from shim.image.named import Fingerprint
from shim.model import CheckpointOptions, Progress, Stage, utcnow
from shim.transaction import answers, host_settings, preflight, questions, stage_choice
from shim.transaction.checkpoint import chosen
from shim.transaction.execs import ExecCheck
from shim.transaction.journal import Operation, UnwrittenJournal
from shim.transaction.preflight import Disk
from shim.transaction.questions import Question
from shim.transaction.stage_choice import Choice
from shim.transaction.survey import Findings, Survey
from shim.transaction.target import CheckpointTarget, combined

_about: ContextVar[Question] = ContextVar("what is asked", default=questions.STATE)


class _NotLooked(Exception):
    """What a checkpoint would look at, and an examination cannot without a change."""

    def __init__(self, message: str, *, remedy: str) -> None:
        super().__init__(message)
        self.remedy = remedy


class Noting:
    """The judge of an examination: it notes what is refused and warned of, and changes nothing."""

    def __init__(self, target: CheckpointTarget) -> None:
        self._target = target
        self.found: list[Finding] = []
        self.disk: Disk | None = None

    @contextlib.contextmanager
    def about(self, question: Question) -> Iterator[None]:
        """Note a refusal within the block, and go on after it."""
        token = _about.set(question)
        try:
            yield
        except _NotLooked as error:
            self._add(question.topic.warning(str(error), error.remedy))
        except CryoError as error:
            remedy = error.remedy or question.remedy
            self._add(question.topic.failure(error.message, remedy))
        finally:
            _about.reset(token)

    def warn(self, *warnings: str) -> None:
        """Note warnings of what is asked at the moment."""
        question = _about.get()
        for text in warnings:
            self._add(question.topic.warning(text, question.remedy))

    def report(self, progress: Progress) -> None:
        """Note the warnings among progress."""
        if progress.warning:
            self.warn(progress.message)

    async def resume(self) -> None:
        """Leave a paused sandbox paused.

        Raises:
            _NotLooked: it is, so no program can look into it.
        """
        if self._target.paused_ids:
            message = "the task is paused, so its CUDA processes cannot be looked at"
            raise _NotLooked(
                message, remedy="resume it, and ask again; a checkpoint does so itself"
            )

    async def make_room(self, needed_bytes: int, folder: Path, disk: Disk) -> Disk:
        """Say which images would be removed; return the disk as it would be then."""
        removals = await Images(self._target.config).removed_for(needed_bytes, folder)
        freed = sum(one.size_bytes for one in removals)
        if removals:
            text = f"a checkpoint removes {len(removals)} images with {size(freed)} for the new one"
            self.warn(text)
        self.disk = disk._replace(free_bytes=disk.free_bytes + freed)
        return self.disk

    def host_warnings(self) -> tuple[str, ...]:
        """Return the warnings of settings of the host."""
        return host_settings.warnings(self._target.config)

    def has(self, question: Question) -> bool:
        """Whether something was refused or warned of about a question."""
        names = (question.topic.area, question.topic.name)
        return any((one.area, one.subject) == names for one in self.found)

    def _add(self, finding: Finding) -> None:
        if finding not in self.found:
            self.found.append(finding)


class Examination:
    """Asks of one sandbox what a checkpoint with these options would ask."""

    def __init__(self, target: CheckpointTarget, options: CheckpointOptions) -> None:
        """Take a sandbox that nothing else changes meanwhile."""
        journal = UnwrittenJournal(target.journal)
        self._target = combined(replace(target, journal=journal), target.members)
        self._options = options
        self._policy: Defaults = chosen(options, target.config.defaults)
        self._judge = Noting(self._target)

    async def run(self, fingerprint: Fingerprint) -> tuple[Finding, ...]:
        """Return an answer to every question; `fingerprint` is that of the sandbox's container."""
        self._open()
        folder = Path(self._target.config.paths.images)
        found, choice = None, None
        with self._judge.about(questions.DISK):
            folder = await self._folder()
        with self._judge.about(questions.STATE):
            found = await self._survey(folder)
        if found is not None:
            with self._judge.about(questions.STAGE):
                choice = await self._stage(found, folder)
        with self._judge.about(questions.HOOKS):
            self._hooks()
        return self._all(found, choice, fingerprint)

    def _open(self) -> None:
        journal = self._target.journal
        if journal.parked:
            journal.open_from_park("", exit=self._options.exit)
        else:
            paused = bool(self._target.paused_ids)
            journal.open(Operation.CHECKPOINT, "", was_paused=paused, exit=self._options.exit)

    async def _folder(self) -> Path:
        """Return the folder of the image.

        Raises:
            CryoError: no image can be made there.
        """
        config = self._target.config
        path = await file_call(
            lambda: store.resolve_new("", Path(config.paths.images), self._target.ref, utcnow()),
            doing=f"look at {config.paths.images}",
        )
        return path.parent

    async def _survey(self, folder: Path) -> Findings:
        policy, options = self._policy, self._options
        execs = ExecCheck(
            self._target,
            policy.exec_processes,
            self._judge.warn,
            exit=options.exit,
            traces=False,
        )
        survey = Survey(self._target, policy, self._judge, execs, for_copies=options.for_copies)
        await survey.check()
        return await survey.run(folder)

    def _hooks(self) -> None:
        """Say which hooks run.

        Raises:
            HookFailed: it is unclear in which container one is to run.
        """
        text = answers.hooks(self._target)
        if self._target.paused_ids and text != answers.NONE:
            self._judge.warn("the task is paused, so its hooks are not run")
        else:
            self._judge.found.append(questions.HOOKS.topic.ok(text))

    async def _stage(self, found: Findings, folder: Path) -> Choice:
        """Choose where a save goes to first, as a checkpoint does."""
        wanted = self._policy.stage or Stage.AUTO
        if wanted is Stage.DISK:
            return Choice(Stage.DISK, "as requested")
        place = preflight.existing(folder)
        room = await file_call(
            lambda: stage_choice.measure(self._target, place), doing="measure the memory"
        )
        image, device = found.image_bytes, found.device_bytes
        return stage_choice.choose(wanted, self._options, room, image, device)

    def _all(
        self, found: Findings | None, choice: Choice | None, fingerprint: Fingerprint
    ) -> tuple[Finding, ...]:
        """Add what is well, in the order of the questions."""
        judge, said = self._judge, answers.Answers(self._target, found, self._judge.disk)
        texts = said.well(choice, fingerprint)
        well = [question.topic.ok(text) for question, text in texts if not judge.has(question)]
        order = [question.topic.name for question in answers.ORDER]
        return tuple(sorted([*judge.found, *well], key=lambda one: order.index(one.subject)))
