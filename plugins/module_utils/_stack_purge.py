# Copyright: gpulab.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Deleting a stack's data for good: data folders, named volumes, snapshots, secrets that were made for it; each named with its size beforehand.

Only what lies below the stacks' own root goes, and volumes that Compose labelled with the stack's name. A folder elsewhere
that a setting chose is its owner's.
"""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

from ansible_collections.gpulab.fleet.plugins.module_utils._all_ids import as_all_ids
from ansible_collections.gpulab.fleet.plugins.module_utils._compose import Project
from ansible_collections.gpulab.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.gpulab.fleet.plugins.module_utils._stack_places import Part, sizes, volumes
from ansible_collections.gpulab.fleet.plugins.module_utils._user_space import readable

KINDS = ("data", "snapshots", "secrets")


def going(project: Project, root: Path) -> list[dict[str, Any]]:
    """What a purge would delete: kind, name, path, bytes."""
    parts = []
    data, snapshots, secrets = (root / kind / project.name for kind in KINDS)
    if data.is_dir():
        parts += [Part("folder", path.name, path) for path in sorted(data.iterdir())]
        parts = parts or [Part("folder", project.name, data)]
    parts += volumes(project)
    if snapshots.is_dir():
        parts.append(Part("snapshots", project.name, snapshots))
    if secrets.is_dir():
        parts.append(Part("secrets", project.name, secrets))
    measured = sizes(project.user, parts)
    return [{**part.plain(), "bytes": measured[str(part.path)]} for part in parts]


def told(rows: list[dict[str, Any]]) -> str:
    """The list for people."""
    lines = [f"{row['kind']} {row['name']}: {readable(row['bytes'])} ({row['path']})" for row in rows]
    return "\n".join([*lines, f"together {readable(sum(row['bytes'] for row in rows))}"])


def purge(project: Project, root: Path, typed: str, check: bool = False) -> dict[str, Any]:
    """Deletes it all: {changed, actions, going}. typed is the stack's name, as a person gave it to confirm."""
    rows = going(project, root)
    if not rows:
        return {"changed": False, "actions": [], "going": []}
    if typed != project.name:
        raise FleetError("STACK_PURGE_UNCONFIRMED", f"stack {project.name}, typed {typed!r}; would go:\n{told(rows)}")
    running = [each.name for each in project.containers()]
    if running:
        raise FleetError("STACK_PURGE_RUNS", f"stack {project.name}: {', '.join(running)}")
    actions = [f"delete {row['kind']} {row['name']} ({readable(row['bytes'])})" for row in rows]
    if not check:
        for name in [row["name"] for row in rows if row["kind"] == "volume"]:
            done = project.docker("volume", "rm", name)
            if done.returncode != 0:
                raise FleetError("DATA_NOT_DELETED", f"volume {name}: {done.stderr.strip()}")
        # Whole folders, with what is hidden in them.
        _delete(project, [path for kind in KINDS if (path := root / kind / project.name).exists()])
    return {"changed": True, "actions": actions, "going": rows}


def _delete(project: Project, paths: list[Path]) -> None:
    def work() -> dict[str, Any]:
        argv = ["/bin/rm", "-rf", "--one-file-system", "--", *map(str, paths)]
        done = subprocess.run(argv, capture_output=True, text=True, check=False, env={"LC_ALL": "C"})
        left = [str(path) for path in paths if path.exists() or path.is_symlink()]
        if left:
            raise FleetError("DATA_NOT_DELETED", f"{', '.join(left)}: {done.stderr.strip()[-300:]}")
        return {}

    if paths:
        as_all_ids(project.user, work)
