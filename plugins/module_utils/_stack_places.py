# Copyright: gpulab.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Where a stack's data are: data folders and named volumes, and how large each is."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ansible_collections.gpulab.fleet.plugins.module_utils._all_ids import as_all_ids
from ansible_collections.gpulab.fleet.plugins.module_utils._compose import PROJECT, Project
from ansible_collections.gpulab.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.gpulab.fleet.plugins.module_utils._userenv import Account


@dataclass(frozen=True)
class Part:
    """One data folder or named volume."""

    kind: str  # folder or volume
    name: str  # the setting, or the volume's name
    path: Path

    def plain(self) -> dict[str, Any]:
        return {**asdict(self), "path": str(self.path)}


def folders(data: Mapping[str, str]) -> list[Part]:
    """The data folders of a release; one that lies in another comes with it."""
    paths = {name: Path(path) for name, path in data.items()}
    inner = {name for name, path in paths.items() if any(other in path.parents for other in paths.values())}
    found = {
        path: Part("folder", name, path) for name, path in sorted(paths.items(), reverse=True) if name not in inner
    }
    return sorted(found.values(), key=lambda part: part.name)


def volumes(project: Project) -> list[Part]:
    """The named volumes that Compose made for the stack. One that lies elsewhere (NFS) is not this host's to copy."""
    filters = quote(json.dumps({"label": [f"{PROJECT}={project.name}"]}))
    rows = project.api(f"/volumes?filters={filters}").get("Volumes") or []
    own = [row for row in rows if row.get("Driver") == "local" and not row.get("Options")]
    return sorted((Part("volume", row["Name"], Path(row["Mountpoint"])) for row in own), key=lambda part: part.name)


def sizes(user: Account, parts: Iterable[Part]) -> dict[str, int]:
    """Bytes on the disk by path. Measured as all of the user's ids: the user alone may not look into all of it."""
    paths = [str(part.path) for part in parts]
    if not paths:
        return {}

    def work() -> dict[str, Any]:
        argv = ["/usr/bin/du", "-s", "-x", "-l", "-B1", "--", *paths]
        done = subprocess.run(argv, capture_output=True, text=True, check=False, env={"LC_ALL": "C"})
        rows = (line.partition("\t") for line in done.stdout.splitlines())
        return {path: int(number) for number, _, path in rows if number.isdecimal()}

    found = as_all_ids(user, work)
    missing = [path for path in paths if path not in found]
    if missing:
        raise FleetError("STACK_DATA_UNUSABLE", f"{', '.join(missing)}: cannot be measured")
    return found
