"""Damage to images and to OCI layouts of them, at random from a seed: accidents and forgeries.

Each kind changes a folder so that the image is no longer the one that was signed. A forger who can
write everything makes all digests right again, as `forge` and `Forged` do.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import blake3

from shim.distribution import media
from shim.image.manifest import NAME
from shim.image.side_files import SIGNATURES, is_side_file
from shim.oci import canonical

Damage = Callable[[random.Random, Path], None]
_FILE = "io.cryo.file"
_OFFSET = "io.cryo.offset"
_LENGTH = "io.cryo.length"


# Of one file.


def flip(rng: random.Random, path: Path) -> None:
    """Change a bit."""
    data = bytearray(path.read_bytes())
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    path.write_bytes(data)


def truncate(rng: random.Random, path: Path) -> None:
    """Cut the end off."""
    os.truncate(path, rng.randrange(path.stat().st_size))


def extend(rng: random.Random, path: Path) -> None:
    """Add something at the end, that may be zeros."""
    with path.open("ab") as file:
        file.write(rng.choice((b"\0" * rng.randint(1, 5000), rng.randbytes(rng.randint(1, 5000)))))


def move_parts(rng: random.Random, path: Path) -> None:
    """Move what is at the beginning to the end; all bytes stay."""
    data = path.read_bytes()
    at = rng.randrange(1, len(data))
    moved = data[at:] + data[:at]
    path.write_bytes(moved if moved != data else bytes(reversed(data)) + b"x")


def zero(rng: random.Random, path: Path) -> None:
    """Lose a part that has something, as a disk does."""
    data = bytearray(path.read_bytes())
    at = rng.choice([place for place, byte in enumerate(data[:4096]) if byte])
    data[at : at + 512] = bytes(len(data[at : at + 512]))
    path.write_bytes(data)


def delete(_rng: random.Random, path: Path) -> None:
    """Remove it."""
    path.unlink()


def rename(rng: random.Random, path: Path) -> None:
    """Give it another name."""
    path.rename(path.with_name(f"{path.name}{rng.randrange(10)}"))


def link(rng: random.Random, path: Path) -> None:
    """Put a link to the same content in its place."""
    path.rename(path.parent.parent / "moved")
    path.symlink_to(rng.choice(("/etc/passwd", path.parent.parent / "moved", "nowhere")))


def fifo(_rng: random.Random, path: Path) -> None:
    """Put a fifo in its place, which a careless reader waits for."""
    path.unlink()
    os.mkfifo(path)


def folder(_rng: random.Random, path: Path) -> None:
    """Put a folder in its place."""
    path.unlink()
    path.mkdir()


ACCIDENTS: Mapping[str, Damage] = {
    one.__name__: one
    for one in (flip, truncate, extend, move_parts, zero, delete, rename, link, fifo, folder)
}


# Of an image.


def forge(image: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change a manifest, with a digest that is right for it."""
    plain = json.loads((image / NAME).read_bytes())
    change(plain)
    del plain["digest"]
    plain["digest"] = blake3.blake3(canonical.encode(plain)).hexdigest()
    (image / NAME).write_bytes(canonical.encode_pretty(plain))


def _any_file(image: Path, rng: random.Random) -> Path:
    """Choose one that the signature covers."""
    names = sorted(path.name for path in image.iterdir() if path.is_file())
    return image / rng.choice([name for name in names if not is_side_file(name)])


def _accident(rng: random.Random, image: Path) -> None:
    rng.choice(sorted(ACCIDENTS.items()))[1](rng, _any_file(image, rng))


def _swap_files(_rng: random.Random, image: Path) -> None:
    one, other = sorted(image.glob("*.img"))[:2]
    one.rename(image / "between")
    other.rename(one)
    (image / "between").rename(other)


def _add_file(rng: random.Random, image: Path) -> None:
    (image / rng.choice(("x", "a.img", ".hidden", "cryo.json.tmp"))).write_bytes(b"x")


def _hard_link(rng: random.Random, image: Path) -> None:
    os.link(_any_file(image, rng), image.parent / "again")


def _open_to_others(rng: random.Random, image: Path) -> None:
    rng.choice((image, _any_file(image, rng))).chmod(0o777)


def _edited(rng: random.Random, image: Path) -> None:
    """Edit the manifest by hand, without its digest."""
    text = (image / NAME).read_bytes()
    old, new = rng.choice(
        (
            (b'"task": ', b'"task":  '),
            (b'"format": 1', b'"format": 2'),
            (b'"sealed": true', b'"sealed": false'),
            (b'"size_bytes": ', b'"size_bytes": 1'),
        )
    )
    assert old in text
    (image / NAME).write_bytes(text.replace(old, new, 1))


def _forged(rng: random.Random, image: Path) -> None:
    def first(plain: dict[str, Any]) -> dict[str, Any]:
        found: dict[str, Any] = rng.choice(plain["files"])
        return found

    changes: tuple[Callable[[dict[str, Any]], object], ...] = (
        lambda plain: plain.update(task="other"),
        lambda plain: plain.update(format=99),
        lambda plain: plain.update(sealed=False),
        lambda plain: plain.update(files=[]),
        lambda plain: plain.update(created_at="2026-11-23T18:10:03"),
        lambda plain: plain.update(created_at="9999-11-23T18:10:03Z"),
        lambda plain: plain["files"].append(dict(first(plain))),
        lambda plain: plain["files"].pop(),
        lambda plain: plain["files"].append({"name": "../../x", "size_bytes": 1, "blake3": "0"}),
        lambda plain: first(plain).update(
            name=rng.choice(("..", "a/b", NAME, SIGNATURES, "")),
        ),
        lambda plain: first(plain).update(blake3="0" * 64),
        lambda plain: first(plain).update(size_bytes=rng.choice((-1, 0, 1, 1 << 62, 1 << 80))),
        lambda plain: plain["spec"].update(hooks={"prestart": [{"path": "/bin/sh"}]}),
        lambda plain: plain.update(spec=[]),
        lambda plain: plain.update(members=[{"task": "x", "name": "x"}]),
    )
    forge(image, rng.choice(changes))


def _sealed_again(rng: random.Random, image: Path) -> None:
    """Change a file, and make its digest and all others right."""
    path = rng.choice(sorted(image.glob("*.img")))
    rng.choice((flip, move_parts, zero, truncate, extend))(rng, path)

    def change(plain: dict[str, Any]) -> None:
        entry = next(one for one in plain["files"] if one["name"] == path.name)
        entry["size_bytes"] = path.stat().st_size
        entry["blake3"] = blake3.blake3(path.read_bytes()).hexdigest()

    forge(image, change)


def _other_signature(rng: random.Random, image: Path) -> None:
    """Lose the signature, or have one that is another's, for something else or damaged."""
    path = image / SIGNATURES
    envelope = json.loads(path.read_bytes())
    change = rng.randrange(4)
    if change == 0:
        path.unlink()
    elif change == 1:
        envelope["signatures"] = []
        path.write_text(json.dumps(envelope))
    elif change == 2:
        envelope["payload"] = envelope["payload"][:-8]
        path.write_text(json.dumps(envelope))
    else:
        truncate(rng, path)


OF_IMAGES: tuple[Damage, ...] = (
    _accident,
    _accident,
    _accident,
    _swap_files,
    _add_file,
    _hard_link,
    _open_to_others,
    _edited,
    _forged,
    _forged,
    _sealed_again,
    _other_signature,
)


# Of a layout.


class Forged:
    """An OCI layout whose documents are changed, with digests that are right again."""

    def __init__(self, layout: Path) -> None:
        self._layout = layout
        self.index = json.loads((layout / "index.json").read_bytes())
        self.wrap = json.loads(self.blob(self.index["manifests"][0]["digest"]))
        self.manifest = json.loads(self.blob(self.wrap["manifests"][0]["digest"]))

    def path(self, digest: str) -> Path:
        """Return the file of a blob."""
        return self._layout / "blobs" / "sha256" / digest.removeprefix("sha256:")

    def blob(self, digest: str) -> bytes:
        """Return a blob."""
        return self.path(digest).read_bytes()

    def put(self, data: bytes) -> tuple[str, int]:
        """Add a blob; return its digest and size."""
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        self.path(digest).write_bytes(data)
        return digest, len(data)

    @property
    def chunks(self) -> list[dict[str, Any]]:
        """Return the layers that are parts of files."""
        return [one for one in self.manifest["layers"] if _FILE in one.get("annotations", {})]

    def write(self) -> None:
        """Store the documents."""
        for outer, inner in ((self.wrap, self.manifest), (self.index, self.wrap)):
            digest, size = self.put(json.dumps(inner).encode())
            outer["manifests"][0].update(digest=digest, size=size)
        (self._layout / "index.json").write_text(json.dumps(self.index))


def _blob_accident(rng: random.Random, layout: Path) -> None:
    path = layout / "blobs" / "sha256" / rng.choice(sorted(_in_use(layout)))
    rng.choice(sorted(ACCIDENTS.items()))[1](rng, path)


def _in_use(layout: Path) -> set[str]:
    """Return the names of the blobs that an image consists of."""
    found = Forged(layout)
    documents = (found.index["manifests"][0], found.wrap["manifests"][0], found.manifest["config"])
    digests = (one["digest"] for one in (*documents, *found.manifest["layers"]))
    return {digest.removeprefix("sha256:") for digest in digests}


def _swap_blobs(rng: random.Random, layout: Path) -> None:
    one, other = (
        layout / "blobs" / "sha256" / name for name in rng.sample(sorted(_in_use(layout)), 2)
    )
    data = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(data)


def _index_edited(rng: random.Random, layout: Path) -> None:
    path, found = layout / "index.json", Forged(layout)
    entry = found.index["manifests"][0]
    changes: tuple[Callable[[], object], ...] = (
        lambda: entry.update(digest=found.manifest["config"]["digest"]),
        lambda: entry.update(digest="sha256:" + "0" * 64),
        lambda: entry.update(digest="../../../../etc/passwd"),
        lambda: entry.update(annotations={}),
        lambda: found.index.update(manifests=[]),
        lambda: found.index.update(manifests={}),
        lambda: found.index["manifests"].insert(0, "x"),
    )
    rng.choice(changes)()
    path.write_text(json.dumps(found.index))


def _index_damaged(rng: random.Random, layout: Path) -> None:
    rng.choice((truncate, delete, rename, link, fifo, folder))(rng, layout / "index.json")


def _documents_forged(rng: random.Random, layout: Path) -> None:
    found = Forged(layout)
    of_pages = [one for one in found.chunks if one["annotations"][_FILE] == "pages.img"]
    chunk, other = rng.sample(of_pages, 2)
    about, size = chunk["annotations"], chunk["size"]

    def exchange(name: str) -> None:
        about[name], other["annotations"][name] = other["annotations"][name], about[name]

    changes: tuple[Callable[[], object], ...] = (
        lambda: exchange(_OFFSET),
        lambda: found.manifest["layers"].remove(chunk),
        lambda: found.manifest["layers"].append(chunk),
        lambda: about.update({_FILE: rng.choice(("../x", "/etc/x", NAME, "", "x.img", "."))}),
        lambda: about.update({_OFFSET: rng.choice(("-1", "x", "", str(1 << 70), "1e3"))}),
        lambda: about.update({_LENGTH: rng.choice(("0", "-4096", str(1 << 62), "x"))}),
        lambda: about.pop(rng.choice((_FILE, _OFFSET, _LENGTH))),
        lambda: chunk.update(size=rng.choice((0, size + 1, size - 1, -1, 1 << 50))),
        lambda: chunk.update(digest=rng.choice((other["digest"], "sha256:" + "0" * 64, "x"))),
        lambda: chunk.update(mediaType="application/octet-stream"),
        lambda: chunk.update(mediaType=media.CHUNK + media.ENCRYPTED),
        lambda: found.manifest.update(artifactType="application/x"),
        lambda: found.manifest.update(layers=[chunk] * 9000),
        lambda: found.manifest.update(layers=[]),
        lambda: found.manifest["annotations"].update({media.KEY: "{}"}),
        lambda: found.manifest["config"].update(digest=chunk["digest"], size=size),
        lambda: found.manifest["config"].update(size=1 << 40),
        lambda: found.wrap["manifests"].append(dict(found.wrap["manifests"][0])),
        lambda: found.wrap.update(manifests=[dict(found.manifest["config"])] * 2),
    )
    rng.choice(changes)()
    found.write()


def _content_forged(rng: random.Random, layout: Path) -> None:
    """Replace a chunk by another one with the right digest, or cryo.json by one that is sealed."""
    found = Forged(layout)
    if rng.random() < 0.5:  # a half
        chunk = rng.choice(found.chunks)
        data = bytearray(found.blob(chunk["digest"]))
        data[rng.randrange(len(data))] ^= 1
        chunk["digest"], chunk["size"] = found.put(bytes(data))
    else:
        _forge_config(found, layout)
    found.write()


def _forge_config(found: Forged, layout: Path) -> None:
    image = layout / "forged"
    image.mkdir()
    (image / NAME).write_bytes(found.blob(found.manifest["config"]["digest"]))
    forge(image, lambda plain: plain.update(task="other"))
    digest, size = found.put((image / NAME).read_bytes())
    found.manifest["config"].update(digest=digest, size=size)
    shutil.rmtree(image)


def _signature_removed(_rng: random.Random, layout: Path) -> None:
    found = Forged(layout)
    layers = found.manifest["layers"]
    found.manifest["layers"] = [one for one in layers if one["mediaType"] != media.SIGNATURES]
    found.write()


OF_LAYOUTS: tuple[Damage, ...] = (
    _blob_accident,
    _blob_accident,
    _blob_accident,
    _swap_blobs,
    _index_edited,
    _index_damaged,
    _documents_forged,
    _documents_forged,
    _documents_forged,
    _content_forged,
    _signature_removed,
)
