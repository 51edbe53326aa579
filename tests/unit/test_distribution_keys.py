"""Data keys: the same for each push, wrapped for recipients, and a wrong one is one clear error."""

from __future__ import annotations

import base64
import json
import subprocess
from pathlib import Path
from typing import Any

import pyrage
import pytest

from shim.distribution import keys
from shim.distribution.cipher import Cipher
from shim.distribution.key_sources import KeySources
from shim.errors import (
    CryoError,
    HostMismatch,
    ImageCorrupt,
    InvalidArgument,
    NotFound,
    PermissionDenied,
)

WHERE = "r.example/a:v1"
TYPE = "application/x+encrypted"
HEX = "00112233445566778899aabbccddeeff0123456789abcdeffedcba9876543210"
KEY = bytes.fromhex(HEX)


def private(path: Path, data: bytes | str, mode: int = 0o600) -> str:
    """Write a file that only this user can read."""
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    path.chmod(mode)
    return str(path)


@pytest.fixture
def key_file(tmp_path: Path) -> KeySources:
    """Make a key file."""
    return KeySources(key_file=private(tmp_path / "key", HEX + "\n"))


class Person:
    """An age identity in a file, and its recipient."""

    def __init__(self, folder: Path, name: str) -> None:
        identity = pyrage.x25519.Identity.generate()
        self.secret = str(identity)
        self.recipient = str(identity.to_public())
        text = f"# created: today\n# public key: {self.recipient}\n{self.secret}\n"
        self.file = private(folder / name, text)
        self.pulls = KeySources(identities=(self.file,))

    def pushes(self, *others: Person) -> KeySources:
        """Return what this person gives for a push to some persons."""
        recipients = tuple(one.recipient for one in others)
        return KeySources(recipients=recipients, identities=(self.file,))


@pytest.fixture
def alice(tmp_path: Path) -> Person:
    """Make a person."""
    return Person(tmp_path, "alice")


@pytest.fixture
def bob(tmp_path: Path) -> Person:
    """Make another person."""
    return Person(tmp_path, "bob")


def pushed(sources: KeySources) -> Cipher:
    """Return the cipher of a push, which has one."""
    found = keys.for_push(sources)
    assert found is not None
    return found


def opened(sealed: bytes, key: str, sources: KeySources) -> bytes:
    """Decrypt what was pushed, as a pull does."""
    found = keys.unwrap(key, sources, WHERE)
    assert found is not None
    return found.decrypt(sealed, TYPE, WHERE)


def sealed_by(sources: KeySources, data: bytes = b"data") -> bytes:
    """Encrypt as a push does."""
    return pushed(sources).encrypt(data, TYPE)


def test_without_keys_nothing_is_encrypted() -> None:
    """Neither of a push, nor of a pull of an image that is not."""
    assert keys.for_push(KeySources()) is None
    assert keys.unwrap(None, KeySources(), WHERE) is None


@pytest.mark.parametrize(
    "text", (KEY, HEX, HEX.upper() + "\n", base64.b64encode(KEY), b" %b\n" % base64.b64encode(KEY))
)
def test_a_key_file_gives_the_same_key_each_time(
    tmp_path: Path, key_file: KeySources, text: bytes | str
) -> None:
    """In each of its forms, so equal chunks of all pushes are equal."""
    other = KeySources(key_file=private(tmp_path / "other", text))

    assert sealed_by(other) == sealed_by(key_file)
    assert opened(sealed_by(key_file), pushed(key_file).wrapped, other) == b"data"


@pytest.mark.parametrize(
    "text",
    (b"", b"short", HEX[:-2], HEX + "00", "x" * 64, b"\0" * 32, "a password of 32 characters ...."),
)
def test_what_is_not_a_random_key_is_refused(tmp_path: Path, text: bytes | str) -> None:
    """The remedy is the command that makes one; what the file has is not shown."""
    with pytest.raises(InvalidArgument, match="is not a key file") as caught:
        pushed(KeySources(key_file=private(tmp_path / "key", text)))

    assert "openssl rand" in caught.value.remedy
    assert "password of" not in str(caught.value)


@pytest.mark.parametrize("mode", (0o640, 0o604, 0o644, 0o660))
def test_a_secret_that_others_can_read_is_refused(tmp_path: Path, alice: Person, mode: int) -> None:
    """As ssh does, of key files and identities."""
    key = private(tmp_path / "key", HEX, mode)
    Path(alice.file).chmod(mode)

    with pytest.raises(PermissionDenied, match="key"):
        pushed(KeySources(key_file=key))
    with pytest.raises(PermissionDenied, match="alice"):
        pushed(alice.pushes(alice))


def test_a_secret_behind_a_link_is_read(tmp_path: Path, key_file: KeySources) -> None:
    """Kubernetes mounts secrets so."""
    (tmp_path / "link").symlink_to(key_file.key_file or "")

    assert sealed_by(KeySources(key_file=str(tmp_path / "link"))) == sealed_by(key_file)


def test_a_missing_key_file_is_named(tmp_path: Path) -> None:
    """And so is one that is no file."""
    with pytest.raises(NotFound, match="absent"):
        pushed(KeySources(key_file=str(tmp_path / "absent")))
    (tmp_path / "folder").mkdir(mode=0o700)
    with pytest.raises(CryoError, match="folder"):
        pushed(KeySources(key_file=str(tmp_path / "folder")))


def test_a_wrong_key_is_refused_before_anything_is_decrypted(
    tmp_path: Path, key_file: KeySources
) -> None:
    """The check value of the key differs."""
    wrong = KeySources(key_file=private(tmp_path / "wrong", HEX[::-1]))

    with pytest.raises(PermissionDenied, match=f"wrong is not the one that {WHERE}"):
        keys.unwrap(pushed(key_file).wrapped, wrong, WHERE)


def test_a_missing_key_is_named(key_file: KeySources, alice: Person) -> None:
    """The kind of key that is needed is in the message; the other kind does not help."""
    for given in (KeySources(), alice.pulls):
        with pytest.raises(InvalidArgument, match="encrypted with a key file, and none is given"):
            keys.unwrap(pushed(key_file).wrapped, given, WHERE)
    for given in (KeySources(), key_file):
        with pytest.raises(InvalidArgument, match="for age recipients, and no identity is given"):
            keys.unwrap(pushed(alice.pushes(alice)).wrapped, given, WHERE)


def test_a_key_for_an_image_that_is_not_encrypted_is_refused(key_file: KeySources) -> None:
    """A place could serve another image in its stead."""
    with pytest.raises(PermissionDenied, match="is not encrypted, although a key is given"):
        keys.unwrap(None, key_file, WHERE)


def test_each_recipient_decrypts(alice: Person, bob: Person) -> None:
    """With an own identity."""
    cipher = pushed(KeySources(recipients=(alice.recipient, bob.recipient)))
    sealed = cipher.encrypt(b"data", TYPE)

    assert opened(sealed, cipher.wrapped, alice.pulls) == b"data"
    assert opened(sealed, cipher.wrapped, bob.pulls) == b"data"


def test_another_identity_is_refused(alice: Person, bob: Person) -> None:
    """It is named."""
    cipher = pushed(alice.pushes(alice))

    with pytest.raises(PermissionDenied, match=r"no identity in \S*bob decrypts the key of"):
        keys.unwrap(cipher.wrapped, bob.pulls, WHERE)
    both = KeySources(identities=(bob.file, alice.file))
    assert opened(cipher.encrypt(b"data", TYPE), cipher.wrapped, both) == b"data"


def test_without_an_identity_each_push_has_its_own_key(alice: Person) -> None:
    """So nothing is shared."""
    sources = KeySources(recipients=(alice.recipient,))

    assert sealed_by(sources) != sealed_by(sources)


def test_with_an_identity_pushes_share_chunks(alice: Person, bob: Person) -> None:
    """As long as the recipients, in any order, are the same."""
    assert sealed_by(alice.pushes(alice, bob)) == sealed_by(alice.pushes(bob, alice))
    assert sealed_by(alice.pushes(alice, bob)) != sealed_by(bob.pushes(alice, bob))


def test_a_recipient_who_is_left_out_cannot_decrypt_what_follows(
    alice: Person, bob: Person
) -> None:
    """The data key that bob has is not used again."""
    before = pushed(alice.pushes(alice, bob))
    after = sealed_by(alice.pushes(alice))

    with pytest.raises(ImageCorrupt):
        opened(after, before.wrapped, bob.pulls)


def test_recipients_and_identities_of_ssh(tmp_path: Path) -> None:
    """A public key with its comment, as ssh-keygen writes it, and the private one."""
    for kind in ("ed25519", "rsa"):
        path = tmp_path / f"id_{kind}"
        command = ["ssh-keygen", "-q", "-t", kind, "-N", "", "-C", "me@here", "-f", str(path)]
        subprocess.run(command, check=True, timeout=60)
        cipher = pushed(KeySources(recipients=(f"{path}.pub",), identities=(str(path),)))
        sealed = cipher.encrypt(b"data", TYPE)

        assert opened(sealed, cipher.wrapped, KeySources(identities=(str(path),))) == b"data"
        text = KeySources(recipients=(Path(f"{path}.pub").read_text(),), identities=(str(path),))
        assert sealed_by(text) == sealed


def test_an_ssh_key_with_a_passphrase_is_refused(tmp_path: Path) -> None:
    """There is no terminal to ask on."""
    path = tmp_path / "id"
    subprocess.run(["ssh-keygen", "-q", "-N", "secret words", "-f", str(path)], check=True)

    with pytest.raises(InvalidArgument, match="must be decrypted first") as caught:
        pushed(KeySources(recipients=(f"{path}.pub",), identities=(str(path),)))
    assert "without a passphrase" in caught.value.remedy


def test_recipients_in_a_file(tmp_path: Path, alice: Person, bob: Person) -> None:
    """One a line, with comments."""
    path = tmp_path / "team"
    path.write_text(f"# alice\n{alice.recipient}\n\n  {bob.recipient}\n", "utf-8")
    from_file = KeySources(recipients=(str(path),), identities=(alice.file,))

    assert sealed_by(from_file) == sealed_by(alice.pushes(alice, bob))


@pytest.mark.parametrize(
    "text", ("age1nonsense", "ssh-ed25519 AAAA", "ssh-dss AAAA", "-----BEGIN CERTIFICATE-----", "")
)
def test_what_is_not_a_recipient_is_refused(tmp_path: Path, text: str) -> None:
    """It is shown, as it is no secret."""
    (tmp_path / "file").write_text(text, "utf-8")

    with pytest.raises(InvalidArgument, match="recipient"):
        pushed(KeySources(recipients=(str(tmp_path / "file"),)))


def test_a_secret_in_place_of_a_recipient_is_not_shown(tmp_path: Path, alice: Person) -> None:
    """Neither given as such nor in a file."""
    for given in (alice.secret, alice.file):
        with pytest.raises(CryoError) as caught:
            pushed(KeySources(recipients=(given,)))
        assert alice.secret[20:] not in str(caught.value) + caught.value.remedy


def test_what_is_not_an_identity_is_refused_and_not_shown(tmp_path: Path, alice: Person) -> None:
    """As it may be a secret with a mistake."""
    broken = private(tmp_path / "broken", alice.secret[:-1])

    for path in (broken, private(tmp_path / "other", "hunter2"), private(tmp_path / "empty", "")):
        sources = KeySources(recipients=(alice.recipient,), identities=(path,))
        with pytest.raises(InvalidArgument, match="is not an identity file") as caught:
            pushed(sources)
        assert "hunter2" not in str(caught.value)
        assert alice.secret[20:40] not in str(caught.value)


@pytest.mark.parametrize(
    "sources",
    (
        KeySources(key_file="k", recipients=("age1x",)),
        KeySources(key_file="k", identities=("i",)),
        KeySources(identities=("i",)),
    ),
)
def test_keys_that_do_not_go_together_are_refused(sources: KeySources) -> None:
    """Before a file is read."""
    with pytest.raises(InvalidArgument) as caught:
        keys.for_push(sources)
    assert caught.value.remedy


def test_too_many_recipients_are_refused(alice: Person) -> None:
    """An annotation is bounded, and 25 fit."""
    many = [str(pyrage.x25519.Identity.generate().to_public()) for _ in range(40)]

    assert len(pushed(KeySources(recipients=tuple(many[:25]))).wrapped) <= 4096
    with pytest.raises(InvalidArgument, match="too many recipients"):
        pushed(KeySources(recipients=tuple(many)))


def test_no_secret_is_in_what_is_stored(key_file: KeySources, alice: Person) -> None:
    """Of the key file not even a part, of recipients neither names nor identities."""
    for sources in (key_file, alice.pushes(alice)):
        stored = json.loads(pushed(sources).wrapped)

        assert set(stored) <= {"version", "algorithm", "kind", "check", "age"}
        assert HEX[:16] not in str(stored)
        assert alice.secret not in str(stored)


def changed(text: str, **fields: Any) -> str:
    """Change fields of a JSON object."""
    return json.dumps({**json.loads(text), **fields})


@pytest.mark.parametrize(
    "fields",
    (
        {"kind": "other"},
        {"check": "00"},
        {"check": None},
        {"version": "1"},
        {"age": "x" * 5000},
        {"age": [[]] * 3},
    ),
)
def test_a_damaged_description_is_refused(key_file: KeySources, fields: dict[str, Any]) -> None:
    """Whatever it has."""
    with pytest.raises(ImageCorrupt, match=WHERE):
        keys.unwrap(changed(pushed(key_file).wrapped, **fields), key_file, WHERE)


@pytest.mark.parametrize("text", ("", "{}", "[]", "nonsense", "[" * 4000))
def test_a_description_that_is_none_is_refused(key_file: KeySources, text: str) -> None:
    """As the image is encrypted with an unknown key."""
    with pytest.raises(ImageCorrupt, match="data key"):
        keys.unwrap(text, key_file, WHERE)


@pytest.mark.parametrize("fields", ({"version": 2}, {"algorithm": "ROT13"}))
def test_a_newer_way_of_encryption_is_named(key_file: KeySources, fields: dict[str, Any]) -> None:
    """The remedy is a newer version."""
    with pytest.raises(HostMismatch) as caught:
        keys.unwrap(changed(pushed(key_file).wrapped, **fields), key_file, WHERE)
    assert "newer" in caught.value.remedy


def test_a_data_key_that_was_exchanged_is_refused(alice: Person) -> None:
    """Anyone can encrypt for a recipient: it must still be the key of the check value."""
    stored = pushed(alice.pushes(alice)).wrapped
    recipient = pyrage.x25519.Recipient.from_str(alice.recipient)
    for key, error in ((b"k" * 32, PermissionDenied), (b"k" * 31, ImageCorrupt)):
        other = base64.b64encode(pyrage.encrypt(key, [recipient])).decode()

        with pytest.raises(error, match=WHERE):
            keys.unwrap(changed(stored, age=other), alice.pulls, WHERE)


@pytest.mark.parametrize("age", ("", "%%%", "AAAA"))
def test_a_wrapped_key_that_is_none_is_refused(alice: Person, age: str) -> None:
    """One clear error."""
    stored = pushed(alice.pushes(alice)).wrapped

    with pytest.raises((ImageCorrupt, PermissionDenied), match=WHERE):
        keys.unwrap(changed(stored, age=age), alice.pulls, WHERE)
