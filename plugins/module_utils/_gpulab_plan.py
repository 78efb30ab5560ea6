# Copyright: gpulab.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What `gpulab deploy` is to deploy: a folder on this host, or a stack once more with other settings.

What the inventory or an earlier `gpulab deploy` had asked for and nobody names now goes on: settings, GPUs, secrets,
profiles, ports, checks and the like. Defaults of the stack's own files are not kept: they are what the files say now.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ansible_collections.gpulab.fleet.plugins.module_utils import (
    _gpulab_catalogue,
    _stack,
    _stack_files,
    _stack_gpus,
    _stack_mounts,
    _stack_schema,
    _working_tree,
)
from ansible_collections.gpulab.fleet.plugins.module_utils._compose_gpus import written
from ansible_collections.gpulab.fleet.plugins.module_utils._deploy_plan import KEEP, Plan, of_definition
from ansible_collections.gpulab.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.gpulab.fleet.plugins.module_utils._release import COMPOSE, Release, Store
from ansible_collections.gpulab.fleet.plugins.module_utils._userenv import Account
from ansible_collections.gpulab.fleet.plugins.module_utils._working_tree import Tree
from ansible_collections.gpulab.fleet.plugins.module_utils._yaml_by_compose import Found, locate, notes, read, run_as
from ansible_collections.gpulab.fleet.plugins.module_utils._yaml_by_compose import dotenv as read_dotenv

WAIT = 120


@dataclass
class Wish:
    """What was typed."""

    settings: Mapping[str, str] = field(default_factory=dict)
    unset: Sequence[str] = field(default_factory=list)
    gpus: Mapping[str, str] = field(default_factory=dict)
    secrets: Mapping[str, Path] = field(default_factory=dict)
    mounts: Mapping[str, str] = field(default_factory=dict)
    mutable: bool = False
    why: str = ""


@dataclass(frozen=True)
class Source:
    """Where a stack's files are on this host."""

    found: Found
    record: dict[str, Any] | None = None  # of a copy that was kept: what it was made of
    mutable: bool = False
    kept: bool = False  # it is the copy that a release has


# --- finding ---------------------------------------------------------------------------------------------------


def of_folder(target: Path) -> Source:
    """A folder with a Compose file, or such a file: then of the checkout that it is in."""
    path = target.expanduser().resolve()
    if not path.exists():
        raise FleetError("STACK_UNKNOWN", f"{path} is not there")
    return Source(locate(path))


def of_release(store: Store, release: Release) -> Source:
    """The folder that a release was made of, if it is on this host; else the copy that was kept of it."""
    known = release.source
    folder = Path(str(known.get("path", "")))
    compose_file, override = str(known.get("compose_file") or COMPOSE), str(known.get("override") or "")
    if known.get("host") and (folder / compose_file).is_file():
        # Of a folder the override may have come or gone since.
        again = Found(folder, folder / compose_file, alone=True) if known.get("alone") else locate(folder)
        return Source(again, mutable=known.get("kind") == "mutable")
    kept = store.files / release.files
    if not release.files or not (kept / compose_file).is_file():
        raise FleetError("STACK_SOURCE_GONE", f"release {release.id} was made of {folder}")
    return Source(Found(kept, kept / compose_file, kept / override if override else None), record=known, kept=True)


def of_catalogue(name: str, scratch: Path, archives: Sequence[Mapping[str, Any]] = ()) -> Source:
    """A shipped stack; its files are put below scratch. archives are those that its images came from."""
    found = locate(_gpulab_catalogue.unpack(name, scratch))
    place = _gpulab_catalogue.place(name)
    return Source(found, record={"kind": "catalogue", "path": place, "archives": list(archives), **found.inside()})


def tree_of(source: Source, compose: Any, mutable: bool, hide: Sequence[str]) -> Tree:
    """The files that become part of a release, and what is noted down of where they are from."""
    folder, inside = source.found.tree, source.found.inside()
    if source.record is not None:  # a copy that was kept: nothing was changed since
        return Tree(folder, _stack_files.shipped(folder), source.record)
    within = inside["compose_file"].rpartition("/")[0]
    also = [name for name in inside.values() if name]
    look = _working_tree.look
    tree = _working_tree.mutable(folder, hide) if mutable else look(folder, compose, within, hide, also)
    tree.source |= {"host": os.uname().nodename, **inside, "alone": source.found.alone}
    return tree


# --- the plan --------------------------------------------------------------------------------------------------


def make(user: Account, store: Store, source: Source, wish: Wish) -> tuple[Plan, list[str]]:
    """The plan, and what there is to say of the folder."""
    name, found, inside = store.name, source.found, source.found.inside()
    if wish.mutable and source.record is not None:
        raise _stack.wrong(
            name, f"--mutable mounts a folder of yours, and {source.record['path']} is none: name a folder"
        )
    current = store.current()
    compose, read_stack = read(found.compose, run_as(user), found.override)
    compose = _stack_schema.check_shape(name, compose)
    defined = _stack_schema.definition(name, _stack_schema.derived(compose) if read_stack is None else read_stack)
    dotenv = read_dotenv(found.compose.with_name(".env"))
    if read_stack is None:
        for key in defined["settings"].keys() & dotenv.keys():
            defined["settings"][key] = {"default": dotenv[key]}
    before = still_known(given_to(current), defined, compose)
    defined = _stack_schema.with_site(name, defined, before)
    if wish.mounts:
        defined["mounts"] = before["mounts"] = _stack_mounts.typed(name, defined["mounts"], wish.mounts)
    _stack_schema.check_names(name, defined, compose, before)
    mutable = wish.mutable or source.mutable
    secrets = kept_secrets(store, current, defined) | {key: read_secret(path) for key, path in wish.secrets.items()}
    _stack.check_secrets(name, defined, secrets)
    now = {**before, "settings": settings(name, defined, before, wish), "gpus": gpus(name, compose, before, wish)}
    tree = tree_of(source, compose, mutable, list(secrets.values()))
    plan = Plan(
        settings=_stack.settings(name, defined, now["settings"]),
        gpus={**written(compose), **defined["gpus"], **now["gpus"]},
        secrets=secrets,
        files=tree.files,
        archives=list((source.record or {}).get("archives") or []),
        wait_timeout=max(int(before.get("wait_timeout", WAIT)), int(defined["wait_timeout"])),
        keep=int(before.get("keep", KEEP)),
        source=tree.source,
        diff=tree.diff,
        local=str(found.tree),
        why=wish.why,
        given=now,
        compose_file=inside["compose_file"],
        override=inside["override"],
        **of_definition(defined, described=read_stack is not None),
    )
    return plan, [*tree.notes, *notes(found, dotenv)]


def given_to(current: Release | None) -> dict[str, Any]:
    """What the release that runs was given besides its stack's own files, in the inventory or on this host."""
    if current is None:
        return {}
    if current.given is not None:
        return current.given
    held = {name: list(service.gpus) or 0 for name, service in current.services.items()}
    parts = {"profiles": current.profiles, "checks": current.checks, "gpu_sharing": current.sharing}
    return {**parts, "settings": current.settings, "gpus": held, "wait_timeout": current.wait_timeout}


def still_known(given: Mapping[str, Any], defined: Mapping[str, Any], compose: Mapping[str, Any]) -> dict[str, Any]:
    """Without what the stack's files, as they are now, have no place for."""
    services, profiles = set(compose["services"]), _stack_schema.profiles_of(compose["services"])
    settings = {*defined["settings"], *defined["data"]}
    of_services = ("runs", "no_health", "graphics", "publish", "gpus")
    names = {"settings": settings, "profiles": profiles, **dict.fromkeys(of_services, services)}
    kept = dict(given)
    for part, known in names.items():
        if isinstance(value := given.get(part), Mapping):
            kept[part] = {name: each for name, each in value.items() if name in known}
        elif isinstance(value, list):
            kept[part] = [name for name in value if name in known]
    if "mounts" in kept:
        kept["mounts"] = _stack_mounts.still_known(kept["mounts"], services)
    if given.get("checks"):
        kept["checks"] = [each for each in given["checks"] if each.get("service", next(iter(services))) in services]
    return kept


def settings(name: str, defined: Mapping[str, Any], before: Mapping[str, Any], wish: Wish) -> dict[str, Any]:
    """What was given before, then what was typed; as the types that stack.yml wants."""
    known = {**{key: {"type": "path"} for key in defined["data"]}, **defined["settings"]}
    wrong = sorted(set(wish.unset) - set(known))
    if wrong:
        raise _stack.wrong(name, f"no setting {', '.join(wrong)}; there are: {', '.join(sorted(known)) or 'none'}")
    chosen = {**before.get("settings", {}), **wish.settings}
    return {
        key: {"true": True, "false": False}.get(text, text) if known.get(key, {}).get("type") == "bool" else text
        for key, text in chosen.items()
        if key not in wish.unset
    }


def gpus(name: str, compose: Mapping[str, Any], before: Mapping[str, Any], wish: Wish) -> dict[str, Any]:
    """What services were given before, then what was typed."""
    found = dict(before.get("gpus") or {})
    services = compose["services"]
    for service, text in wish.gpus.items():
        if service not in services:
            raise FleetError("STACK_SERVICE_UNKNOWN", f"{service}; {name} has: {', '.join(sorted(services))}")
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
