# Copyright: gpulab.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Secrets that a stack has made for it: once, on the host, where neither the inventory nor a person gives one.

ROOT/secrets/STACK/NAME   mode 0600, no line break at its end

Like data they belong to no release: a deploy, a rollback and an undeploy leave them as they are. What a release uses is
a version among its own secrets, like one that was given.
"""

from __future__ import annotations

import secrets
import string
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ansible_collections.gpulab.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.gpulab.fleet.plugins.module_utils._files import make_folders, write_atomic
from ansible_collections.gpulab.fleet.plugins.module_utils._home_record import remember_stacks
from ansible_collections.gpulab.fleet.plugins.module_utils._release import Store, sync_folder
from ansible_collections.gpulab.fleet.plugins.module_utils._release_files import secret_digests, secret_path
from ansible_collections.gpulab.fleet.plugins.module_utils._userenv import Account

# People read them off one screen and type them on another: nothing in it looks like something else.
ALPHABET = "".join(each for each in string.ascii_letters + string.digits if each not in "0O1lI")


def folder(root: Path, stack: str) -> Path:
    return root / "secrets" / stack


def complete(store: Store, lengths: Mapping[str, int], given: Mapping[str, str]) -> tuple[dict[str, str], list[str]]:
    """All secrets of a plan, and which of them were made here. A new one is kept by `keep` only."""
    mine = {}
    for name, length in lengths.items():
        if name not in given:
            mine[name] = _read(folder(store.root, store.name) / name) or _make(length)
    return {**given, **mine}, sorted(mine)


def keep(user: Account, store: Store, values: Mapping[str, str]) -> None:
    """Writes those that are not there yet, to stay."""
    if not values:
        return
    place = folder(store.root, store.name)
    remember_stacks(user.home, store.root, place)
    make_folders(place.parent)
    make_folders(place, 0o700)
    place.chmod(0o700)
    for name, text in values.items():
        path = place / name
        if _read(path) != text:
            write_atomic(path, text.encode(), 0o600)
        path.chmod(0o600)
    sync_folder(place)


def where(store: Store, release: Mapping[str, Any]) -> dict[str, str]:
    """Name -> the file with the value that a release (its record) uses, of those that were made here."""
    salt, found = store.salt(), {}
    for name in release.get("generated") or []:
        path, made = folder(store.root, store.name) / name, release["secrets"][name]
        try:
            same = secret_digests(salt, {name: _read(path)})[name] == made
        except FleetError:
            same = False
        # Otherwise somebody has asked for a new one since, and this release still has the one before.
        found[name] = str(path if same else secret_path(store, name, made))
    return found


def _make(length: int) -> str:
    return "".join(secrets.choice(ALPHABET) for _ in range(length))


def _read(path: Path) -> str:
    """What is in the file; a line break that an editor left is nobody's. Nothing where there is none."""
    try:
        return path.read_text(encoding="utf-8").rstrip("\n")
    except FileNotFoundError:
        return ""
    except (OSError, UnicodeDecodeError) as error:
        raise FleetError("STACK_SECRET_INVALID", f"{path}: {getattr(error, 'strerror', None) or error}") from error
