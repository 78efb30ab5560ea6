# Copyright: gpulab.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Images whose layers end half-way: found by content, and taken away so that they can be brought in again.

A power cut right after a load or an import leaves such an image, listed as if it were whole; loading it again mends
nothing, because the engine knows the layer by name already. What was synced to the disk once is noted down and not looked
at again; the content of anything else is read, which takes about a second for 200 MB.
"""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ansible_collections.gpulab.fleet.plugins.module_utils._compose import Project, sync
from ansible_collections.gpulab.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.gpulab.fleet.plugins.module_utils._files import write_atomic
from ansible_collections.gpulab.fleet.plugins.module_utils._home_record import state_folder

# What `docker save` says of a layer whose files are not those that it was made of.
DAMAGED = re.compile(
    r"file integrity checksum failed|/(overlay2|vfs|fuse-overlayfs)/\S+: no such file or directory|blob not found|"
    r"failed to get reader from content store"
)


# --- what is known to be on the disk ---------------------------------------------------------------------


def _path(home: Path) -> Path:
    return state_folder(home) / "images.json"


def synced(home: Path) -> set[str]:
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
        return set(json.loads(_path(home).read_text(encoding="utf-8"))["synced"])
    return set()


def record_synced(project: Project, brought: Iterable[str]) -> None:
    """After a sync of the data root: the images that this run brought in are on the disk.

    No others: one that a power cut damaged before could be among those that are merely there.
    """
    home = project.user.home
    ids = sorted((synced(home) | set(brought)) & _ids(project))
    if ids != sorted(synced(home)):
        write_atomic(_path(home), (json.dumps({"synced": ids}, indent=1) + "\n").encode(), 0o600, 0o700)


# --- judging ---------------------------------------------------------------------------------------------


def intact(project: Project, image_id: str) -> bool:
    """Whether the engine can read every file of an image as it was made; anything else that goes wrong is an error."""
    done = subprocess.run(
        ["docker", "save", image_id],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        check=False,
        cwd="/",
        env=project.env,
    )
    if done.returncode == 0:
        return True
    if DAMAGED.search(done.stderr):
        return False
    raise FleetError("STACK_ENGINE_DOWN", f"docker save {image_id[:19]}: {done.stderr.strip()[-300:]}")


def unread(project: Project, images: Iterable[str]) -> list[str]:
    """Those of these images (ids) of which it is not known that they are on the disk."""
    known = synced(project.user.home)
    return [image for image in dict.fromkeys(images) if image not in known]


# --- taking away -----------------------------------------------------------------------------------------


def discard(project: Project, broken: Iterable[str]) -> list[str]:
    """Removes broken images and every other one that is broken by sharing a layer with them; returns what went.

    As long as one image holds a broken layer, the engine would use that layer for whatever is loaded.
    """
    layers = {image: _layers(project, image) for image in _ids(project)}
    wanted = list(dict.fromkeys(broken))
    lost = {layer for image in wanted for layer in layers.get(image, [])}
    others = [image for image in sorted(layers) if image not in wanted and lost.intersection(layers[image])]
    gone = []
    for image in [*wanted, *(other for other in others if not intact(project, other))]:
        names = _names(project, image)
        # Its last name takes the image along; one that has none, or is known by digest as well, goes by its id.
        done = project.docker("rmi", "--force", *names) if names else project.docker("rmi", "--force", image)
        if names and image in _ids(project):
            done = project.docker("rmi", "--force", image)
        if image in _ids(project):
            raise FleetError("STACK_IMAGE_DAMAGED", f"{', '.join(names) or image[:19]}: {done.stderr.strip()[-300:]}")
        gone.append(f"remove damaged image {', '.join(names) or image[:19]}")
    return gone


def _ids(project: Project) -> set[str]:
    """Every image, also those without a name."""
    return {image["Id"] for image in project.api("/images/json?all=1")}


def _inspect(project: Project, image: str) -> dict[str, Any]:
    found: dict[str, Any] = project.api(f"/images/{quote(image, safe=':')}/json")
    return found


def _layers(project: Project, image: str) -> list[str]:
    return list((_inspect(project, image).get("RootFS") or {}).get("Layers") or [])


def _names(project: Project, image: str) -> list[str]:
    return list(_inspect(project, image).get("RepoTags") or [])


def mend(project: Project, images: Iterable[str], check: bool = False) -> list[str]:
    """Takes away what is broken among these images, before anything is asked of them; returns what was or would be done.

    Whoever needs one then finds it missing, and brings it in as on the first day.
    """
    doubtful = unread(project, images)
    broken = [image for image in doubtful if not intact(project, image)]
    if check:
        return [f"remove damaged image {image[:19]}" for image in broken]
    whole = [image for image in doubtful if image not in broken]
    if whole:  # read once is enough
        sync(project.api("/info")["DockerRootDir"])
        record_synced(project, whole)
    return discard(project, broken) if broken else []
