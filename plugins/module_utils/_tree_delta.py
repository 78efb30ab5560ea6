# Copyright: gpulab.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Of a shipped tree only what a host does not have yet: the rest is taken from the trees that are kept there."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ansible_collections.gpulab.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.gpulab.fleet.plugins.module_utils._files import make_folders
from ansible_collections.gpulab.fleet.plugins.module_utils._stack_files import checksum

Shipped = Mapping[str, Mapping[str, Any]]


def absent(kept: Path, files: Shipped) -> list[str]:
    """The files that have to travel: kept (files/ of a stack) has none of the same path and content."""
    trees = _trees(kept)
    return [name for name, entry in files.items() if _found(trees, name, entry) is None]


def take_over(kept: Path, files: Shipped, make: Path) -> None:
    """Completes a tree in which what travelled lies already; an error names what neither travelled nor is here."""
    trees = _trees(kept)
    for name, entry in files.items():
        target = make / name
        if target.exists():
            continue
        found = _found(trees, name, entry)
        if found is None:
            raise FleetError("STACK_INVALID", f"{name} did not arrive")
        make_folders(target.parent)
        if found.stat().st_mode & 0o777 == entry["mode"]:
            os.link(found, target)  # kept trees are never written to
        else:
            shutil.copyfile(found, target)
            target.chmod(entry["mode"])


def _trees(kept: Path) -> list[Path]:
    """Newest first: it has most of what the next one has."""
    try:
        found = [path for path in kept.iterdir() if path.is_dir() and not path.name.startswith(".")]
    except OSError:
        return []
    return sorted(found, key=lambda path: path.stat().st_mtime, reverse=True)


def _found(trees: list[Path], name: str, entry: Mapping[str, Any]) -> Path | None:
    for tree in trees:
        path = tree / name
        if path.is_file() and not path.is_symlink() and checksum(path) == entry["sha256"]:
            return path
    return None
