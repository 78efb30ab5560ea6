# Copyright: gpulab.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""One run at a time on a stack: the second is told who holds it. The kernel lets go when a holder dies."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

from ansible_collections.gpulab.fleet.plugins.module_utils._clock import now
from ansible_collections.gpulab.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.gpulab.fleet.plugins.module_utils._files import make_folders

FOLDER = ".locks"
POLL = 0.1


@contextlib.contextmanager
def held(stacks: Path, name: str, who: str, verb: str, wait: float) -> Iterator[None]:
    """Holds the lock `name` of the folder that stacks lie in; STACK_BUSY when another keeps it for `wait` seconds."""
    path = stacks / FOLDER / name
    file = _take(path, name, time.monotonic() + wait)
    try:
        os.ftruncate(file, 0)
        os.pwrite(file, json.dumps({"pid": os.getpid(), "who": who, "verb": verb, "since": now()}).encode(), 0)
        yield
    finally:
        path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            path.parent.rmdir()
        os.close(file)


def _take(path: Path, name: str, deadline: float) -> int:
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
            raise FleetError("STACK_BUSY", f"{name}: {_described(holder)}")
        time.sleep(POLL)


def _described(holder: bytes) -> str:
    with contextlib.suppress(ValueError, KeyError, TypeError):
        entry = json.loads(holder)
        return f"{entry['verb']} by {entry['who']} (process {entry['pid']}) since {entry['since']}"
    return "another run is at work"
