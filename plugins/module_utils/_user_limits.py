# Copyright: gpulab.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Limits for all that a user runs: a drop-in of the user's slice, which holds the engine and every container."""

from __future__ import annotations

from pathlib import Path
from typing import Any

UNITS = Path("/etc/systemd/system")
CONTROLLERS = "/sys/fs/cgroup/cgroup.controllers"
NEEDS = {"cpus": "cpu", "memory": "memory"}


def path(uid: int) -> Path:
    return UNITS / f"user-{uid}.slice.d" / "gpulab-limits.conf"


def drop_in(limits: dict[str, Any]) -> str:
    """The drop-in's text; empty when nothing is limited."""
    lines = []
    if limits.get("cpus"):
        lines.append(f"CPUQuota={round(float(limits['cpus']) * 100)}%")
    if limits.get("memory"):
        lines.append(f"MemoryMax={limits['memory']}")
    if not lines:
        return ""
    return "\n".join(["# Written by gpulab.fleet (rootless_docker_user).", "[Slice]", *lines, ""])


def unenforceable(user: str, limits: dict[str, Any], controllers: str) -> list[str]:
    """What is asked for and would be ignored on this host, and for want of what."""
    found = []
    for name, value in limits.items():
        if NEEDS.get(name) in controllers.split():
            continue
        lacking = f"this kernel offers no controller {NEEDS[name]}" if name in NEEDS else "there is no quota for it"
        found.append(f"gpulab_users.{user}.limits.{name} = {value}: {lacking}")
    return found
