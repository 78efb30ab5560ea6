# Copyright: gpulab.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Which stacks hold which GPUs since when, of all users of a host, for everybody to read.

One file a user, named by the uid, in a folder that root made and that everybody may write to. Only a file's owner is
believed: what somebody else has put there under another's number is passed over. GPUs whose holder is gone without a
word (an account that was removed) are held until root removes the file.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pwd
import re
import stat
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ansible_collections.gpulab.fleet.plugins.module_utils._clock import now
from ansible_collections.gpulab.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.gpulab.fleet.plugins.module_utils._files import write_atomic
from ansible_collections.gpulab.fleet.plugins.module_utils._userenv import Account

FOLDER = Path("/var/lib/gpulab/holders")
FOLDER_MODE = 0o1777
SCHEMA = 1
LIMIT = 1 << 18  # bytes; no user has that many stacks
BUSY = 10.0  # seconds; the lock is held for as long as reading and writing a few small files takes
EXCLUSIVE, SHARED = "exclusive", "shared"

# {stack: {service: {"gpus": [...], "since": ISO 8601 UTC, "sharing": ..., "containers": [ids]}}}; without since, what
# was held before by the same service goes on and the rest begins now.
Stacks = Mapping[str, Mapping[str, Mapping[str, Any]]]


@dataclass(frozen=True)
class Holder:
    """One service and its GPUs."""

    user: str
    uid: int
    stack: str
    service: str
    gpus: tuple[str, ...]
    since: str
    sharing: str
    containers: tuple[str, ...] = ()

    def told(self) -> str:
        return f"{self.user}'s stack {self.stack} (service {self.service}), since {self.since}"

    def plain(self) -> dict[str, Any]:
        names = ("user", "stack", "service", "since", "sharing")
        return {name: getattr(self, name) for name in names}


def clean(value: Any) -> str:
    """Another user's text, without what a terminal would obey."""
    return re.sub(r"[^\x20-\x7e\u00a1-\uffff]", "?", str(value))[:200]


def path_of(user: Account, folder: Path | None = None) -> Path:
    return (folder or FOLDER) / str(user.uid)


# --- reading ---------------------------------------------------------------------------------------------------


def read(folder: Path | None = None) -> list[Holder]:
    """What every user's stacks hold, by user, stack and service."""
    folder = folder or FOLDER
    found: list[Holder] = []
    with contextlib.suppress(OSError):
        for path in sorted(folder.iterdir()):
            if path.name.isdecimal():
                found += _holders(int(path.name), _load(path, int(path.name)))
    return found


def taken(
    except_user: str, except_stack: str, sharing: str = EXCLUSIVE, folder: Path | None = None
) -> dict[str, Holder]:
    """GPUs that a stack cannot have, and who has them: all that others hold, or, where it would share, what they
    hold for themselves."""
    return {
        gpu: holder
        for holder in read(folder)
        if (holder.user, holder.stack) != (except_user, except_stack) and EXCLUSIVE in (sharing, holder.sharing)
        for gpu in holder.gpus
    }


def _load(path: Path, uid: int) -> dict[str, Any]:
    """A user's file; nothing when it is not theirs or not what it should be."""
    try:
        # A pipe or a link that somebody put there must neither stop the reader nor lead it elsewhere.
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return {}
    with os.fdopen(handle, "rb") as file:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode) or status.st_uid != uid or status.st_size > LIMIT:
            return {}
        try:
            data = json.loads(file.read(LIMIT))
        except (ValueError, RecursionError):
            return {}
    return data if isinstance(data, dict) and data.get("schema") == SCHEMA else {}


def _holders(uid: int, data: Mapping[str, Any]) -> Iterator[Holder]:
    try:
        user = pwd.getpwuid(uid).pw_name
    except KeyError:
        user = f"uid {uid}"
    for stack, services in _mapping(data.get("stacks")).items():
        for service, entry in _mapping(services).items():
            held = _mapping(entry)
            gpus = tuple(clean(gpu) for gpu in _list(held.get("gpus")))
            if gpus:
                sharing = SHARED if held.get("sharing") == SHARED else EXCLUSIVE
                containers = tuple(clean(each) for each in _list(held.get("containers")))
                since = clean(held.get("since", ""))
                yield Holder(user, uid, clean(stack), clean(service), gpus, since, sharing, containers)


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


# --- writing, as the user --------------------------------------------------------------------------------------


def record(user: Account, stacks: Stacks, folder: Path | None = None) -> None:
    """All that this user's stacks hold from now on."""
    folder = folder or FOLDER
    with _alone(folder):
        _write(user, stacks, folder)


def claim(user: Account, stack: str, services: Mapping[str, Mapping[str, Any]], folder: Path | None = None) -> None:
    """Take GPUs for one stack, or give back what it no longer has; refused when somebody else holds one of them.

    Looking and taking are one step: of two users who want the last GPU at the same time, one gets it.
    """
    folder = folder or FOLDER
    with _alone(folder):
        for service, wanted in sorted(services.items()):
            others = taken(user.name, stack, wanted.get("sharing", EXCLUSIVE), folder)
            for gpu in wanted["gpus"]:
                if gpu in others:
                    raise FleetError("GPU_HELD", f"{service} of {stack} is to have {gpu}, held by {others[gpu].told()}")
        stacks = dict(_mapping(_load(path_of(user, folder), user.uid).get("stacks")))
        stacks[stack] = services
        _write(user, stacks, folder)


def give_back(user: Account, stack: str, folder: Path | None = None) -> None:
    """A stack holds nothing any more."""
    claim(user, stack, {}, folder)


def _write(user: Account, stacks: Stacks, folder: Path) -> None:
    path = path_of(user, folder)
    before = _mapping(_load(path, user.uid).get("stacks"))
    kept: dict[str, dict[str, Any]] = {}
    for stack, services in stacks.items():
        for service, entry in services.items():
            if entry.get("gpus"):
                known = _mapping(_mapping(before.get(stack)).get(service))
                kept.setdefault(stack, {})[service] = _entry(entry, known)
    if not kept:
        with contextlib.suppress(PermissionError):  # somebody else's, which says nothing of this user
            path.unlink(missing_ok=True)
        return
    if kept == before:
        return
    data = (json.dumps({"schema": SCHEMA, "stacks": kept}, indent=2, sort_keys=True) + "\n").encode()
    try:
        write_atomic(path, data, 0o644)
    except OSError as error:
        raise FleetError("GPU_HOLDERS_UNWRITABLE", f"{path}: {error.strerror}") from error


def _entry(entry: Mapping[str, Any], known: Mapping[str, Any]) -> dict[str, Any]:
    gpus, sharing = list(entry["gpus"]), entry.get("sharing", EXCLUSIVE)
    same = sorted(_list(known.get("gpus"))) == sorted(gpus)
    since = entry.get("since") or (known.get("since") if same else None) or now()
    containers = list(entry.get("containers") or (_list(known.get("containers")) if same else []))
    return {"gpus": gpus, "since": since, "sharing": sharing, "containers": containers}


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    try:
        lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise FleetError("GPU_HOLDERS_UNWRITABLE", f"{folder}: {error.strerror}") from error
    try:
        deadline = time.monotonic() + BUSY
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise FleetError("GPU_HOLDERS_BUSY", f"{folder} is locked for more than {BUSY:g} s") from None
                time.sleep(0.05)
        yield
    finally:
        os.close(lock)
