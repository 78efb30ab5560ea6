# Copyright: gpulab.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What this collection changed on a host, kept there, so that a reset can take it back.

For each thing the first state counts, the one from before this collection came. An entry is on the disk
before the change it stands for: a run that is killed in between leaves an entry too many, never one too few.
Root's files and states are here; what lies in a user's home is in the state file of that user's engine.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ansible_collections.gpulab.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.gpulab.fleet.plugins.module_utils._files import make_folders, write_atomic

SCHEMA = 1
FOLDER = Path("/var/lib/gpulab/journal")

# Kinds of entries and what their values are.
FILE = "file"  # by path: null when there was none, else {"mode", "uid", "gid", "backup"} or {"link"}
FOLDERS = "folder"  # by path: null; folders that were made, removed when they are empty
TREE = "tree"  # by path: null; folders that are wholly ours, removed with what is in them
# By name: null, or "config" where settings of an earlier installation were; packages that were installed, those pulled
# in included.
PACKAGE = "package"
UPGRADED = "upgraded"  # by name: the version before; listed, never brought back
REMOVED = "removed"  # by name: the version that was removed; listed, never installed again
HOLD = "hold"  # by name: null; packages put on hold
UNIT = "unit"  # by name: its UnitFileState before ("" when there was none)
ACCOUNT = "account"  # by name: null; accounts that were made
LINGER = "linger"  # by name: null
SUBID = "subid"  # by name: {"subuid": ["start:count"], "subgid": [...]}; ranges that were given
ENGINE = "engine"  # by user: null; users who were given an engine
# By user: {"roots", "data", "folders"}; where an engine that went has left data: data roots, data folders of stacks, and
# folders that go when they are empty. While it has, the user's subordinate ids stay theirs.
DATA = "data"
SYSCTL = "sysctl"  # by name: the value before
KINDS = (FILE, FOLDERS, TREE, PACKAGE, UPGRADED, REMOVED, HOLD, UNIT, ACCOUNT, LINGER, SUBID, ENGINE, DATA, SYSCTL)


def parse(text: str, path: str) -> dict[str, Any]:
    """The entries in a journal's text; one that cannot be read is never taken for an empty one."""
    try:
        data = json.loads(text)
    except ValueError as error:
        raise FleetError("JOURNAL_INVALID", f"{path}: {error}") from error
    if not isinstance(data, dict) or data.get("schema") != SCHEMA:
        raise FleetError("JOURNAL_INVALID", f"{path}: not a journal of schema {SCHEMA}")
    return data


class Journal:
    """The entries of a host. In check mode nothing is kept."""

    def __init__(self, check: bool = False, folder: Path | None = None) -> None:
        self.check = check
        self.folder = folder or FOLDER
        self.path = self.folder / "journal.json"

    def entries(self, kind: str) -> dict[str, Any]:
        """What is recorded of one kind, oldest first."""
        found: dict[str, Any] = self._load().get(kind, {})
        return found

    def add(self, kind: str, name: str, before: Any = None) -> None:
        """Record a change that is about to be made, unless that thing was changed before."""
        if self.check:
            return
        with self._changing() as data:
            data.setdefault(kind, {}).setdefault(name, before)

    def put(self, kind: str, name: str, value: Any) -> None:
        """Record something that is not a state before, whatever was recorded."""
        if self.check:
            return
        with self._changing() as data:
            data.setdefault(kind, {})[name] = value

    def drop(self, kind: str, name: str) -> None:
        """Forget a change that has been taken back."""
        if self.check:
            return
        with self._changing() as data:
            value = data.get(kind, {}).pop(name, None)
            if kind == FILE and isinstance(value, dict) and "backup" in value:
                (self.folder / value["backup"]).unlink(missing_ok=True)

    def forget(self) -> str:
        """Remove the journal when nothing is recorded any more: the folder that went, or empty."""
        if self.check or not self.folder.is_dir() or any(self._load().get(kind) for kind in KINDS):
            return ""
        shutil.rmtree(self.folder)
        with contextlib.suppress(OSError):
            self.folder.parent.rmdir()
        return str(self.folder)

    def keep_file(self, path: Path) -> None:
        """Before a file is written, replaced or removed: keep how it is, and which folders are made for it."""
        if self.check or str(path) in self.entries(FILE):
            return
        for parent in reversed(path.parents):
            if not parent.is_dir():
                self.add(FOLDERS, str(parent))
        self.add(FILE, str(path), self._state(path))

    def write(self, path: Path, data: bytes, mode: int) -> None:
        """Write a file of root's whole, having kept how it was."""
        self.keep_file(path)
        if not self.check:
            write_atomic(path, data, mode)

    def _state(self, path: Path) -> dict[str, Any] | None:
        if path.is_symlink():
            return {"link": str(path.readlink())}
        try:
            status, content = path.stat(), path.read_bytes()
        except FileNotFoundError:
            return None
        backup = hashlib.sha256(str(path).encode()).hexdigest()[:16]
        make_folders(self.folder.parent)
        write_atomic(self.folder / backup, content, 0o600, 0o700)
        return {"mode": status.st_mode & 0o7777, "uid": status.st_uid, "gid": status.st_gid, "backup": backup}

    def backup(self, path: str) -> bytes:
        """The content that a file had before its first change."""
        return (self.folder / str(self.entries(FILE)[path]["backup"])).read_bytes()

    def _load(self) -> dict[str, Any]:
        try:
            return parse(self.path.read_text(encoding="utf-8"), str(self.path))
        except FileNotFoundError:
            return {"schema": SCHEMA}

    @contextlib.contextmanager
    def _changing(self) -> Iterator[dict[str, Any]]:
        """The entries under a lock; written when they differ afterwards."""
        # The folder above is for everyone: users' engines read their specs there.
        make_folders(self.folder.parent)
        if not self.folder.is_dir():
            write_atomic(self.folder / "lock", b"", 0o600, 0o700)
        with (self.folder / "lock").open("a") as lock:
            fcntl.lockf(lock, fcntl.LOCK_EX)
            data = self._load()
            before = json.dumps(data)
            yield data
            if json.dumps(data) != before:
                write_atomic(self.path, (json.dumps(data, indent=2) + "\n").encode(), 0o600, 0o700)
