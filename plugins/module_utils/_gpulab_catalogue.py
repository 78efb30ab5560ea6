# Copyright: gpulab.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The stacks that are shipped, as they came to this host: in the command's own file, which only root can change."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

from ansible_collections.gpulab.fleet.plugins.module_utils._gpulab_text import table

SCHEMA = 1
FOLDER, INDEX = "stacks", "stacks.json"
# The file that this very part was loaded from; none where it lies in a folder, as on the controller.
ARCHIVE: str | None = getattr(__spec__.loader, "archive", None)


def known() -> dict[str, str]:
    """Every shipped stack with its description."""
    if ARCHIVE is None:
        return {}
    with zipfile.ZipFile(ARCHIVE) as archive:
        found: dict[str, str] = json.loads(archive.read(INDEX))
    return found


def place(name: str) -> str:
    """Where a stack's files are from, for the release's record."""
    return f"{ARCHIVE}/{FOLDER}/{name}"


def unpack(name: str, folder: Path) -> Path:
    """The stack's files, below the folder; returns where."""
    prefix = f"{FOLDER}/{name}/"
    with zipfile.ZipFile(str(ARCHIVE)) as archive:
        for entry in archive.infolist():
            if entry.filename.startswith(prefix):
                path = folder / name / entry.filename[len(prefix) :]
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(archive.read(entry))
                path.chmod(entry.external_attr >> 16 & 0o777)
    return folder / name


def answer() -> dict[str, Any]:
    return {"schema": SCHEMA, "stacks": [{"name": name, "description": text} for name, text in known().items()]}


def lines(result: dict[str, Any], columns: int = 0) -> list[str]:
    rows = [[each["name"], each["description"]] for each in result["stacks"]]
    return table(rows, columns) or ["this host has no catalogue"]
