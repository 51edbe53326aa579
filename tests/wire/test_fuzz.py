"""The fuzzer of `make fuzz`: a short run finds nothing, and one with a fault in it does."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from pathlib import Path

import pytest

from hack import fuzz
from hack.fuzzing import corpus
from hack.fuzzing.mutate import Mutator
from hack.fuzzing.parser import Parser
from shim.service import task_messages


@pytest.fixture
def findings(tmp_path: Path) -> fuzz.Findings:
    """Give a place for what is found."""
    return fuzz.Findings(tmp_path)


def mutator(seed: int = 1) -> Mutator:
    """Make a mutator that changes things in the same way each time."""
    return Mutator(random.Random(seed))


def test_every_parser_refuses_by_a_typed_error(findings: fuzz.Findings) -> None:
    """Whatever files and programs say, nothing else comes out of reading it."""
    done = fuzz.parsers(3000, mutator(), findings, "")

    assert findings.lines == []
    assert set(done) >= {one.name for one in corpus.parsers(findings.scratch)}


def test_the_server_survives(findings: fuzz.Findings) -> None:
    """After each connection of garbled requests it serves the next one."""
    done = asyncio.run(fuzz.frames(2000, mutator(), findings))

    assert findings.lines == []
    assert done["frames"] == 2000
    assert done["frames answered"] > 1000


def test_what_breaks_a_parser_is_found(
    findings: fuzz.Findings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error of another kind is a finding, kept as a file that does it again."""
    weak = Parser("weak", [b"1"], lambda data: int(data.decode("ascii")))
    monkeypatch.setattr(corpus, "parsers", lambda _folder: [weak])

    fuzz.parsers(50, mutator(), findings, "")

    assert findings.lines
    kept = Path(findings.lines[0].rpartition(": ")[2])
    with pytest.raises(ValueError):  # noqa: PT011 - int and decode say different things
        weak.read(kept.read_bytes())


def test_what_breaks_the_server_is_found(
    findings: fuzz.Findings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error that is no response of ours is detected, though the server goes on."""

    def broken(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(task_messages, "to_state", broken)
    monkeypatch.setattr(task_messages, "from_create", broken)

    done: Counter[str] = asyncio.run(fuzz.frames(200, mutator(), findings))

    assert done["frames"] == 200
    assert any("ZeroDivisionError" in line for line in findings.lines)


def test_a_seed_replays(findings: fuzz.Findings) -> None:
    """The same seed makes the same inputs."""
    seeds = corpus.parsers(findings.scratch)[1].seeds

    assert mutator(3).mutate(seeds) == mutator(3).mutate(seeds)
    assert mutator(3).reshape(seeds) == mutator(3).reshape(seeds)
