# Copyright: gpulab.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Data folders that both sides can use: the container's user writes, and the host's user reads and writes without sudo.

What a container does as root, it does as the host's user: such a folder needs nothing. A user of the image's own is a
subordinate id on the host. It and the host's user are named in the folder's default access control list, which whatever
is made in the folder inherits from either side. A file made with a mode of its own (0600) takes that back from the other
side, and a file moved into the folder never had it; `repair` gives it again.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ansible_collections.gpulab.fleet.plugins.module_utils import _container_user, _posix_acl
from ansible_collections.gpulab.fleet.plugins.module_utils._all_ids import as_all_ids, outside
from ansible_collections.gpulab.fleet.plugins.module_utils._compose import Project
from ansible_collections.gpulab.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.gpulab.fleet.plugins.module_utils._files import make_folders
from ansible_collections.gpulab.fleet.plugins.module_utils._user_space import maps
from ansible_collections.gpulab.fleet.plugins.module_utils._userenv import Account

ALL = _posix_acl.READ | _posix_acl.WRITE | _posix_acl.EXECUTE


# --- who writes where ------------------------------------------------------------------------------------


def writers(
    project: Project, config: Mapping[str, Any], images: Mapping[str, str], folders: Iterable[str]
) -> dict[str, set[int]]:
    """The uids, as the containers call them, that use each data folder.

    config is what `docker compose config` made; images has the image id of each service.
    """
    found: dict[str, set[int]] = {folder: set() for folder in folders}
    for name, service in config["services"].items():
        used = [folder for folder in found if any(_within(source, folder) for source in bind_sources(service))]
        if used and name in images:
            user = _container_user.asked(service, _container_user.image_config(project, images[name]))
            number = _container_user.uid(project, name, images[name], user)
            for folder in used:
                found[folder].add(number)
    return found


def bind_sources(service: Mapping[str, Any]) -> list[str]:
    return [str(volume["source"]) for volume in service.get("volumes") or [] if volume.get("type") == "bind"]


def _within(path: str, folder: str) -> bool:
    return Path(path) == Path(folder) or Path(folder) in Path(path).parents


# --- preparing -------------------------------------------------------------------------------------------


def prepare(path: Path, user: Account, container_uids: Iterable[int], check: bool = False) -> list[str]:
    """Make the folder, and let these users of containers write in it; returns what was done, or would be."""
    actions: list[str] = []
    try:
        if not path.is_dir():
            actions.append(f"make {path}")
            if not check:
                make_folders(path)
        own = sorted({uid for uid in container_uids if uid != 0})
        new = [uid for uid in own if not _shared(path, user, uid)]
    except OSError as error:
        raise FleetError("STACK_DATA_UNUSABLE", f"{path}: {error.strerror}") from error
    if new:
        actions.append(f"let uid {', '.join(map(str, new))} of the containers write {path}")
        if not check:
            _mend(path, user, own)
    if path.is_dir() and not os.access(path, os.W_OK | os.X_OK):
        raise FleetError("STACK_DATA_UNUSABLE", f"{path}: {user.name} cannot write there")
    return actions


def _shared(path: Path, user: Account, uid: int) -> bool:
    """Whether the folder is already one in which both sides may do all, and what they make is too."""
    id_map = maps(user)[0]
    number = outside(id_map, uid)
    if number is None:
        raise FleetError("STACK_CONTAINER_USER", f"uid {uid} is beyond the subordinate ids of {user.name}: {id_map!r}")
    if not path.is_dir():
        return False
    access = _posix_acl.read(str(path), _posix_acl.ACCESS)
    inherited = _posix_acl.read(str(path), _posix_acl.DEFAULT)
    own = path.stat().st_uid == number or _posix_acl.allows(access, number, ALL)
    return own and all(_posix_acl.allows(inherited, each, ALL) for each in (number, user.uid))


# --- repairing -------------------------------------------------------------------------------------------


def repair(path: Path, user: Account) -> dict[str, int]:
    """Give both sides back what files made with a mode of their own withhold: {files, changed}.

    The sides are those that the folder was prepared for; of one that needed nothing, the host's user.
    """
    id_map = maps(user)[0]
    rows = [tuple(map(int, line.split())) for line in id_map.splitlines()]
    named = [number for tag, number in _posix_acl.read(str(path), _posix_acl.DEFAULT) if tag == _posix_acl.USER]
    inside = [first + number - host for number in named for first, host, count in rows if host <= number < host + count]
    return _mend(path, user, inside)


def _mend(path: Path, user: Account, container_uids: Iterable[int]) -> dict[str, int]:
    uids = sorted({0, *container_uids})

    def work() -> dict[str, Any]:
        try:
            return mend_tree(path, uids)
        except OSError as error:
            if error.errno in _posix_acl.UNSUPPORTED:
                raise FleetError("STACK_DATA_NO_ACL", f"{path}: {error.strerror}") from error
            raise FleetError("STACK_DATA_UNUSABLE", f"{error.filename or path}: {error.strerror}") from error

    return as_all_ids(user, work)


def mend_tree(path: Path, uids: Iterable[int]) -> dict[str, int]:
    """Share a folder and all in it with these users of the present namespace."""
    counted = {"files": 0, "changed": 0}
    users = list(uids)
    for place in _walk(path):
        counted["files"] += 1
        counted["changed"] += _posix_acl.share(place, users)
    return counted


def _walk(top: Path) -> Iterator[str]:
    """Each file and folder, as a path that leads to just this one.

    A container may exchange names while this runs: no name is trusted twice, and no link is followed.
    """
    here = os.open(top, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{here}"
        yield from _below(here, os.fstat(here).st_dev)
    finally:
        os.close(here)


def _below(folder: int, device: int) -> Iterator[str]:
    for name in sorted(os.listdir(folder)):
        try:
            entry = os.open(name, os.O_PATH | os.O_NOFOLLOW, dir_fd=folder)
        except FileNotFoundError:
            continue
        try:
            status = os.fstat(entry)
            if status.st_dev != device or not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):
                continue
            place = f"/proc/self/fd/{entry}"
            yield place
            if stat.S_ISDIR(status.st_mode):
                inner = os.open(place, os.O_RDONLY | os.O_DIRECTORY)
                try:
                    yield from _below(inner, device)
                finally:
                    os.close(inner)
        finally:
            os.close(entry)
