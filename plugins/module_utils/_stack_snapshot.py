# Copyright: gpulab.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Copies of a stack's data, made before an upgrade and put back on demand.

ROOT/snapshots/NAME/ID/
  snapshot.json    what is in it, with the checksum of each part; written last, so that a folder with it is whole
  PART.tar         one data folder or named volume, with owners, access control lists and links

A part is written and read as all of the user's ids, because most of what containers write belongs to those. Whoever calls
this has stopped the services: a file that is written meanwhile could be torn.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from hashlib import sha256
from pathlib import Path
from typing import Any

from ansible_collections.gpulab.fleet.plugins.module_utils._all_ids import as_all_ids
from ansible_collections.gpulab.fleet.plugins.module_utils._disk_room import room
from ansible_collections.gpulab.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.gpulab.fleet.plugins.module_utils._files import make_folders, write_atomic
from ansible_collections.gpulab.fleet.plugins.module_utils._stack_places import Part, sizes
from ansible_collections.gpulab.fleet.plugins.module_utils._userenv import Account

SCHEMA = 1
RECORD = "snapshot.json"
JOURNAL = "restoring.json"
TAR = ["/usr/bin/tar", "--numeric-owner", "--acls", "--xattrs", "--xattrs-include=user.*"]
BLOCK = 1 << 20


@dataclass(frozen=True)
class Snapshot:
    """One copy of a stack's data."""

    id: str
    stack: str
    release: str
    when: str
    why: str
    parts: list[dict[str, Any]]  # kind, name, path, file, bytes, sha256

    @property
    def bytes(self) -> int:
        return sum(int(part["bytes"]) for part in self.parts)


class Snapshots:
    """The snapshots of one stack."""

    def __init__(self, user: Account, root: Path, stack: str) -> None:
        self.user, self.stack = user, stack
        self.folder = root / "snapshots" / stack
        self.journal = self.folder / JOURNAL

    # --- reading -----------------------------------------------------------------------------------------

    def all(self) -> list[Snapshot]:
        """Every whole snapshot, the oldest first."""
        found = (self.read(path.name) for path in sorted(self.folder.glob("[!.]*")) if path.is_dir())
        return [each for each in found if each]

    def read(self, name: str) -> Snapshot | None:
        if Path(name).name != name or name.startswith("."):
            return None
        try:
            record = json.loads((self.folder / name / RECORD).read_text(encoding="utf-8"))
            if record.pop("schema") != SCHEMA:
                return None
            return Snapshot(**{**record, "id": name})
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            return None

    # --- making ------------------------------------------------------------------------------------------

    def make(self, parts: Iterable[Part], release: str, why: str = "", check: bool = False) -> Snapshot:
        """A copy of these parts, on the disk when this returns. Room for it is made sure of first."""
        wanted = [part for part in parts if part.kind == "volume" or part.path.is_dir()]
        measured = sizes(self.user, wanted)
        room(self.folder, sum(measured.values()))
        when = datetime.now(timezone.utc)
        name = f"{when.strftime('%Y%m%dT%H%M%S')}Z-{release}"
        while (self.folder / name).exists():
            name += "-again"
        made: list[dict[str, Any]] = []
        snapshot = Snapshot(name, self.stack, release, when.strftime("%Y-%m-%dT%H:%M:%SZ"), why, made)
        if check:
            return snapshot
        make_folders(self.folder.parent)
        self.folder.mkdir(mode=0o700, exist_ok=True)
        beside = self.folder / f".{name}"
        self._sweep()
        beside.mkdir(mode=0o700)
        try:
            for number, part in enumerate(wanted):
                file = f"{number:02}-{part.kind}.tar"
                checksum, size = self._pack(part, beside / file)
                made.append({**part.plain(), "file": file, "bytes": size, "sha256": checksum})
            record = {"schema": SCHEMA, **asdict(snapshot)}
            write_atomic(beside / RECORD, (json.dumps(record, indent=1) + "\n").encode(), 0o600)
            beside.rename(self.folder / name)
            _sync(self.folder)
        except BaseException:
            shutil.rmtree(beside, ignore_errors=True)
            raise
        return snapshot

    def _pack(self, part: Part, target: Path) -> tuple[str, int]:
        """Writes one part; its checksum and size. Sockets have no content and are left out by tar itself."""

        def work() -> dict[str, Any]:
            try:
                return pack(part.path, target)
            except OSError as error:
                raise FleetError("STACK_SNAPSHOT_FAILED", f"{target}: {error.strerror}") from error

        done = as_all_ids(self.user, work)
        return str(done["sha256"]), int(done["bytes"])

    def _sweep(self) -> None:
        """What a killed run left half-way."""
        for left in self.folder.glob(".*"):
            shutil.rmtree(left, ignore_errors=True)

    def thin(self, keep: int) -> list[str]:
        """Removes all but the newest; returns the ids of those that went."""
        gone = [each.id for each in self.all()[: -keep or None]] if keep >= 0 else []
        for name in gone:
            (self.folder / name / RECORD).unlink()
            shutil.rmtree(self.folder / name)
        return gone

    # --- putting back ------------------------------------------------------------------------------------

    def restore(self, name: str, check: bool = False) -> list[str]:
        """The data as they were. All is unpacked beside its place and on the disk before anything is exchanged."""
        snapshot = self.read(name)
        if snapshot is None:
            known = ", ".join(each.id for each in self.all()) or "none"
            raise FleetError("STACK_SNAPSHOT_UNKNOWN", f"stack {self.stack} has no snapshot {name}; there are: {known}")
        self._verify(snapshot)
        places = [Path(part["path"]) for part in snapshot.parts]
        for place, part in zip(places, snapshot.parts, strict=True):
            room(place.parent, int(part["bytes"]))
        actions = [f"restore {place} as of {snapshot.when}" for place in places]
        if check:
            return actions
        self.settle()
        self._note("unpacking", places)
        try:
            for place, part in zip(places, snapshot.parts, strict=True):
                self._unpack(place, self.folder / name / part["file"])
        except BaseException:
            self.settle()
            raise
        self._note("exchanging", places)
        self.settle()
        return actions

    def _verify(self, snapshot: Snapshot) -> None:
        for part in snapshot.parts:
            path = self.folder / snapshot.id / part["file"]
            digest = sha256()
            try:
                with path.open("rb") as file:
                    while block := file.read(BLOCK):
                        digest.update(block)
            except OSError as error:
                raise FleetError("STACK_SNAPSHOT_DAMAGED", f"{path}: {error.strerror}") from error
            if digest.hexdigest() != part["sha256"]:
                raise FleetError("STACK_SNAPSHOT_DAMAGED", f"{path}: its checksum is not the recorded one")

    def _note(self, step: str, places: Iterable[Path]) -> None:
        text = json.dumps({"schema": SCHEMA, "step": step, "places": [str(place) for place in places]})
        write_atomic(self.journal, text.encode(), 0o600)
        _sync(self.folder)

    def _unpack(self, place: Path, archive: Path) -> None:
        new = beside(place)[0]

        def work() -> dict[str, Any]:
            try:
                new.mkdir(mode=0o700)
            except OSError as error:
                raise FleetError("STACK_SNAPSHOT_FAILED", f"{new}: {error.strerror}") from error
            argv = [*TAR, "--extract", "--preserve-permissions", "--same-owner", "--file", str(archive)]
            done = subprocess.run(
                [*argv, "--directory", str(new)], capture_output=True, text=True, check=False, env={"LC_ALL": "C"}
            )
            if done.returncode != 0:
                raise FleetError("STACK_SNAPSHOT_FAILED", f"{new}: {done.stderr.strip()[-300:]}")
            subprocess.run(["sync", "-f", str(new)], check=False)
            return {}

        as_all_ids(self.user, work)

    def settle(self) -> list[str]:
        """Finishes or undoes a restore that was cut off; nothing to do where there was none."""
        journal: Mapping[str, Any] = {}
        with contextlib.suppress(OSError, ValueError):
            journal = json.loads(self.journal.read_text(encoding="utf-8"))
        if not journal:
            return []
        places = [Path(text) for text in journal["places"]]
        forward = journal["step"] == "exchanging"

        def work() -> dict[str, Any]:
            for place in places:
                try:
                    exchange(place) if forward else drop(beside(place)[0])
                except OSError as error:
                    raise FleetError("STACK_SNAPSHOT_FAILED", f"{place}: {error.strerror}") from error
            return {}

        as_all_ids(self.user, work)
        self.journal.unlink()
        return [f"{'finish' if forward else 'undo'} the restore of {place}" for place in places]


def pack(source: Path, target: Path) -> dict[str, Any]:
    """Writes a folder as a tar, on the disk when this returns: {sha256, bytes}."""
    argv = [*TAR, "--create", "--sparse", "--one-file-system", "--directory", str(source), "."]
    digest, size = sha256(), 0
    with (
        target.open("xb") as file,
        tempfile.TemporaryFile() as errors,
        subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=errors, env={"LC_ALL": "C"}) as tar,
    ):
        assert tar.stdout
        while block := tar.stdout.read(BLOCK):
            digest.update(block)
            size += len(block)
            file.write(block)
        file.flush()
        os.fsync(file.fileno())
        if tar.wait() != 0:
            errors.seek(0)
            said = errors.read().decode(errors="replace").strip()
            raise FleetError("STACK_SNAPSHOT_FAILED", f"{source}: {said[-300:]}")
    return {"sha256": digest.hexdigest(), "bytes": size}


def beside(place: Path) -> tuple[Path, Path]:
    """Where a folder's new and old content lie while they are exchanged."""
    return place.with_name(f".{place.name}.restored"), place.with_name(f".{place.name}.replaced")


def exchange(place: Path) -> None:
    """Puts the new content in place of the old. Cut off anywhere, it goes on from what it finds."""
    new, old = beside(place)
    if new.exists():
        if place.exists() and not old.exists():
            place.rename(old)
        new.rename(place)
        _sync(place.parent)
    drop(old)


def drop(path: Path) -> None:
    if path.exists():
        shutil.rmtree(path)


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
