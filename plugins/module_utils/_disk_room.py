# Copyright: gpulab.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Room on the disk: a floor of it stays free, because an engine whose disk is full does not come back from a restart."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from ansible_collections.gpulab.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.gpulab.fleet.plugins.module_utils._user_space import readable

FLOOR = 5 << 30
SHARE = 5  # per cent, of a disk so small that FLOOR would be more
LITTLE = 64 << 20  # without it an engine stops containers and cannot start them again


def floor(total: int) -> int:
    """Bytes to keep free on a disk of that size."""
    return min(FLOOR, total * SHARE // 100)


def free(path: Path) -> tuple[int, int]:
    """(bytes that the user can still write, size) of the file system on which a path is, or would be."""
    while not path.exists():
        path = path.parent
    found = os.statvfs(path)
    return found.f_bavail * found.f_frsize, found.f_blocks * found.f_frsize


def room(path: Path, need: int = 0, keep: int | None = None) -> None:
    """Refuses what needs so many bytes when less than the floor (keep: another one) would be left."""
    left, total = free(path)
    kept = floor(total) if keep is None else keep
    if left - need >= kept:
        return
    text = f"{path}: {readable(left)} of {readable(total)} are free"
    if need:
        text += f", {readable(need)} are needed"
    raise FleetError("STACK_DISK_ROOM", f"{text}, and {readable(kept)} have to stay free")


def refuse_standstill(paths: Iterable[Path]) -> None:
    """Before anything is stopped: where nothing is brought, less than the floor will do, but some has to be there."""
    for path in paths:
        room(path, keep=min(LITTLE, floor(free(path)[1])))
