# Copyright: gpulab.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""`gpulab repair`: the host's user and the container's can both write to a stack's data again, without sudo."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ansible_collections.gpulab.fleet.plugins.module_utils._gpulab_stacks import Place
from ansible_collections.gpulab.fleet.plugins.module_utils._stack_data import repair as mend
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
