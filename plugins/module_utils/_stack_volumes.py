# Copyright: gpulab.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Named volumes in which an image's own user can write.

The engine gives a new volume the owner that its path has in the image, and where the image has no such path, root: a
container that runs as a user of its own cannot write there. So such a volume is made before its first container, and
given to that user. One that has content is left as it is: its owner is what some program made of it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ansible_collections.gpulab.fleet.plugins.module_utils import _container_user
from ansible_collections.gpulab.fleet.plugins.module_utils._all_ids import as_all_ids
from ansible_collections.gpulab.fleet.plugins.module_utils._compose import PROJECT, Project
from ansible_collections.gpulab.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.gpulab.fleet.plugins.module_utils._stack_data import mend_tree

VOLUME = "com.docker.compose.volume"


def writers(project: Project, config: Mapping[str, Any], images: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """The volumes that users other than root mount, by the engine's name: what Compose would label them, and the uids.

    config is what `docker compose config` made; images has the image id of each service. Volumes that lie elsewhere
    (NFS, a driver) or that somebody else made (external) are not the engine's to give away.
    """
    found: dict[str, dict[str, Any]] = {}
    for name, service in config["services"].items():
        keys = [key for key in _mounted(service) if _is_local((config.get("volumes") or {}).get(key) or {})]
        if not keys or name not in images:
            continue
        user = _container_user.asked(service, _container_user.image_config(project, images[name]))
        uid = _container_user.uid(project, name, images[name], user)
        for key in keys if uid else []:
            about = (config.get("volumes") or {}).get(key) or {}
            labels = {**(about.get("labels") or {}), PROJECT: project.name, VOLUME: key}
            entry = found.setdefault(about.get("name") or key, {"labels": labels, "users": []})
            entry["users"] = sorted({*entry["users"], uid})
    return found


def _mounted(service: Mapping[str, Any]) -> list[str]:
    """Those that it can write in."""
    return [
        str(each["source"])
        for each in service.get("volumes") or []
        if each.get("type") == "volume" and each.get("source") and not each.get("read_only")
    ]


def _is_local(about: Mapping[str, Any]) -> bool:
    return not about.get("external") and not about.get("driver_opts") and about.get("driver") in (None, "", "local")


def prepare(project: Project, wanted: Mapping[str, Mapping[str, Any]], check: bool = False) -> list[str]:
    """Makes those that are missing, and lets their users write in those that are empty; returns what was done."""
    actions = []
    there = {row["Name"]: row for row in (project.api("/volumes").get("Volumes") or [])} if wanted else {}
    for name, entry in wanted.items():
        users = list(entry["users"])
        if name not in there:
            if not check:
                _make(project, name, entry["labels"])
                _give(project, Path(project.api(f"/volumes/{name}")["Mountpoint"]), users, check)
            actions.append(f"make volume {name} for uid {', '.join(map(str, users))} of the containers")
        elif _give(project, Path(there[name]["Mountpoint"]), users, check):
            actions.append(f"let uid {', '.join(map(str, users))} of the containers write volume {name}")
    return actions


def _make(project: Project, name: str, labels: Mapping[str, str]) -> None:
    given = [text for key, value in labels.items() for text in ("--label", f"{key}={value}")]
    done = project.docker("volume", "create", *given, name)
    if done.returncode != 0:
        raise FleetError("STACK_DATA_UNUSABLE", f"docker volume create {name}: {done.stderr.strip()}")


def _give(project: Project, path: Path, users: list[int], check: bool) -> bool:
    """Whether an empty volume that is root's became these users', or would."""

    def work() -> dict[str, Any]:
        try:
            if path.stat().st_uid != 0 or any(path.iterdir()):
                return {"given": False}
            if not check and len(users) == 1:
                os.chown(path, users[0], -1)
            given = check or len(users) == 1 or mend_tree(path, users)["changed"] > 0
        except OSError as error:
            raise FleetError("STACK_DATA_UNUSABLE", f"{path}: {error.strerror}") from error
        return {"given": given}

    return bool(as_all_ids(project.user, work)["given"])
