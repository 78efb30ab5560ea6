# Copyright: gpulab.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""One run at a time on a stack: the second is told who holds it. The kernel lets go when the last holder dies.

What a run starts to change containers inherits the lock. So when a run is killed, nobody else begins as long as a
`docker compose` of it goes on. One that does not come to its end by itself is ended by whoever waits for the lock.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

from ansible_collections.gpulab.fleet.plugins.module_utils._clock import now
from ansible_collections.gpulab.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.gpulab.fleet.plugins.module_utils._files import make_folders

FOLDER = ".locks"
POLL = 0.1
END = 15.0  # seconds that what a dead run left may take to end when it is told to

_held: list[int] = []


def inherited() -> tuple[int, ...]:
    """What a program that changes containers has to inherit: the locks that this process holds."""
    return tuple(_held)


@contextlib.contextmanager
def held(stacks: Path, name: str, who: str, verb: str, wait: float) -> Iterator[None]:
    """Holds the lock `name` of the folder that stacks lie in; STACK_BUSY when another keeps it for `wait` seconds."""
    path = stacks / FOLDER / name
    file = _take(path, name, wait)
    _held.append(file)
    try:
        os.ftruncate(file, 0)
        os.pwrite(file, json.dumps({"pid": os.getpid(), "who": who, "verb": verb, "since": now()}).encode(), 0)
        yield
    finally:
        _held.remove(file)
        path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            path.parent.rmdir()
        os.close(file)


def _take(path: Path, name: str, wait: float) -> int:
    deadline = time.monotonic() + wait
    told: set[int] = set()
    while True:
        make_folders(path.parent)
        try:
            file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except FileNotFoundError:  # the one before us has just removed the folder
            continue
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with contextlib.suppress(FileNotFoundError):
                if os.fstat(file).st_ino == path.stat().st_ino:
                    return file
            os.close(file)  # it was removed while we waited: not the lock any more
            continue
        except BlockingIOError:
            holder = os.pread(file, 1000, 0)
            os.close(file)
        if time.monotonic() > deadline:
            left = _left(path, holder)
            if not left or told:
                raise FleetError("STACK_BUSY", f"{name}: {_described(holder, left)}")
            told = set(left)
            for pid in told:
                with contextlib.suppress(OSError):
                    os.kill(pid, signal.SIGTERM)
            deadline = time.monotonic() + END
        time.sleep(POLL)


# --- who holds it ------------------------------------------------------------------------------------------


def _left(path: Path, holder: bytes) -> dict[int, str]:
    """Processes, by what they are called, that a run which has died left with the lock; none while the run lives."""
    try:
        lock = path.stat()
    except FileNotFoundError:
        return {}
    holders = {int(each.name): each for each in Path("/proc").glob("[0-9]*") if _holds(each, lock)}
    if _entry(holder).get("pid") in holders:
        return {}
    return {pid: _command(each) for pid, each in holders.items()}


def _holds(process: Path, lock: os.stat_result) -> bool:
    """Whether a process has the lock, not merely the file open: who waits for it has that, too."""
    with contextlib.suppress(OSError):
        for each in (process / "fd").iterdir():
            with contextlib.suppress(OSError):
                if os.path.samestat(each.stat(), lock) and "FLOCK" in (process / "fdinfo" / each.name).read_text(
                    "ascii"
                ):
                    return True
    return False


def _command(process: Path) -> str:
    with contextlib.suppress(OSError):
        words = (process / "cmdline").read_bytes().decode(errors="replace").split("\0")
        return " ".join([Path(words[0]).name, *words[1:]]).strip()[:80]
    return "?"


def _entry(holder: bytes) -> dict[str, object]:
    with contextlib.suppress(ValueError):
        found = json.loads(holder)
        return found if isinstance(found, dict) else {}
    return {}


def _described(holder: bytes, left: dict[int, str]) -> str:
    entry = _entry(holder)
    if not {"verb", "who", "pid", "since"} <= entry.keys():
        return "another run is at work"
    text = f"{entry['verb']} by {entry['who']} (process {entry['pid']}) since {entry['since']}"
    if left:
        text += " has died, and what it started does not end: "
        text += ", ".join(f"{command!r} (process {pid})" for pid, command in sorted(left.items()))
    return text
