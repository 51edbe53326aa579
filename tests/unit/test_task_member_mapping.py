"""Which ids the containers of an image get."""

from __future__ import annotations

import pytest

from shim.errors import InvalidArgument
from shim.image.manifest import Member
from shim.model import MemberOptions, RestoreOptions, Stdio, TaskRef
from shim.task.member_mapping import resolve_members
from tests.unit.image_helpers import manifest

POD = manifest(
    members=tuple(Member(task=t, name=f"{t}-n", spec={}, spec_digest="") for t in ("b", "c"))
)
REF = TaskRef(namespace="ns", id="a")


def wanted(*members: MemberOptions, task: str = "a") -> tuple[MemberOptions, ...]:
    """Ask for a restore."""
    ref = TaskRef(namespace="ns", id=task)
    return resolve_members(POD, ref, RestoreOptions(image_path="/i", members=members))


def test_what_is_not_said_is_as_in_the_image() -> None:
    """Each keeps its id, its bundle and no streams; what is said is taken, in the image's order."""
    assert [one.id for one in wanted()] == ["b", "c"]

    changed = MemberOptions(saved="c", id="z", stdio=Stdio(stdout="/o"))
    assert wanted(changed) == (MemberOptions(saved="b", id="b"), changed)
    assert wanted(MemberOptions(saved="c", stdio=Stdio(stdin="/i")))[1].id == "c"


def test_bundles_are_the_callers_for_all_containers() -> None:
    """Who gives every container a bundle takes no spec from the image."""
    given = tuple(MemberOptions(saved=one, id=one, bundle=f"/{one}") for one in ("b", "c"))

    assert resolve_members(
        POD, REF, RestoreOptions(image_path="/i", bundle="/a", members=given)
    ) == (given)


@pytest.mark.parametrize(
    ("bundle", "given", "words"),
    (
        ("/a", (), "beside your bundle: b, c"),
        ("/a", ("b",), "beside your bundle: c"),
        ("", ("b",), "b would have a bundle of yours"),
        ("", ("b", "c"), "b, c would have a bundle of yours"),
    ),
)
def test_no_mixture_of_bundles_and_image(bundle: str, given: tuple[str, ...], words: str) -> None:
    """A container for which the caller gave no bundle brings no spec beside his."""
    members = tuple(MemberOptions(saved=one, bundle=f"/{one}") for one in given)

    with pytest.raises(InvalidArgument, match=words) as caught:
        resolve_members(POD, REF, RestoreOptions(image_path="/i", bundle=bundle, members=members))
    assert "--member-bundle" in caught.value.remedy


@pytest.mark.parametrize(
    ("member", "words"),
    (
        (MemberOptions(saved="x", id="y"), "has no member x; it has b, c"),
        (MemberOptions(saved="b", id="c"), "become task c"),
        (MemberOptions(saved="b", id="a"), "become task a"),
        (MemberOptions(saved="b", id="../b"), "is not valid"),
    ),
)
def test_what_cannot_be(member: MemberOptions, words: str) -> None:
    """No member of the image, twice the same, or no id."""
    with pytest.raises(InvalidArgument, match=words) as caught:
        wanted(member)
    assert caught.value.remedy


def test_an_image_of_one_container() -> None:
    """It has no members to name."""
    assert resolve_members(manifest(), REF, RestoreOptions(image_path="/i")) == ()
    with pytest.raises(InvalidArgument, match="it has none"):
        resolve_members(
            manifest(),
            REF,
            RestoreOptions(image_path="/i", members=(MemberOptions(saved="b"),)),
        )
