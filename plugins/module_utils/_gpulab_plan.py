# Copyright: gpulab.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What `gpulab deploy` is to deploy: a folder on this host, or a stack once more with other settings.

What a release had and nobody names now goes on: settings, secrets, and GPUs where the site had chosen others than the
stack's own file does.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import tempfile
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ansible_collections.gpulab.fleet.plugins.module_utils import _stack, _stack_files, _stack_gpus, _stack_schema
from ansible_collections.gpulab.fleet.plugins.module_utils._compose import Project
from ansible_collections.gpulab.fleet.plugins.module_utils._deploy_plan import Plan, of_definition
from ansible_collections.gpulab.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.gpulab.fleet.plugins.module_utils._release import Release, Store
from ansible_collections.gpulab.fleet.plugins.module_utils._userenv import Account

DEFINITION = "stack.yml"
# As Compose itself looks for them.
COMPOSE_FILES = ("compose.yml", "compose.yaml", "docker-compose.yml", "docker-compose.yaml")
PROFILES = "COMPOSE_PROFILES"
WAIT = 120


@dataclass
class Wish:
    """What was typed."""

    settings: Mapping[str, str] = field(default_factory=dict)
    unset: Sequence[str] = ()
    gpus: Mapping[str, str] = field(default_factory=dict)
    secrets: Mapping[str, Path] = field(default_factory=dict)
    mutable: bool = False
    why: str = ""


@dataclass(frozen=True)
class Source:
    """Where a stack's files are on this host."""

    folder: Path
    compose_file: str
    record: dict[str, Any]


# --- finding ---------------------------------------------------------------------------------------------------


def of_folder(target: Path, mutable: bool) -> Source:
    """A folder with a Compose file, or such a file itself."""
    path = target.expanduser().resolve()
    if path.is_dir():
        name = next((each for each in COMPOSE_FILES if (path / each).is_file()), "")
        if not name:
            raise FleetError("STACK_UNKNOWN", f"{path} has none of {', '.join(COMPOSE_FILES)}")
        return Source(path, name, record(path, mutable))
    if not path.is_file():
        raise FleetError("STACK_UNKNOWN", f"{path} is not there")
    return Source(path.parent, path.name, record(path.parent, mutable))


def of_release(store: Store, release: Release, mutable: bool) -> Source:
    """The folder that a release was made of, if it is on this host; else the copy that was kept of it."""
    known = release.source
    folder = Path(str(known.get("path", "")))
    compose_file = str(known.get("compose_file") or _stack_files.COMPOSE)
    if known.get("host") and (folder / compose_file).is_file():
        return Source(folder, compose_file, record(folder, mutable or known.get("kind") == "mutable"))
    kept = store.files / release.files
    if not release.files or not (kept / compose_file).is_file():
        raise FleetError("STACK_SOURCE_GONE", f"release {release.id} was made of {folder}")
    return Source(kept, compose_file, dict(known))


def record(folder: Path, mutable: bool) -> dict[str, Any]:
    """What is noted down of a folder: where it is on this host, and the state of its Git repository."""
    found: dict[str, Any] = {
        "kind": "mutable" if mutable else "folder",
        "path": str(folder),
        "host": os.uname().nodename,
    }
    commit = git(folder, "rev-parse", "HEAD").strip()
    if commit:
        found |= {"commit": commit, "dirty": bool(git(folder, "status", "--porcelain", "--", ".").strip())}
    return found


def git(folder: Path, *arguments: str) -> str:
    """What Git says; nothing without Git, outside a repository, or in one that is somebody else's."""
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=False, timeout=60
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""


def shipped(folder: Path, compose_file: str) -> dict[str, dict[str, Any]]:
    """The files of a folder that become part of a release; not those that its Git repository ignores."""
    names = listed(folder)
    if compose_file not in names:  # no repository, or one that is not about this folder
        return _stack_files.shipped(folder)
    found = {}
    for name in sorted(names):
        path = folder / name
        if path.is_file() and not _stack_files.NOT_SHIPPED & set(Path(name).parts):
            mode = 0o755 if path.stat().st_mode & 0o100 else 0o644
            found[name] = {"sha256": _stack_files.checksum(path), "mode": mode}
    return found


def listed(folder: Path) -> set[str]:
    """What Git tracks or would track below a folder, its submodules included."""
    names = git(folder, "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", ".").split("\0")
    found = {name for name in names if name and not (folder / name).is_dir()}
    for name in names:
        if name and (folder / name).is_dir():
            found |= {f"{name.rstrip('/')}/{each}" for each in listed(folder / name)}
    return found


# --- reading ---------------------------------------------------------------------------------------------------


def read_yaml(project: Project, path: Path) -> Any:
    """YAML as data, read by Compose: Python's standard library has nothing that could.

    As an extension of a project that has nothing else, it is neither judged nor filled in.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    text = re.sub(r"\A(?:\s*#[^\n]*\n|\s*\n)*---[^\n]*\n", "", text)
    whole = "name: gpulab\nservices: {}\nx-gpulab:\n" + textwrap.indent(text, "  ") + "\n"
    with tempfile.NamedTemporaryFile("w", suffix=".yml", encoding="utf-8") as file:
        file.write(whole)
        file.flush()
        done = project.compose("-f", file.name, "config", "--no-interpolate", "--format", "json")
    if done.returncode != 0:
        raise FleetError("STACK_INVALID", f"{path}: {(done.stderr or done.stdout).strip()}")
    return json.loads(done.stdout).get("x-gpulab")


def dotenv(path: Path) -> dict[str, str]:
    """The values of a .env file that stand there as they are."""
    found = {}
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
        match = re.fullmatch(
            r"\s*(?:export\s+)?([A-Za-z_]\w*)\s*=\s*(?:'([^']*)'|\"([^\"$]*)\"|([^'\"$#]*?))\s*(?:#.*)?", line
        )
        if match:
            found[match[1]] = next((each for each in match.groups()[1:] if each is not None), "")
    return found


# --- the plan --------------------------------------------------------------------------------------------------


def make(user: Account, store: Store, source: Source, wish: Wish) -> Plan:
    name = store.name
    if not _stack.NAME.fullmatch(name):
        raise _stack.wrong(name, "a stack's name has small letters, digits, - and _ only; choose one with --name")
    current = store.current()
    project = Project(user, name, source.folder)
    given = read_yaml(project, source.folder / DEFINITION)
    compose = read_yaml(project, source.folder / source.compose_file) or {}
    defined = _stack_schema.definition(name, given)
    _stack_schema.check_names(name, defined, compose)
    services = set(compose.get("services") or {})
    if given is None:
        defined["settings"] = free_settings(source.folder, current, wish)
    mutable = source.record.get("kind") == "mutable"
    secrets = kept_secrets(store, current, defined) | {key: read_secret(path) for key, path in wish.secrets.items()}
    _stack.check_secrets(name, defined, secrets)
    parts = of_definition(defined, given is not None)
    if current:
        parts["sharing"] = current.sharing
    return Plan(
        **parts,
        settings=_stack.settings(name, defined, settings(name, defined, current, wish)),
        gpus=gpus(name, defined["gpus"], services, current, wish),
        secrets=secrets,
        files={} if mutable else shipped(source.folder, source.compose_file),
        wait_timeout=max(current.wait_timeout if current else WAIT, int(defined["wait_timeout"])),
        compose_file=source.compose_file,
        source={**source.record, "compose_file": source.compose_file},
        local=str(source.folder),
        why=wish.why,
    )


def free_settings(folder: Path, current: Release | None, wish: Wish) -> dict[str, dict[str, Any]]:
    """A folder without a stack.yml has the settings that its .env has, and whatever is set besides."""
    found: dict[str, dict[str, Any]] = {key: {"default": text} for key, text in dotenv(folder / ".env").items()}
    for key in [*(current.settings if current else {}), *wish.settings]:
        found.setdefault(key, {})
    for key in found:
        if not re.fullmatch(r"[A-Za-z_]\w*", key) or key in _stack.TAKEN | _stack.OURS:
            raise FleetError("STACK_SETTING_INVALID", f"{key} cannot be the name of a setting")
    return found


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
    found = {}
    for key, digest in (current.secrets if current else {}).items():
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
