# Copyright: gpulab.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a release is made of besides images: the shipped tree, the parts of it that are mounted, and secrets.

Each is kept under a checksum of its content and made beside its place: what is there is whole, and what two releases
have in common is there once.
"""

from __future__ import annotations

import contextlib
import hmac
import os
import shutil
import tarfile
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ansible_collections.gpulab.fleet.plugins.module_utils._deploy_plan import Handed, Plan
from ansible_collections.gpulab.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.gpulab.fleet.plugins.module_utils._files import make_folders, write_atomic
from ansible_collections.gpulab.fleet.plugins.module_utils._release import Release, Store, sync_folder, sync_tree
from ansible_collections.gpulab.fleet.plugins.module_utils._release_compose import part_digest
from ansible_collections.gpulab.fleet.plugins.module_utils._stack_files import checksum, digest
from ansible_collections.gpulab.fleet.plugins.module_utils._tree_delta import take_over

Shipped = Mapping[str, Mapping[str, Any]]


def tree_digest(files: Shipped) -> str:
    return digest({name: [entry["sha256"], entry["mode"]] for name, entry in files.items()})[:16]


def differing(folder: Path, files: Shipped) -> list[str]:
    """The shipped files that are not in the folder as they were shipped."""
    return [name for name, entry in files.items() if checksum(folder / name) != entry["sha256"]]


def have_tree(store: Store, plan: Plan) -> bool:
    """Whether this very tree is here: whole, and as it was shipped."""
    folder = store.files / tree_digest(plan.files)
    return folder.is_dir() and not differing(folder, plan.files)


def bring_tree(store: Store, plan: Plan, handed: Handed, scratch: Path) -> Path:
    """The shipped tree on this host: the one that is kept, or made now.

    scratch is where it is made in check mode, which keeps nothing.
    """
    if plan.mutable:
        return Path(plan.source["path"])
    place = store.files / tree_digest(plan.files)
    if have_tree(store, plan):
        return place
    make = scratch / "tree"
    if plan.local:
        for name, entry in plan.files.items():
            make_folders((make / name).parent)
            shutil.copyfile(Path(plan.local, name), make / name)
            (make / name).chmod(entry["mode"])
    else:
        if handed.bundle is not None:
            unpack(handed.bundle, plan.files, make)
        take_over(store.files, plan.files, make)
    wrong = differing(make, plan.files)
    if wrong:
        raise FleetError("STACK_INVALID", f"{wrong[0]} did not arrive as it was sent")
    return make


def keep_tree(store: Store, plan: Plan, made: Path) -> Path:
    """Puts a tree that was made beside its place there."""
    place = store.files / tree_digest(plan.files)
    if plan.mutable or made == place:
        return made
    return move_into(made, place)


def move_into(made: Path, place: Path) -> Path:
    sync_tree(made)
    make_folders(place.parent)
    shutil.rmtree(place, ignore_errors=True)  # one that somebody has changed
    made.replace(place)
    sync_folder(place.parent)
    return place


def unpack(bundle: int, files: Shipped, target: Path) -> None:
    """What travelled: those of the files that this host had not."""
    with os.fdopen(os.dup(bundle), "rb") as file, tarfile.open(fileobj=file, mode="r:*") as tar:
        for member in tar:
            source = tar.extractfile(member) if member.name in files else None
            if source is None:
                raise FleetError("STACK_INVALID", f"{member.name} was not expected")
            path = target / member.name
            make_folders(path.parent)
            with source, path.open("wb") as copy:
                shutil.copyfileobj(source, copy)
            path.chmod(files[member.name]["mode"])


def pinned(store: Store, plan: Plan, tree: Path, relative: str) -> Path:
    """Where a part of the tree is mounted from; the whole tree from where it is kept."""
    if relative == "":
        return store.files / tree_digest(plan.files)
    return store.mounts / part_digest(relative, plan.files) / Path(relative).name


def keep_mount(place: Path, source: Path) -> None:
    """Copies a part of the tree to the place that stands for its content."""
    if place.exists():
        return
    make_folders(place.parent.parent)
    beside = Path(tempfile.mkdtemp(prefix=".new-", dir=place.parent.parent))
    try:
        beside.chmod(0o755)
        target = beside / place.name
        shutil.copytree(source, target) if source.is_dir() else shutil.copy2(source, target)
        move_into(beside, place.parent)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


# --- secrets ---------------------------------------------------------------------------------------------


def secret_digests(salt: str, secrets: Mapping[str, str]) -> dict[str, str]:
    """A name for each secret's value that does not give it away."""
    key = salt.encode()
    return {name: hmac.new(key, text.encode(), "sha256").hexdigest()[:16] for name, text in secrets.items()}


def secret_path(store: Store, name: str, made: str) -> Path:
    return store.secrets / f"{name}.{made}"


def keep_secrets(
    store: Store, secrets: Mapping[str, str], modes: Mapping[str, str], digests: Mapping[str, str]
) -> None:
    """Each version of a secret lies in a file of its own, so that a rollback has the one that its release had."""
    if not secrets:
        return
    make_folders(store.folder)
    store.secrets.mkdir(mode=0o700, exist_ok=True)
    store.secrets.chmod(0o700)
    for name, text in secrets.items():
        path, mode = secret_path(store, name, digests[name]), int(modes.get(name, "0600"), 8)
        try:
            same = path.read_text(encoding="utf-8") == text and path.stat().st_mode & 0o777 == mode
        except OSError:
            same = False
        if not same:
            write_atomic(path, text.encode(), mode)


def masked(store: Store, release: Release, text: str) -> str:
    """What a service said, without the secrets that it was given."""
    for name, made in release.secrets.items():
        with contextlib.suppress(OSError, UnicodeDecodeError):
            value = secret_path(store, name, made).read_text(encoding="utf-8").strip()
            text = text.replace(value, "********") if value else text
    return text
