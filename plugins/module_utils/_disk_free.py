# Copyright: gpulab.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The way out of a full disk: gives back what can be had again, also when the engine does not start any more.

With the engine: its build cache, and images that only this collection named and that no kept release needs. Without it:
the logs of its containers, and what cut-off loads left. Data, volumes, images of others and containers stay.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ansible_collections.gpulab.fleet.plugins.module_utils._all_ids import as_all_ids, engine_runs
from ansible_collections.gpulab.fleet.plugins.module_utils._compose import Project, tail
from ansible_collections.gpulab.fleet.plugins.module_utils._disk_room import free
from ansible_collections.gpulab.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.gpulab.fleet.plugins.module_utils._user_space import ENGINE_ID, readable
from ansible_collections.gpulab.fleet.plugins.module_utils._userenv import Account

DEFAULT_DATA_ROOT = Path(".local", "share", "docker")
DAEMON_JSON = Path(".config", "docker", "daemon.json")
LOG = re.compile(r"[0-9a-f]{64}-json\.log(\.\d+)?(\.gz)?|container\.log(\.\d+)?(\.gz)?")


def data_root(user: Account) -> Path:
    """Where the engine keeps its data, by its own settings: an engine that is down cannot be asked."""
    try:
        told = json.loads((user.home / DAEMON_JSON).read_text(encoding="utf-8")).get("data-root")
    except (OSError, ValueError, AttributeError):
        told = None
    return Path(str(told)) if told else user.home / DEFAULT_DATA_ROOT


def make_room(user: Account, outdated: Iterable[str] = (), check: bool = False) -> dict[str, Any]:
    """{changed, freed, actions}; outdated are tags of this collection's that no kept release needs."""
    project = Project(user, "", Path("/"))
    root = data_root(user)
    before = free(root)[0]
    try:
        project.engine()
    except FleetError:
        actions = _without_engine(user, root, check)
    else:
        actions = _with_engine(project, outdated, check)
    return {"changed": bool(actions), "freed": max(0, free(root)[0] - before), "actions": actions}


def _with_engine(project: Project, outdated: Iterable[str], check: bool) -> list[str]:
    actions = []
    cache = sum(int(row.get("Size") or 0) for row in project.api("/system/df?type=build-cache").get("BuildCache") or [])
    if cache:
        actions.append(f"remove the build cache ({readable(cache)})")
        if not check:
            done = project.docker("builder", "prune", "--all", "--force")
            if done.returncode != 0:
                raise FleetError("STACK_DISK_FULL", f"docker builder prune:\n{tail(done.stderr, 5)}")
    for tag in outdated:
        if check or project.docker("rmi", tag).returncode == 0:  # one that a container still uses stays
            actions.append(f"remove image {tag}")
    return actions


def _without_engine(user: Account, root: Path, check: bool) -> list[str]:
    if not (root / ENGINE_ID).exists():
        raise FleetError("STACK_ENGINE_DOWN", f"the engine does not answer, and {root} is no data root of one")

    if engine_runs(user):
        raise FleetError("STACK_ENGINE_DOWN", "the engine runs and does not answer: stop it first, its logs are open")

    def work() -> dict[str, Any]:
        return {"actions": empty_logs(root, check)}

    actions: list[str] = as_all_ids(user, work)["actions"]
    return actions


def empty_logs(root: Path, check: bool) -> list[str]:
    """Only with the engine down: it would not notice that its logs have become shorter."""
    actions = []
    for path in sorted((root / "containers").glob("*/**/*")):
        if LOG.fullmatch(path.name) and path.is_file() and not path.is_symlink() and path.stat().st_size:
            actions.append(f"empty {path} ({readable(path.stat().st_size)})")
            if not check:
                with path.open("r+b") as file:
                    file.truncate()
    for path in sorted((root / "tmp").glob("*")):
        if path.is_file() and not path.is_symlink():
            actions.append(f"remove {path} ({readable(path.stat().st_size)})")
            if not check:
                path.unlink()
    return actions
