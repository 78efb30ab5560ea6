# Copyright: gpulab.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Measuring and deleting what a user's engine and containers have written.

Most of it belongs to the user's subordinate ids, which the user cannot delete and root should not: the path comes out
of a file that the user writes. Here it is done in a user namespace that holds the user and their ids and nobody else.
The map is written by root, so that it needs no newuidmap, which may be uninstalled already.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

from ansible_collections.gpulab.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.gpulab.fleet.plugins.module_utils._subid import Range, of_user, parse
from ansible_collections.gpulab.fleet.plugins.module_utils._userenv import SYSTEM_PATH, Account

CLONE_NEWUSER = 0x10000000
ENGINE_ID = "engine-id"

# What an engine keeps in its data root. Anything else there was put by somebody else.
DATA_ENTRIES = (
    "builder", "buildkit", "containerd", "containers", "fuse-overlayfs", "image", "network", "overlay2",
    "plugins", "rootfs", "runtimes", "swarm", "tmp", "trust", "vfs", "volumes",
)  # fmt: skip


def id_map(own: int, ranges: list[Range]) -> str:
    """The text of a uid_map or gid_map: the user is 0, their ranges follow."""
    lines = [f"0 {own} 1"]
    inside = 1
    for each in ranges:
        lines.append(f"{inside} {each.start} {each.count}")
        inside += each.count
    return "\n".join(lines) + "\n"


def maps(user: Account, etc: Path = Path("/etc")) -> tuple[str, str]:
    """The user's uid_map and gid_map."""
    texts = []
    for own, path in ((user.uid, etc / "subuid"), (user.gid, etc / "subgid")):
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        texts.append(id_map(own, of_user(parse(text, str(path)), user.name, user.uid)))
    return texts[0], texts[1]


def run_as_all_ids(user: Account, argv: list[str]) -> subprocess.CompletedProcess[str]:
    """Run a program that may do whatever the user and their subordinate ids may do, and nothing more."""
    uid_map, gid_map = maps(user)
    # Loaded before the fork: the child only calls.
    unshare: Callable[[int], int] = ctypes.CDLL(None, use_errno=True).unshare
    ready_read, ready = os.pipe()
    go, go_write = os.pipe()
    out_read, out = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(go_write)
            os.close(ready_read)
            os.close(out_read)
            if unshare(CLONE_NEWUSER) != 0:
                os._exit(125)
            os.write(ready, b"1")
            if os.read(go, 1) != b"1":
                os._exit(125)
            os.setgroups([])
            os.setresgid(0, 0, 0)
            os.setresuid(0, 0, 0)
            os.chdir("/")
            os.dup2(out, 1)
            os.dup2(out, 2)
            os.execve(argv[0], argv, {"PATH": SYSTEM_PATH, "LC_ALL": "C"})
        finally:
            os._exit(126)
    for end in (ready, go, out):
        os.close(end)
    try:
        if os.read(ready_read, 1) == b"1":
            Path(f"/proc/{child}/uid_map").write_text(uid_map, encoding="ascii")
            Path(f"/proc/{child}/gid_map").write_text(gid_map, encoding="ascii")
            os.write(go_write, b"1")
    finally:
        os.close(ready_read)
        os.close(go_write)
        with os.fdopen(out_read, encoding="utf-8", errors="replace") as pipe:
            said = pipe.read()
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return subprocess.CompletedProcess(argv, status, said, "")


def size(user: Account, path: Path) -> int:
    """Bytes on the disk below a path, on its own file system."""
    done = run_as_all_ids(user, ["/usr/bin/du", "-s", "-x", "-B1", "--", str(path)])
    for line in done.stdout.splitlines():
        number, _, _name = line.partition("\t")
        if number.isdigit():
            return int(number)
    return 0


def engine_data(root: Path) -> list[Path]:
    """What of an engine's is in a data root; its id comes last, because a folder without one is no data root."""
    if not (root / ENGINE_ID).exists():
        return []
    found = [root / name for name in DATA_ENTRIES if (root / name).exists() or (root / name).is_symlink()]
    return [*found, root / ENGINE_ID]


def delete(user: Account, paths: list[Path]) -> None:
    """Delete files and folders of the user's with all that is in them."""
    if not paths:
        return
    done = run_as_all_ids(user, ["/bin/rm", "-rf", "--one-file-system", "--", *map(str, paths)])
    left = [path for path in paths if path.is_symlink() or (path.exists() and not _emptied(path))]
    if left:
        said = " ".join(done.stdout.split()[:40])
        raise FleetError(
            "DATA_NOT_DELETED", f"{', '.join(map(str, left))}: {said or f'rm ended with {done.returncode}'}"
        )


def _emptied(path: Path) -> bool:
    """A folder whose own place the user may not change (another disk's) stays, without content."""
    with contextlib.suppress(OSError):
        return path.is_dir() and not any(path.iterdir())
    return False


def readable(number: int) -> str:
    """A size for people."""
    value = float(number)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"
