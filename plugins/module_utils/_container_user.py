# Copyright: gpulab.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""As whom a service's containers run: a number, also where Compose or the image gives a name."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ansible_collections.gpulab.fleet.plugins.module_utils._compose import Project
from ansible_collections.gpulab.fleet.plugins.module_utils._errors import FleetError


def image_config(project: Project, image_id: str) -> dict[str, Any]:
    """What an image says of its containers: User, Volumes, …"""
    found: dict[str, Any] = project.api(f"/images/{image_id}/json").get("Config") or {}
    return found


def asked(service: Mapping[str, Any], image: Mapping[str, Any]) -> str:
    """The user's part of what compose.yml says, else the image: a number, a name, or nothing for root."""
    return str(service.get("user") or image.get("User") or "").partition(":")[0].strip()


def in_passwd(text: str, name: str) -> int | None:
    for line in text.splitlines():
        fields = line.split(":")
        if len(fields) > 2 and fields[0] == name and fields[2].isdecimal():
            return int(fields[2])
    return None


def uid(project: Project, service: str, image_id: str, user: str) -> int:
    """The number of a container's user. A name is looked up in the image, of which nothing is started."""
    if user in ("", "root"):
        return 0
    if user.isdecimal():
        return int(user)
    found = in_passwd(_passwd(project, image_id), user)
    if found is None:
        raise FleetError(
            "STACK_CONTAINER_USER", f"{service} runs as {user!r}, and its image's /etc/passwd has no {user}"
        )
    return found


def _passwd(project: Project, image_id: str) -> str:
    made = project.docker("create", "--network", "none", image_id, "true")
    container = made.stdout.strip()
    if made.returncode != 0:
        raise FleetError("STACK_CONTAINER_USER", f"{image_id}: {made.stderr.strip()}")
    try:
        with tempfile.TemporaryDirectory() as folder:
            target = Path(folder, "passwd")
            project.docker("cp", "--follow-link", f"{container}:/etc/passwd", str(target))
            return target.read_text(encoding="utf-8", errors="replace") if target.is_file() else ""
    finally:
        project.docker("rm", "--force", "--volumes", container)
