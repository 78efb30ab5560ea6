# Copyright: gpulab.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What is to be deployed: made on the controller from the inventory, or on the host from what a person typed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ansible_collections.gpulab.fleet.plugins.module_utils import _stack_mounts

KEEP = 3  # releases that are kept, the current one included


@dataclass
class Plan:
    """A stack's files, settings and wishes, already checked against its stack.yml."""

    settings: dict[str, str] = field(default_factory=dict)
    data: dict[str, dict[str, Any]] = field(default_factory=dict)  # by setting: folder, description
    gpus: dict[str, Any] = field(default_factory=dict)  # by service: all, a number, or a list of UUIDs and indices
    sharing: str = "exclusive"  # or shared
    secrets: dict[str, str] = field(default_factory=dict)
    secret_modes: dict[str, str] = field(default_factory=dict)
    generate: dict[str, int] = field(default_factory=dict)  # secrets that are made where none is given, and how long
    files: dict[str, dict[str, Any]] = field(default_factory=dict)  # relative path: sha256, mode
    archives: list[dict[str, Any]] = field(default_factory=list)
    wait_timeout: int = 120
    compose_file: str = "compose.yml"
    override: str = ""  # the file that is merged into it, of the tree as well
    source: dict[str, Any] = field(default_factory=dict)  # kind, path, commit, dirty
    diff: str = ""  # what differs from the commit, as text
    notes: list[str] = field(default_factory=list)
    local: str = ""  # folder on this host that the files are copied from
    profiles: list[str] = field(default_factory=list)  # besides those of the setting COMPOSE_PROFILES
    runs: dict[str, str] = field(default_factory=dict)  # services for one-off runs, and what a run of each does
    no_health: list[str] | None = None  # services that may have no health check; None: nobody was asked
    graphics: list[str] = field(default_factory=list)  # services that render on their GPU
    publish: dict[str, list[str]] = field(default_factory=dict)  # ports of services on the host's network
    mounts: dict[str, dict[str, Any]] = field(default_factory=dict)  # of the host, by name: see _stack_mounts
    snapshot: bool = False  # of the data, before what runs is replaced
    checks: list[dict[str, Any]] = field(default_factory=list)
    keep: int = KEEP
    why: str = ""
    # What was asked for besides the stack's own files: settings, gpus, parts of stack.yml, keep, wait_timeout.
    given: dict[str, Any] = field(default_factory=dict)

    @property
    def mutable(self) -> bool:
        return self.source.get("kind") == "mutable"


def of_definition(defined: Mapping[str, Any], described: bool) -> dict[str, Any]:
    """What a plan takes from a stack's definition as it is; described is whether there is a stack.yml."""
    return {
        "data": defined["data"],
        "sharing": defined["gpu_sharing"],
        "secret_modes": {name: str(entry.get("mode", "0600")) for name, entry in defined["secrets"].items()},
        "generate": {name: entry["generate"] for name, entry in defined["secrets"].items() if "generate" in entry},
        "no_health": defined["no_health"] if described else None,
        "mounts": _stack_mounts.into(defined["mounts"], defined["mount_into"]),
        **{part: defined[part] for part in ("profiles", "runs", "publish", "checks", "snapshot", "graphics")},
    }


@dataclass
class Handed:
    """Open files that the controller sent along."""

    bundle: int | None = None
    archives: dict[str, int] = field(default_factory=dict)
