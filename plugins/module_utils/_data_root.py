# Copyright: gpulab.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A data root outside the home: made by root, because the user may not write where it lies, and given to the user."""

from __future__ import annotations

import os
from pathlib import Path

from ansible_collections.gpulab.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.gpulab.fleet.plugins.module_utils._files import make_folders
from ansible_collections.gpulab.fleet.plugins.module_utils._journal import FOLDERS, Journal
from ansible_collections.gpulab.fleet.plugins.module_utils._userenv import Account

MODE = 0o710  # the engine's own choice


def settle(root: str, user: Account, journal: Journal) -> bool:
    """Have the folder, owned by the user; says whether it had to be made.

    One that belongs to somebody else is refused, not taken. What lies in the home the engine makes by itself.
    """
    path = Path(root)
    if not root or path.is_relative_to(user.home):
        return False
    if path.exists():
        if path.stat().st_uid != user.uid:
            raise FleetError("DATA_ROOT_NOT_OWNED", f"{path} belongs to uid {path.stat().st_uid}, not {user.name}")
        return False
    refuse_others_folders(path.parent, user)
    if not journal.check:
        for parent in reversed(path.parents):
            if not parent.is_dir():
                journal.add(FOLDERS, str(parent))
        journal.add(FOLDERS, str(path))
        make_folders(path.parent)
        # Under its final owner from the first moment, and never through a link.
        path.mkdir(mode=0o700)
        handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            os.fchown(handle, user.uid, user.gid)
            os.fchmod(handle, MODE)
        finally:
            os.close(handle)
    return True


def refuse_others_folders(folder: Path, user: Account) -> None:
    """Root makes nothing in a folder that a third person may change: they could put a link in its place."""
    while not folder.exists():
        folder = folder.parent
    status = folder.stat()
    if status.st_uid not in (0, user.uid) or (status.st_mode & 0o002 and not status.st_mode & 0o1000):
        raise FleetError("DATA_ROOT_NOT_OWNED", f"{folder} can be changed by others than root and {user.name}")
