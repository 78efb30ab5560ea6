# Copyright: gpulab.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a user's home was like before this collection came, kept there, for the day on which the engine goes.

Everything here runs as the user.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ansible_collections.gpulab.fleet.plugins.module_utils._files import write_atomic

STATE = Path(".local", "state", "gpulab")


def state_folder(home: Path) -> Path:
    """All that this collection notes down in a home lies here, and nothing else does."""
    return home / STATE


def missing_folders(home: Path, paths: Iterable[Path]) -> list[str]:
    """The folders that will have to be made for these paths, outermost first."""
    found: dict[str, None] = {}
    for path in paths:
        for parent in reversed(path.parents):
            if parent.is_relative_to(home) and not parent.is_dir():
                found[str(parent)] = None
    return list(found)


def kept(path: Path) -> str | dict[str, str] | None:
    """A file's text, a link's target, or None where there is nothing."""
    if path.is_symlink():
        return {"link": str(path.readlink())}
    with contextlib.suppress(OSError):
        return path.read_text(encoding="utf-8", errors="surrogateescape")
    return None


def put_back(path: Path, before: str | dict[str, str] | None) -> bool:
    """Make a file, a link or nothing of a path again; says whether it was something else."""
    if kept(path) == before:
        return False
    if before is None:
        path.unlink()
    elif isinstance(before, dict):
        path.unlink(missing_ok=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(before["link"])
    else:
        if path.is_symlink():
            path.unlink()
        write_atomic(path, before.encode("utf-8", "surrogateescape"), 0o644)
    return True


def remove_empty(folders: Iterable[str]) -> list[str]:
    """Remove those folders that are empty, innermost first."""
    gone = []
    for folder in sorted(folders, key=len, reverse=True):
        with contextlib.suppress(OSError):
            Path(folder).rmdir()
            gone.append(folder)
    return gone


# --- other files -------------------------------------------------------------------------------------------


def _files_path(home: Path) -> Path:
    return state_folder(home) / "files.json"


def files(home: Path) -> dict[str, Any]:
    """Files that were written beside the engine's own, by path, and what was there before (see `kept`)."""
    with contextlib.suppress(OSError, ValueError):
        found: dict[str, Any] = json.loads(_files_path(home).read_text(encoding="utf-8"))
        return found
    return {}


def remember_files(home: Path, paths: Iterable[Path]) -> None:
    """Before these files are written: how they are, and which folders will be made for them."""
    known = files(home)
    new = [path for path in paths if str(path) not in known]
    if not new:
        return
    made = missing_folders(home, new)
    if made:
        record = stacks(home)
        record["folders"] = list(dict.fromkeys([*record["folders"], *made]))
        write_atomic(_stacks_path(home), (json.dumps(record, indent=2) + "\n").encode(), 0o600, 0o700)
    known.update({str(path): kept(path) for path in new})
    write_atomic(_files_path(home), (json.dumps(known, indent=2) + "\n").encode(), 0o600, 0o700)


# --- stacks ------------------------------------------------------------------------------------------------


def _stacks_path(home: Path) -> Path:
    return state_folder(home) / "stacks.json"


def stacks(home: Path) -> dict[str, list[str]]:
    """roots: where stacks lie; data: data folders that were made for them; folders: other folders that were made."""
    empty: dict[str, list[str]] = {"roots": [], "data": [], "folders": []}
    with contextlib.suppress(OSError, ValueError):
        return {**empty, **json.loads(_stacks_path(home).read_text(encoding="utf-8"))}
    return empty


def remember_stacks(home: Path, root: Path, data: Path | None = None) -> None:
    """Before a stack's folders are made: which are new. A data folder that was there is its owner's, not ours."""
    known = stacks(home)
    before = json.dumps(known)
    new: list[Path] = [data] if data else [root / "stacks"]
    folders = [str(p) for path in new for p in reversed(path.parents) if not p.is_dir()]
    if data and not data.exists():
        known["data"].append(str(data))
    elif not data and not new[0].is_dir():
        folders.append(str(new[0]))
    known["roots"] = list(dict.fromkeys([*known["roots"], str(root)]))
    known["folders"] = list(dict.fromkeys([*known["folders"], *folders]))
    known["data"] = list(dict.fromkeys(known["data"]))
    if json.dumps(known) != before:
        write_atomic(_stacks_path(home), (json.dumps(known, indent=2) + "\n").encode(), 0o600, 0o700)
