"""Which combinations of runsc, engine and containerd a test runs with, and on which worker.

`make test` runs the diagonal: each test with one combination, and each combination of a file at
least once. `--all` runs every combination, and the tests that are marked `long`. A test whose
result depends on the version is marked `every_combination`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import pytest

# The arguments of a test that say what it runs against; `machine` is a case of tests.faults.
AXES = ("runsc", "engine", "containerd_build", "machine")

# The part of a test's id that says which machine it needs, by folder.
_MACHINES = {
    "tests/real": re.compile(r"(?<![^-\[])(?:new|old)(?![^-\]])"),
    "tests/faults": re.compile(r"(?<![^-\[])(?:new|old)-(?:phased|builtin|steps)(?=-|\]$)"),
    "tests/containerd": re.compile(r"(?<![^-\[])[12]\.\d(?![^-\]])"),
    "tests/kubernetes": re.compile(r"(?<![^-\[])[12]\.\d(?![^-\]])"),
}
# There the workers share no machine: the tests of one file, which may have its own, run on one.
_ONE_PER_FILE = "tests/real"


@dataclass(frozen=True)
class Variant:
    """A test with one set of arguments."""

    family: str
    """Its file."""
    test: str
    """Its function, with the arguments that are no axis."""
    combination: tuple[str, ...]
    """The arguments that are axes; empty for a test that has none."""
    in_every: bool = False
    """Whether the test runs with every combination."""


def diagonal(variants: Sequence[Variant]) -> list[bool]:
    """Return for each variant whether it is on the diagonal.

    Each test takes the combination that its file has used least. A combination that no test of the
    file has taken then is added to the first test that has it.
    """
    chosen = [not each.combination or each.in_every for each in variants]
    used = Counter(
        (each.family, each.combination)
        for each, taken in zip(variants, chosen, strict=True)
        if taken
    )

    def take(index: int) -> None:
        chosen[index] = True
        used[variants[index].family, variants[index].combination] += 1

    def uses(index: int) -> int:
        return used[variants[index].family, variants[index].combination]

    tests: dict[tuple[str, str], list[int]] = {}
    for index, each in enumerate(variants):
        if not chosen[index]:
            tests.setdefault((each.family, each.test), []).append(index)
    for indices in tests.values():
        take(min(indices, key=uses))
    for index, taken in enumerate(chosen):
        if not taken and not uses(index):
            take(index)
    return chosen


def variant_of(item: pytest.Item) -> Variant:
    """Describe a collected test; one that runs no real program has no combination."""
    call = getattr(item, "callspec", None)
    real = item.nodeid.startswith(tuple(f"{folder}/" for folder in _MACHINES))
    params: dict[str, object] = call.params if real and call is not None else {}
    others = ",".join(f"{key}={value!r}" for key, value in params.items() if key not in AXES)
    return Variant(
        family=item.nodeid.partition("::")[0],
        test=f"{item.nodeid.partition('[')[0]}[{others}]",
        combination=tuple(f"{axis}={params[axis]}" for axis in AXES if axis in params),
        in_every=item.get_closest_marker("every_combination") is not None,
    )


def select(items: Iterable[pytest.Item]) -> tuple[list[pytest.Item], list[pytest.Item]]:
    """Return the tests that run without `--all`, and those that do not."""
    short: list[pytest.Item] = []
    left: list[pytest.Item] = []
    for item in items:
        (left if item.get_closest_marker("long") else short).append(item)
    chosen = diagonal([variant_of(item) for item in short])
    left += [item for item, taken in zip(short, chosen, strict=True) if not taken]
    return [item for item, taken in zip(short, chosen, strict=True) if taken], left


def unit_of(nodeid: str) -> str:
    """Return the unit of work that a test belongs to; all tests of a unit run on one worker.

    A unit is a file. Where the tests of a file need several machines, such as a containerd of each
    line, it is what shares one of them, so that a worker starts no machine twice.
    """
    path, _, rest = nodeid.partition("::")
    folder = path.rpartition("/")[0]
    found = _MACHINES[folder].search(rest, rest.rfind("[")) if folder in _MACHINES else None
    if found is None or "[" not in rest:
        return path
    return f"{path if folder == _ONE_PER_FILE else folder} {found.group()}"
