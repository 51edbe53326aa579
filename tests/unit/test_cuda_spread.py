"""The GPUs that the copies of an image get."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from hypothesis import given
from hypothesis import strategies as st

from shim.cuda.inventory import Gpu
from shim.cuda.spread import GpuSpread

GIB = 1 << 30


def gpus(names: str, *, model: str = "H100", first: int = 0) -> list[Gpu]:
    """Return a GPU for each letter."""
    return [Gpu(uuid=name, model=model, minor=first + at) for at, name in enumerate(names)]


def targets(spread: GpuSpread, count: int) -> list[str]:
    """Return where the processes of the next copies run."""
    return ["".join(spread.gpus_of(spread.next())) for _ in range(count)]


def test_copies_take_turns() -> None:
    """Each copy of a process on one GPU gets another, the freest first."""
    free = {"a": GIB, "b": 3 * GIB, "c": 2 * GIB}
    spread = GpuSpread(gpus("abc"), ["a"], gpus("abc"), free)

    assert targets(spread, 7) == ["b", "c", "a", "b", "c", "a", "b"]


def test_a_map_covers_every_gpu() -> None:
    """The driver wants one for each GPU that is visible; those that are not used stay."""
    spread = GpuSpread(gpus("abc"), ["a"], gpus("abc"), {"c": 1})

    assert spread.next() == {"a": "c", "b": "b", "c": "a"}
    assert spread.next() == {}
    assert spread.next() == {"a": "b", "b": "a", "c": "c"}


def test_several_gpus_for_a_copy() -> None:
    """Pairs are disjoint as long as there are unused ones."""
    spread = GpuSpread(gpus("abcd"), ["a", "b"], gpus("abcd"), {})

    assert targets(spread, 3) == ["ab", "cd", "ab"]


def test_another_host() -> None:
    """GPUs of the same numbers stand for those of the image."""
    spread = GpuSpread(gpus("ab"), ["b"], gpus("xyz"), {})

    assert [spread.next(), spread.next()] == [{"b": "x", "a": "y"}, {"b": "y", "a": "x"}]


def no_choice(saved: Iterable[Gpu], used: str, host: Iterable[Gpu]) -> bool:
    """Whether every copy gets the GPUs of the image."""
    spread = GpuSpread([*saved], [*used], [*host], {})
    return not spread.has_choice and spread.next() == {} and targets(spread, 1) == [used]


def test_no_choice() -> None:
    """Nothing is mapped if the image uses all GPUs, or this host has too few like them."""
    assert no_choice(gpus("ab"), "ab", gpus("ab"))
    assert no_choice(gpus("ab"), "a", gpus("a"))
    assert no_choice(gpus("ab"), "a", [*gpus("a"), *gpus("b", model="A100", first=1)])
    assert no_choice(gpus("ab"), "a", gpus("xy", first=2))
    assert no_choice([*gpus("a"), *gpus("b", model="A100", first=1)], "a", gpus("ab"))
    assert no_choice([], "", gpus("ab"))


@given(
    count=st.integers(1, 8),
    used=st.sets(st.integers(0, 7), min_size=1),
    free=st.lists(st.integers(0, 3), min_size=8, max_size=8),
    moved=st.booleans(),
)
def test_any_spread(count: int, used: set[int], free: list[int], *, moved: bool) -> None:
    """Every map is one to one, and no GPU has two copies more than another."""
    names, here = "abcdefgh"[:count], ("ABCDEFGH" if moved else "abcdefgh")[:count]
    chosen = [names[at] for at in sorted(used) if at < count]
    spread = GpuSpread(gpus(names), chosen, gpus(here), dict(zip(here, free, strict=False)))
    copies: Counter[str] = Counter(dict.fromkeys(here, 0))
    for _ in range(2 * count):
        found = spread.next()
        if found:
            assert sorted(found) == sorted(names)
            assert sorted(found.values()) == sorted(here)
        copies.update(spread.gpus_of(found))
    if spread.has_choice:
        assert max(copies.values()) - min(copies.values()) <= 1
