# Copyright: gpulab.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Taking back single entries of the journal. Each says what it did, and forgets the entry once that is done."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from pathlib import Path

from ansible_collections.gpulab.fleet.plugins.module_utils._daemon_json import redact
from ansible_collections.gpulab.fleet.plugins.module_utils._files import write_atomic
from ansible_collections.gpulab.fleet.plugins.module_utils._journal import FILE, FOLDERS, TREE, Journal

Diff = list[dict[str, str]]
LONG = 20  # lines of a removed file that a diff shows


def text_of(path: Path) -> str:
    """What a diff shows of a file."""
    if path.is_symlink():
        return f"link to {path.readlink()}\n"
    with contextlib.suppress(OSError):
        return shown(path.read_bytes(), path.stat().st_mode)
    return ""


def shown(data: bytes, mode: int) -> str:
    """A file's content for a diff: none of what others may not read, and no password in an address."""
    if not mode & 0o004 or b"\0" in data:
        return f"({len(data)} bytes, sha256 {hashlib.sha256(data).hexdigest()[:12]})\n"
    return redact(data.decode("utf-8", "replace"))


def brief(text: str) -> str:
    """A file that goes and is long, by its size: it is of ours, and its lines are no help to a reader of a diff."""
    return f"({text.count(chr(10))} lines)\n" if text.count("\n") > LONG else text


def file(journal: Journal, name: str, diff: Diff) -> str:
    """Bring a file back to what it was; empty when it is that already."""
    before = journal.entries(FILE)[name]
    path = Path(name)
    was, action = text_of(path), ""
    if before is None:
        if path.is_symlink() or path.exists():
            action = f"removed {path}"
            if not journal.check:
                path.unlink()
        was, after = brief(was), ""
    elif "link" in before:
        after = f"link to {before['link']}\n"
        if was != after:
            action = f"restored {path}"
            if not journal.check:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.unlink(missing_ok=True)
                path.symlink_to(before["link"])
    else:
        data = journal.backup(name)
        after = shown(data, before["mode"])
        if path.is_symlink() or not path.exists() or path.read_bytes() != data:
            action = f"restored {path}"
            if not journal.check:
                write_atomic(path, data, before["mode"])
                os.chown(path, before["uid"], before["gid"])
    if action:
        diff.append({"before_header": name, "after_header": name, "before": was, "after": after})
    journal.drop(FILE, name)
    return action


def tree(journal: Journal, name: str) -> str:
    """Remove a folder that is wholly ours."""
    path = Path(name)
    there = path.is_dir() and not path.is_symlink()
    if there and not journal.check:
        shutil.rmtree(path)
    journal.drop(TREE, name)
    return f"removed {path}" if there else ""


def folder(journal: Journal, name: str, going: set[str]) -> str:
    """Remove a folder that was made, if nothing is in it any more.

    going  what check mode counts as removed already
    """
    path = Path(name)
    gone = False
    with contextlib.suppress(OSError):
        if journal.check:
            gone = path.is_dir() and all(str(each) in going for each in path.iterdir())
        else:
            path.rmdir()
            gone = True
    if gone or not path.exists():
        journal.drop(FOLDERS, name)
    return f"removed {path}" if gone else ""
