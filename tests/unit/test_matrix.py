from __future__ import annotations

from pathlib import Path

import pytest

from tests.matrix import Variant, diagonal, unit_of

ROOT = Path(__file__).parents[2]
LINES = ("1.6", "1.7", "2.1", "2.4")


def chosen(*variants: Variant) -> list[tuple[str, tuple[str, ...]]]:
    """Return the tests on the diagonal, each with its combination."""
    taken = diagonal(variants)
    return [(v.test, v.combination) for v, one in zip(variants, taken, strict=True) if one]


def lines(test: str, family: str = "f", *, in_every: bool = False) -> list[Variant]:
    """Return a test with each line of containerd."""
    return [Variant(family, test, (line,), in_every) for line in LINES]


def test_each_test_runs_once_and_each_combination_once() -> None:
    """Four tests with four lines are four runs, each with a line of its own."""
    variants = [each for test in "abcd" for each in lines(test)]

    assert chosen(*variants) == [("a", ("1.6",)), ("b", ("1.7",)), ("c", ("2.1",)), ("d", ("2.4",))]


def test_a_single_test_runs_with_every_combination() -> None:
    """A file with one test, or a run of one test, leaves no combination out."""
    assert [combination for _, combination in chosen(*lines("a"))] == [(line,) for line in LINES]


def test_combinations_take_turns() -> None:
    """With more tests than combinations none is used much more than another."""
    found = chosen(*(each for number in range(9) for each in lines(str(number))))

    counts = [sum(combination == (line,) for _, combination in found) for line in LINES]
    assert sorted(counts) == [2, 2, 2, 3]


def test_families_are_apart() -> None:
    """What one file has covered counts for no other file."""
    found = chosen(*lines("a", "f"), *lines("b", "g"))

    assert len(found) == 8


def test_what_has_no_combination_runs() -> None:
    """A test that no version is chosen for is always on the diagonal."""
    assert chosen(Variant("f", "a", ()), Variant("f", "b", ())) == [("a", ()), ("b", ())]


def test_a_test_that_depends_on_the_version_runs_with_each() -> None:
    """What is marked runs with every combination, and counts as cover for its file."""
    found = chosen(*lines("all", in_every=True), *lines("one"))

    assert found == [*(("all", (line,)) for line in LINES), ("one", ("1.6",))]


def test_a_combination_that_only_one_test_has() -> None:
    """What no test has taken by its turn is added."""
    variants = [
        Variant("f", "a", ("new", "phased")),
        Variant("f", "a", ("new", "builtin")),
        Variant("f", "b", ("new", "phased")),
    ]

    assert ("a", ("new", "builtin")) in chosen(*variants)
    assert {combination for _, combination in chosen(*variants)} == {
        ("new", "phased"),
        ("new", "builtin"),
    }


@pytest.mark.parametrize(
    ("nodeid", "unit"),
    (
        ("tests/unit/test_a.py::test_x[2.4-new]", "tests/unit/test_a.py"),
        ("tests/real/test_a.py::test_x", "tests/real/test_a.py"),
        ("tests/real/test_a.py::test_x[phased-old-2]", "tests/real/test_a.py old"),
        ("tests/real/test_a.py::test_new[renewed]", "tests/real/test_a.py"),
        ("tests/containerd/test_a.py::test_x[2.4-exit]", "tests/containerd 2.4"),
        ("tests/containerd/test_a.py::test_x[builtin]", "tests/containerd/test_a.py"),
        ("tests/faults/test_a.py::test_x[save-new-phased]", "tests/faults new-phased"),
        ("tests/faults/test_a.py::test_x[new-steps-exit]", "tests/faults new-steps"),
        ("tests/faults/test_a.py::test_a_seed_replays", "tests/faults/test_a.py"),
    ),
)
def test_units_of_work(nodeid: str, unit: str) -> None:
    """Tests that share a machine are one unit; all others are one by file."""
    assert unit_of(nodeid) == unit


def test_the_smoke_tests_exist() -> None:
    """Each line of tests/smoke.txt names a test function that is there."""
    names = (ROOT / "tests/smoke.txt").read_text("utf-8").split()

    assert 10 <= len(names) <= 25
    for name in names:
        path, _, function = name.partition("::")
        source = (ROOT / path).read_text("utf-8")
        assert f"def {function.partition('[')[0]}(" in source, name
