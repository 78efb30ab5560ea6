"""Indexes and signatures of an apt repository, and the broken editions of them.

A broken edition lies beside the sound file under the name of its mode (InRelease.expired), where the server finds it;
it is made here because only here is the signing key at hand.
"""

from __future__ import annotations

import gzip
import hashlib
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from . import deb
from .keys import Keys

DAY = 86400
NOT_A_KEY = "<!DOCTYPE html>\n<html><body>Please sign in to the network.</body></html>\n"


@dataclass(frozen=True)
class Offer:
    """One package in an index: the file and its control text."""

    path: Path
    control: str

    @classmethod
    def of(cls, path: Path) -> Offer:
        return cls(path, deb.control_text(path))


def write_index(folder: Path, root: Path, offers: Iterable[Offer]) -> None:
    """Write Packages and Packages.gz; file names in it are relative to `root`."""
    stanzas = []
    for offer in sorted(offers, key=lambda o: o.path.name):
        content = offer.path.read_bytes()
        stanzas.append(
            f"{offer.control.rstrip()}\nFilename: {_name_below(root, offer.path)}\nSize: {len(content)}\n"
            f"SHA256: {hashlib.sha256(content).hexdigest()}\n"
        )
    text = "\n".join(stanzas)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "Packages").write_text(text, encoding="utf-8")
    (folder / "Packages.gz").write_bytes(gzip.compress(text.encode(), mtime=0))


def sign(folder: Path, fields: dict[str, str], keys: Keys) -> None:
    """Write Release, InRelease and Release.gpg in a folder, and their broken editions."""
    now = time.time()
    _signed_release(folder, "", {**fields, "Date": _date(now)}, keys, keys.good)
    old = {"Date": _date(now - 30 * DAY), "Valid-Until": _date(now - 20 * DAY)}
    _signed_release(folder, ".expired", {**fields, **old}, keys, keys.good)
    _signed_release(folder, ".other-signer", {**fields, "Date": _date(now)}, keys, keys.evil)
    # A sound signature of another text.
    for name in ("Release", "InRelease"):
        text = (folder / name).read_text(encoding="utf-8")
        (folder / f"{name}.bad-signature").write_text(text.replace("\nLabel: ", "\nLabel: altered "), encoding="utf-8")


def publish_key(path: Path, keys: Keys) -> None:
    """Write the public key where the vendor has it, and what is served in its place when it is broken."""
    path.write_bytes(keys.public(keys.good))
    path.with_name(path.name + ".bad-key").write_bytes(keys.public(keys.evil))
    path.with_name(path.name + ".not-a-key").write_text(NOT_A_KEY, encoding="utf-8")


def _signed_release(folder: Path, suffix: str, fields: dict[str, str], keys: Keys, signer: str) -> None:
    release = folder / f"Release{suffix}"
    release.write_text(_release(folder, fields), encoding="utf-8")
    keys.clearsign(release, signer, folder / f"InRelease{suffix}")
    keys.detach(release, signer, folder / f"Release.gpg{suffix}")


def _release(folder: Path, fields: dict[str, str]) -> str:
    lines = [f"{key}: {value}" for key, value in fields.items()] + ["SHA256:"]
    for index in sorted([*folder.rglob("Packages"), *folder.rglob("Packages.gz")]):
        content = index.read_bytes()
        lines.append(f" {hashlib.sha256(content).hexdigest()} {len(content)} {index.relative_to(folder)}")
    return "\n".join(lines) + "\n"


def _name_below(root: Path, path: Path) -> str:
    relative = str(path.relative_to(root))
    return relative if "/" in relative else f"./{relative}"


def _date(seconds: float) -> str:
    return time.strftime("%a, %d %b %Y %H:%M:%S UTC", time.gmtime(seconds))
