# Copyright: gpulab.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What `gpulab deploy` is to deploy: a folder on this host, or a stack once more with other settings.

What a release had and nobody names now goes on: settings, secrets, and GPUs where the site had chosen others than the
stack's own file does.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ansible_collections.gpulab.fleet.plugins.module_utils import (
    _stack,
    _stack_files,
    _stack_gpus,
    _stack_schema,
    _working_tree,
)
from ansible_collections.gpulab.fleet.plugins.module_utils._deploy_plan import Plan, of_definition
from ansible_collections.gpulab.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.gpulab.fleet.plugins.module_utils._files import read_text
from ansible_collections.gpulab.fleet.plugins.module_utils._release import COMPOSE, Release, Store
from ansible_collections.gpulab.fleet.plugins.module_utils._userenv import Account
from ansible_collections.gpulab.fleet.plugins.module_utils._working_tree import Tree
from ansible_collections.gpulab.fleet.plugins.module_utils._yaml_by_compose import locate, read, run_as

WAIT = 120
# NAME=value, 'value' or "value", with a comment behind it or not; values that are to be expanded are left alone.
ASSIGNMENT = re.compile(r"\s*(?:export\s+)?([A-Za-z_]\w*)\s*=\s*(?:'([^']*)'|\"([^\"$]*)\"|([^'\"$#]*?))\s*(?:#.*)?")


@dataclass
class Wish:
    """What was typed."""

    settings: Mapping[str, str] = field(default_factory=dict)
    unset: Sequence[str] = field(default_factory=list)
    gpus: Mapping[str, str] = field(default_factory=dict)
    secrets: Mapping[str, Path] = field(default_factory=dict)
    mutable: bool = False
    why: str = ""


@dataclass(frozen=True)
class Source:
    """Where a stack's files are on this host."""

    folder: Path
    compose_file: str  # in the folder
    record: dict[str, Any] | None = None  # of a copy that was kept: what it was made of
    mutable: bool = False


# --- finding ---------------------------------------------------------------------------------------------------


def of_folder(target: Path) -> Source:
    """A folder with a Compose file, or such a file: then of the checkout that it is in."""
    path = target.expanduser().resolve()
    if not path.exists():
        raise FleetError("STACK_UNKNOWN", f"{path} is not there")
    folder, compose = locate(path)
    return Source(folder, compose.relative_to(folder).as_posix())


def of_release(store: Store, release: Release) -> Source:
    """The folder that a release was made of, if it is on this host; else the copy that was kept of it."""
    known = release.source
    folder = Path(str(known.get("path", "")))
    compose_file = str(known.get("compose_file") or COMPOSE)
    if known.get("host") and (folder / compose_file).is_file():
        return Source(folder, compose_file, mutable=known.get("kind") == "mutable")
    kept = store.files / release.files
    if not release.files or not (kept / compose_file).is_file():
        raise FleetError("STACK_SOURCE_GONE", f"release {release.id} was made of {folder}")
    return Source(kept, compose_file, record=known)


def tree_of(source: Source, compose: Any, mutable: bool, hide: Sequence[str]) -> Tree:
    """The files that become part of a release, and what is noted down of where they are from."""
    if source.record is not None:  # a copy that was kept: nothing was changed since
        return Tree(source.folder, _stack_files.shipped(source.folder), source.record)
    inside = source.compose_file.rpartition("/")[0]
    look = _working_tree.look
    tree = _working_tree.mutable(source.folder, hide) if mutable else look(source.folder, compose, inside, hide)
    tree.source |= {"host": os.uname().nodename, "compose_file": source.compose_file}
    return tree


def dotenv(path: Path) -> dict[str, str]:
    """The values of a .env file that stand there as they are."""
    found = {}
    for line in read_text(path).splitlines():
        if match := ASSIGNMENT.fullmatch(line):
            found[match[1]] = next((each for each in match.groups()[1:] if each is not None), "")
    return found


# --- the plan --------------------------------------------------------------------------------------------------


def make(user: Account, store: Store, source: Source, wish: Wish) -> tuple[Plan, list[str]]:
    """The plan, and what there is to say of the folder."""
    name = store.name
    if not _stack.NAME.fullmatch(name):
        raise _stack.wrong(name, "a stack's name has small letters, digits, - and _ only; choose one with --name")
    current = store.current()
    compose, given = read(source.folder / source.compose_file, run_as(user))
    defined = _stack_schema.definition(name, _stack_schema.derived(compose) if given is None else given)
    _stack_schema.check_names(name, defined, compose)
    if given is None:
        for key, text in dotenv((source.folder / source.compose_file).with_name(".env")).items():
            if key in defined["settings"]:
                defined["settings"][key] = {"default": text}
    mutable = wish.mutable or source.mutable
    secrets = kept_secrets(store, current, defined) | {key: read_secret(path) for key, path in wish.secrets.items()}
    _stack.check_secrets(name, defined, secrets)
    chosen = _stack.settings(name, defined, settings(name, defined, current, wish))
    asked = gpus(name, defined["gpus"], set(compose.get("services") or {}), current, wish)
    tree = tree_of(source, compose, mutable, list(secrets.values()))
    parts = of_definition(defined, described=given is not None)
    if current and current.sharing != "exclusive":  # the site's choice
        parts["sharing"] = current.sharing
    if current and source.record is not None:
        parts |= chosen_by_site(current, parts)
    plan = Plan(
        settings=chosen,
        gpus=asked,
        secrets=secrets,
        files=tree.files,
        archives=list((source.record or {}).get("archives") or []),
        wait_timeout=max(current.wait_timeout if current else WAIT, int(defined["wait_timeout"])),
        compose_file=source.compose_file,
        source=tree.source,
        diff=tree.diff,
        local=str(source.folder),
        why=wish.why,
        **parts,
    )
    return plan, tree.notes


def chosen_by_site(current: Release, parts: Mapping[str, Any]) -> dict[str, Any]:
    """What the inventory may have added to a stack that it deployed: it is in the release and in no file here."""
    silent = [name for name, service in current.services.items() if not service.health and not service.one_off]
    runs = {name: "" for name, service in current.services.items() if service.one_off}
    return {
        "profiles": list(dict.fromkeys([*parts["profiles"], *current.profiles])),
        "checks": current.checks or parts["checks"],
        "runs": {**runs, **parts["runs"]},
        "no_health": None if parts["no_health"] is None else sorted({*parts["no_health"], *silent}),
    }


def settings(name: str, defined: Mapping[str, Any], current: Release | None, wish: Wish) -> dict[str, Any]:
    """What the current release has, then what was typed; as the types that stack.yml wants."""
    known = {**{key: {"type": "path"} for key in defined["data"]}, **defined["settings"]}
    wrong = sorted(set(wish.unset) - set(known))
    if wrong:
        raise _stack.wrong(name, f"no setting {', '.join(wrong)}; there are: {', '.join(sorted(known)) or 'none'}")
    chosen = {key: text for key, text in (current.settings if current else {}).items() if key in known}
    chosen |= wish.settings
    return {
        key: {"true": True, "false": False}.get(text, text) if known.get(key, {}).get("type") == "bool" else text
        for key, text in chosen.items()
        if key not in wish.unset
    }


def gpus(name: str, own: Mapping[str, Any], services: set[str], current: Release | None, wish: Wish) -> dict[str, Any]:
    """What each service asks for: stack.yml, else as many as it has now, else what was typed."""
    found = dict(own)
    for service, had in (current.services if current else {}).items():
        request = own.get(service, 0)
        if service in services and not (isinstance(request, int) and request == len(had.gpus)) and request != "all":
            found[service] = list(had.gpus) or 0
    for service, text in wish.gpus.items():
        if service not in services:
            raise FleetError("STACK_SERVICE_UNKNOWN", f"{service}; {name} has: {', '.join(sorted(services)) or 'none'}")
        found[service] = int(text) if text.isdecimal() else text if text in ("all", "none") else text.split(",")
        _stack_gpus.check_request(service, found[service])
    return found


def kept_secrets(store: Store, current: Release | None, defined: Mapping[str, Any]) -> dict[str, str]:
    if current is None:
        return {}
    found = {}
    for key, digest in current.secrets.items():
        if key in current.generated and "generate" in defined["secrets"].get(key, {}):
            continue  # it is where it was made
        if key in defined["secrets"]:
            found[key] = read_secret(store.secrets / f"{key}.{digest}", whole=True)
    return found


def read_secret(path: Path, whole: bool = False) -> str:
    """A secret comes out of a file: what is typed on a command line is everybody's to read."""
    try:
        text = path.expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise FleetError("STACK_SECRET_INVALID", f"{path}: {getattr(error, 'strerror', None) or error}") from error
    return text if whole else text.rstrip("\n")  # editors end a file with a line break that nobody means
