# Copyright: gpulab.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a release would stumble over only when it is brought up, refused while it is made: nothing has been stopped yet.

`config` is what `docker compose config --format json` prints, of the services that the release has.
"""

from __future__ import annotations

import platform
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ansible_collections.gpulab.fleet.plugins.module_utils._compose import Project
from ansible_collections.gpulab.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.gpulab.fleet.plugins.module_utils._stack_files import used_secrets
from ansible_collections.gpulab.fleet.plugins.module_utils._stack_schema import profiles_of

MACHINES = {"x86_64": "amd64", "aarch64": "arm64"}


def machine() -> str:
    """This host's processor, as images name it."""
    return MACHINES.get(platform.machine(), platform.machine())


def profiles(everything: Mapping[str, Any], chosen: Iterable[str]) -> None:
    """Compose itself says nothing of a profile that no service has."""
    known = profiles_of(everything["services"])
    unknown = sorted(set(chosen) - known)
    if unknown:
        there = ", ".join(sorted(known)) or "none"
        text = f"profiles or COMPOSE_PROFILES names {', '.join(unknown)}; compose.yml has the profiles: {there}"
        raise FleetError("STACK_SETTING_INVALID", text)


def missing_files(config: Mapping[str, Any], ours: Path) -> None:
    """Secrets and configs whose file is not there. Those below `ours` are written by the deploy itself."""
    wanted: dict[str, str] = {}
    for service in config["services"].values():
        build = service.get("build") or {}
        used = {"secrets": [*used_secrets(service), *used_secrets(build)], "configs": _sources(service.get("configs"))}
        for part, names in used.items():
            for name in names:
                entry = (config.get(part) or {}).get(name) or {}
                if entry.get("environment"):
                    wanted[f"{part}.{name}.environment"] = (
                        f"{entry['environment']} of whoever starts it: write file: instead"
                    )
                elif entry.get("external"):
                    wanted[f"{part}.{name}.external"] = "only Swarm has those: write file: instead"
                elif (
                    entry.get("file")
                    and not Path(entry["file"]).is_relative_to(ours)
                    and not Path(entry["file"]).exists()
                ):
                    wanted[f"{part}.{name}.file"] = f"{entry['file']} is not there"
    if wanted:
        raise FleetError("STACK_FILE_MISSING", "; ".join(f"{where}: {text}" for where, text in sorted(wanted.items())))


def _sources(entries: Any) -> list[str]:
    return [each["source"] if isinstance(each, Mapping) else str(each) for each in entries or []]


def missing_externals(config: Mapping[str, Any], project: Project) -> None:
    """Networks and volumes that somebody else makes."""
    absent = []
    for part in ("networks", "volumes"):
        wanted = {
            name: entry["name"] for name, entry in (config.get(part) or {}).items() if (entry or {}).get("external")
        }
        if wanted:
            found = project.api(f"/{part}")
            there = {each["Name"] for each in (found.get("Volumes") or [] if part == "volumes" else found)}
            absent += [f"{part}.{name}: {known}" for name, known in wanted.items() if known not in there]
    if absent:
        raise FleetError("STACK_EXTERNAL_MISSING", ", ".join(absent))


def foreign_archives(archives: Iterable[Mapping[str, Any]]) -> None:
    """Archives for another processor are not even sent."""
    for each in archives:
        made_for = each.get("architecture") or machine()
        if made_for != machine():
            text = f"images: {each['name']} in {each['archive']} is for {made_for}, this host is {machine()}"
            raise FleetError("STACK_IMAGE_ARCHITECTURE", text)
