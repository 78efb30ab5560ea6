# Copyright: gpulab.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""`gpulab repair` and `free`: data that both sides can write to again, and a disk that has room again, without sudo."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from ansible_collections.gpulab.fleet.plugins.module_utils import _disk_free
from ansible_collections.gpulab.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.gpulab.fleet.plugins.module_utils._gpulab_stacks import Place, find
from ansible_collections.gpulab.fleet.plugins.module_utils._release_images import outdated_tags
from ansible_collections.gpulab.fleet.plugins.module_utils._stack_data import repair as mend
from ansible_collections.gpulab.fleet.plugins.module_utils._user_space import readable
from ansible_collections.gpulab.fleet.plugins.module_utils._userenv import Account

SCHEMA = 1


def repair(user: Account, place: Place) -> dict[str, Any]:
    release = place.store.current()
    # Without a release that says where they are, they are where they are by default.
    known = sorted(set(release.data.values())) if release else [str(place.root / "data" / place.name)]
    folders = [{"path": path, **mend(Path(path), user)} for path in known if Path(path).is_dir()]
    return {"schema": SCHEMA, "stack": place.name, "folders": folders}


def repaired_lines(result: dict[str, Any]) -> list[str]:
    text = [f"{each['path']}: {each['changed']} of {each['files']} files mended" for each in result["folders"]]
    return text or [f"{result['stack']} has no data folders"]


def free(user: Account, check: bool) -> dict[str, Any]:
    """What can be had again goes: build cache and images that no kept release needs; logs, where the engine is down."""
    outdated: list[str] = []
    for place in find(user).values():
        with contextlib.suppress(FleetError):  # no engine: nothing is known of its images
            outdated += outdated_tags(place.store, place.project().images())
    return {"schema": SCHEMA, **_disk_free.make_room(user, sorted(set(outdated)), check)}


def freed_lines(result: dict[str, Any], check: bool) -> list[str]:
    text = [f"{'would ' if check else ''}{action}" for action in result["actions"]] or ["nothing that can go"]
    return text if check else [*text, f"{readable(result['freed'])} freed"]
