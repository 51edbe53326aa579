"""Which images a policy removes: decided from plain values."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shim.config import Store
from shim.errors import InvalidArgument
from shim.image import retention
from shim.image.retention import Policy, PruneOptions, Space, StoredImage, decide

NOW = datetime(2026, 11, 29, 12, 0, tzinfo=UTC)
SPACE = Space(free_bytes=1000)


def at(hours: float) -> datetime:
    """Return a time so long before now."""
    return NOW - timedelta(hours=hours)


def image(name: str, hours: float, **more: Any) -> StoredImage:
    """Make an image of 10 bytes that was made, and last used, so long ago."""
    given = {"groups": ("t",), "size_bytes": 10, "created_at": at(hours), "used_at": at(hours)}
    return StoredImage(path=Path(name), **{**given, **more})


def removed(images: list[StoredImage], policy: Policy, **more: Any) -> list[str]:
    """Return the names of what is removed, in order."""
    plan = decide(images, policy, NOW, more.pop("space", SPACE), **more)
    return [str(one.path) for one in plan.removals]


def test_without_limits_nothing_is_removed() -> None:
    """However many and old they are."""
    assert removed([image(str(n), n * 1000) for n in range(100)], Policy()) == []


def test_expired() -> None:
    """At its own time, or when it was not used for the time of the policy; longest unused first."""
    images = [
        image("fresh", 1),
        image("old", 30),
        image("used", 90, used_at=at(2)),
        image("own", 1, expires_at=at(0)),
        image("later", 1, expires_at=at(-1)),
        image("oldest", 40),
        image("pinned", 50, kept="pinned"),
    ]

    assert removed(images, Policy(ttl_s=24 * 3600)) == ["oldest", "old", "own"]
    assert removed(images, Policy()) == ["own"]


def test_beyond_the_last_of_a_group() -> None:
    """The newest of each group stay; one of several groups stays for any of them."""
    images = [
        image("a1", 1),
        image("a2", 2),
        image("a3", 3),
        image("both", 4, groups=("t", "u")),
        image("u2", 5, groups=("u",)),
        image("u3", 6, groups=("u",)),
        image("held", 7, kept="in use"),
    ]

    assert removed(images, Policy(keep_last=2)) == ["u3", "a3"]
    assert removed(images, Policy(keep_last=1)) == ["u3", "u2", "a3", "a2"]


def test_what_has_expired_is_none_of_the_last() -> None:
    """Of two where one has expired, one is left of the last two."""
    images = [image("new", 1, expires_at=at(0)), image("b", 2), image("c", 3), image("d", 4)]

    assert removed(images, Policy(keep_last=2)) == ["new", "d"]


def test_pinned_images_count() -> None:
    """A pinned one is one of the last, and older pinned ones stay as well."""
    images = [image("a", 1, kept="pinned"), image("b", 2), image("c", 3, kept="pinned")]

    assert removed(images, Policy(keep_last=1)) == ["b"]


@pytest.mark.parametrize(
    ("quota", "gone"),
    ((40, []), (39, ["c"]), (30, ["c"]), (20, ["c", "a"]), (11, ["c", "a", "d"])),
)
def test_a_quota(quota: int, gone: list[str]) -> None:
    """The longest unused go first, only as many as are needed, and never what is kept."""
    images = [
        image("a", 5),
        image("b", 9, kept="pinned"),
        image("c", 7, used_at=at(6)),
        image("d", 8, used_at=at(1)),
    ]

    assert removed(images, Policy(quota_bytes=quota)) == gone


def test_a_limit_that_cannot_be_kept_removes_nothing() -> None:
    """Another program may have filled the disk: the images are not removed in vain."""
    images = [image("a", 5), image("b", 9, kept="pinned")]

    plan = decide(images, Policy(quota_bytes=5), NOW, SPACE)
    assert (plan.removals, plan.missing_bytes) == ((), 15)
    plan = decide(images, Policy(min_free_bytes=1011), NOW, SPACE)
    assert (plan.removals, plan.missing_bytes) == ((), 11)


def test_free_space() -> None:
    """What is removed counts as free."""
    images = [image("a", 5), image("b", 9)]

    assert removed(images, Policy(min_free_bytes=1000)) == []
    assert removed(images, Policy(min_free_bytes=1001)) == ["b"]
    assert removed(images, Policy(min_free_bytes=1020)) == ["b", "a"]


def test_images_that_are_written() -> None:
    """They count with their expected size, on the disk as far as it is not written."""
    images = [image("a", 5), image("b", 9)]
    space = Space(free_bytes=1000, unfinished_bytes=50, unwritten_bytes=30, needed_bytes=5)

    assert removed(images, Policy(quota_bytes=75), space=space) == []
    assert removed(images, Policy(quota_bytes=74), space=space) == ["b"]
    assert removed(images, Policy(min_free_bytes=965), space=space) == []
    assert removed(images, Policy(min_free_bytes=966), space=space) == ["b"]


def test_only_for_room() -> None:
    """What has expired goes first, and stays if there is room without."""
    images = [image("a", 5), image("b", 9), image("e", 1, expires_at=at(0))]
    room = {"only_for_room": True}

    assert removed(images, Policy(quota_bytes=30, keep_last=1), **room) == []
    assert removed(images, Policy(quota_bytes=25), **room) == ["e"]
    assert removed(images, Policy(quota_bytes=15, keep_last=1), **room) == ["e", "b"]
    assert removed(images, Policy(quota_bytes=15, keep_last=1)) == ["e", "b"]


@settings(deadline=None)
@given(st.data())
def test_any_policy(data: st.DataObject) -> None:
    """Nothing kept is removed, nothing twice, and the limits hold or what is missing is named."""
    number = data.draw(st.integers(0, 12))
    images = [
        image(
            str(at_),
            data.draw(st.integers(0, 100)),
            size_bytes=data.draw(st.integers(0, 50)),
            groups=tuple(data.draw(st.sets(st.sampled_from("abc"), min_size=1))),
            kept=data.draw(st.sampled_from([None, None, "pinned"])),
            expires_at=data.draw(st.sampled_from([None, at(1), at(-1)])),
        )
        for at_ in range(number)
    ]
    some = st.none() | st.integers(0, 300)
    policy = Policy(
        quota_bytes=data.draw(some),
        keep_last=data.draw(st.none() | st.integers(1, 4)),
        ttl_s=data.draw(st.none() | st.integers(1, 300_000)),
        min_free_bytes=data.draw(some),
    )
    free = data.draw(st.integers(0, 300))
    plan = decide(images, policy, NOW, Space(free_bytes=free))
    gone = {one.path for one in plan.removals}
    left = [one for one in images if one.path not in gone]

    assert len(gone) == len(plan.removals)
    assert not gone & {one.path for one in images if one.kept}
    assert all(one.reason for one in plan.removals)
    used = sum(one.size_bytes for one in left)
    freed = sum(one.size_bytes for one in images) - used
    if policy.quota_bytes is not None:
        assert used <= policy.quota_bytes + plan.missing_bytes
    if policy.min_free_bytes is not None:
        assert free + freed + plan.missing_bytes >= policy.min_free_bytes
    if not policy.limits_space:
        assert plan.missing_bytes == 0


def test_the_configured_policy() -> None:
    """Nothing by default; a prune may give others than the configured limits."""
    assert retention.policy_of(Store()) == Policy()
    policy = retention.policy_of(Store(quota="1GiB", min_free="2 GiB", keep_last=3, ttl=60))
    assert policy == Policy(quota_bytes=1 << 30, min_free_bytes=2 << 30, keep_last=3, ttl_s=60)
    assert retention.changed(policy, PruneOptions()) == policy
    options = PruneOptions(keep_last=1, older_than_s=5, quota_bytes=0)
    assert retention.changed(policy, options) == Policy(
        quota_bytes=0, min_free_bytes=2 << 30, keep_last=1, ttl_s=5
    )
    with pytest.raises(InvalidArgument):
        retention.policy_of(Store(quota="much"))


def test_why_there_is_no_room() -> None:
    """The limits, and what is kept for which reason."""
    images = [
        image("a", 1, kept="pinned"),
        image("b", 1, kept="pinned"),
        image("c", 1, kept="in use"),
    ]

    text = retention.over(5, [*images, image("d", 1)], Policy(quota_bytes=30, min_free_bytes=1))

    assert text == (
        "5 B too much for a quota of 30 B and 1 B of the disk kept free; "
        "1 image is in use (10 B); 2 images are pinned (20 B)"
    )
