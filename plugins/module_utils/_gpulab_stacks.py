# Copyright: gpulab.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The stacks of the user who asks: where they lie, which release is current, what runs of it."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ansible_collections.gpulab.fleet.plugins.module_utils import _home_record
from ansible_collections.gpulab.fleet.plugins.module_utils._compose import Container, Project
from ansible_collections.gpulab.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.gpulab.fleet.plugins.module_utils._release import COMPOSE, FAILED, RECORD, Store
from ansible_collections.gpulab.fleet.plugins.module_utils._userenv import Account

DEFAULT_ROOT = "gpulab"


def load(path: Path) -> dict[str, Any]:
    """A JSON object from a file; empty where there is none."""
    with contextlib.suppress(OSError, ValueError):
        data = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(data, dict):
            return data
    return {}


@dataclass(frozen=True)
class Place:
    """A stack on this host."""

    user: Account
    root: Path
    name: str

    @property
    def folder(self) -> Path:
        """All that there is of the stack: releases, history, secrets."""
        return self.store.folder

    @property
    def current(self) -> Path:
        """The folder of the release that is to run, where plain `docker compose` works."""
        link = self.store.link
        return link if link.is_dir() else self.folder

    @property
    def deployed(self) -> bool:
        return (self.current / COMPOSE).is_file()

    @property
    def there(self) -> bool:
        """Whether this is a stack, or one whose first deployment was begun."""
        return self.deployed or bool(self.releases()) or bool(self.unfinished)

    @property
    def store(self) -> Store:
        return Store(self.root, self.name)

    @property
    def release(self) -> dict[str, Any]:
        return load(self.current / RECORD)

    @property
    def unfinished(self) -> dict[str, Any]:
        return self.store.unfinished() or {}

    def releases(self) -> list[str]:
        """Ids of the releases that are kept, oldest first."""
        return sorted(path.name for path in self.folder.glob("releases/*") if (path / RECORD).is_file())

    def failed(self) -> tuple[str, dict[str, Any]] | None:
        """The newest release, when it is one that failed, and why it did."""
        newest = self.releases()[-1:]
        reason = load(self.folder / "releases" / newest[0] / FAILED) if newest else {}
        return (newest[0], reason) if reason else None

    def project(self) -> Project:
        return Project(self.user, self.name, self.current)

    def services(self, containers: list[Container]) -> list[str]:
        """What should run: what the release says, or, where there is none, what has containers."""
        known: Mapping[str, Any] = self.release.get("services") or {}
        always = [name for name, service in known.items() if not service.get("one_off")]
        return sorted(always or {each.service for each in containers})


def roots(user: Account) -> list[str]:
    """Where this user's stacks lie."""
    return list(dict.fromkeys([*_home_record.stacks(user.home)["roots"], str(user.home / DEFAULT_ROOT)]))


def find(user: Account) -> dict[str, Place]:
    """The user's stacks by name."""
    found: dict[str, Place] = {}
    for root in roots(user):
        with contextlib.suppress(OSError):
            for path in sorted(Path(root, "stacks").iterdir()):
                place = Place(user, Path(root), path.name)
                if not path.name.startswith(".") and place.there:
                    found.setdefault(path.name, place)
    return dict(sorted(found.items()))


def pick(user: Account, name: str) -> Place:
    stacks = find(user)
    if name not in stacks:
        raise FleetError("STACK_NOT_HERE", f"{name}; {user.name} has: {', '.join(stacks) or 'none'}")
    return stacks[name]


def check_service(place: Place, service: str) -> None:
    """A service's name is refused here, before Compose says it in its own way."""
    known = place.release.get("services") or {}
    if service in known:
        return
    everything = services_of(place)
    if service not in everything:
        there = ", ".join(sorted(everything)) or "none"
        raise FleetError("STACK_SERVICE_UNKNOWN", f"{service}; {place.name} has: {there}")


def services_of(place: Place) -> list[str]:
    """The services that Compose reads, those of all profiles."""
    done = place.project().compose("--profile", "*", "config", "--services")
    if done.returncode != 0:
        raise FleetError("STACK_COMPOSE_INVALID", (done.stderr or done.stdout).strip())
    return done.stdout.split()
