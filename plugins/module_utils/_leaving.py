# Copyright: gpulab.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A user leaves a host: engine, stacks and settings, and by choice the data, the ids and the account.

Root's part. What is in the home is done as the user (_engine_away), data are deleted with the user's ids alone.
"""

from __future__ import annotations

import contextlib
import fcntl
import time
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.gpulab.fleet.plugins.module_utils import _undo
from ansible_collections.gpulab.fleet.plugins.module_utils._engine_away import Away
from ansible_collections.gpulab.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.gpulab.fleet.plugins.module_utils._files import write_atomic
from ansible_collections.gpulab.fleet.plugins.module_utils._findings import finding
from ansible_collections.gpulab.fleet.plugins.module_utils._journal import (
    ACCOUNT,
    DATA,
    ENGINE,
    FILE,
    FOLDERS,
    LINGER,
    SUBID,
    TREE,
    Journal,
)
from ansible_collections.gpulab.fleet.plugins.module_utils._rootless_engine import parse_properties
from ansible_collections.gpulab.fleet.plugins.module_utils._subid import without
from ansible_collections.gpulab.fleet.plugins.module_utils._user_space import delete, engine_data, readable, size
from ansible_collections.gpulab.fleet.plugins.module_utils._userenv import Account, account, as_user

ETC = Path("/etc")
LINGERING = Path("/var/lib/systemd/linger")
Where = dict[str, list[str]]
NOTHING: dict[str, Any] = {"ours": False, "roots": [], "data": [], "folders": [], "stacks": [], "busy": []}


def look(name: str, journal: Journal, stacks_root: str) -> tuple[Account | None, dict[str, Any]]:
    """The account, if there is one, and what this collection has on this host for it."""
    try:
        user = account(name)
    except FleetError:
        return None, NOTHING
    if not user.home.is_dir():
        return user, NOTHING
    return user, as_user(user, lambda: Away(user, True, stacks_root).look())


def whereabouts(seen: dict[str, Any], recorded: Where | None) -> Where:
    """Where data are or may be: what the home says and what an earlier departure has left."""
    mine = seen if seen["ours"] else NOTHING
    known: Where = recorded or {}
    return {key: list(dict.fromkeys([*known.get(key, []), *mine[key]])) for key in ("roots", "data", "folders")}


def data_of(user: Account, where: Where) -> list[tuple[Path, list[Path]]]:
    """Each place that holds data now, and what in it is data."""
    found = [(Path(root), engine_data(Path(root))) for root in where["roots"]]
    found += [(Path(path), [Path(path)] if Path(path).is_dir() else []) for path in where["data"]]
    return [(place, paths) for place, paths in found if paths and user.home != place]


def sizes(user: Account, where: Where) -> list[dict[str, Any]]:
    """The data with their sizes in bytes."""
    return [
        {"path": str(place), "bytes": sum(size(user, path) for path in paths)} for place, paths in data_of(user, where)
    ]


class Leaving:
    """One user's departure; can be called again at any time."""

    def __init__(self, module: AnsibleModule, name: str, remove_data: bool, stacks_root: str) -> None:
        self.module = module
        self.check: bool = module.check_mode
        self.name = name
        self.remove_data = remove_data
        self.stacks_root = stacks_root
        self.journal = Journal(self.check)
        self.actions: list[str] = []
        self.diff: list[dict[str, str]] = []
        self.findings: list[dict[str, Any]] = []

    def go(self, when_busy: str, timeout: int) -> dict[str, Any]:
        user, seen = look(self.name, self.journal, self.stacks_root)
        recorded: Where | None = self.journal.entries(DATA).get(self.name)
        if not seen["ours"] and recorded is None and self.name not in self.journal.entries(ENGINE):
            return self.result([])
        busy = self.wait(seen["busy"], timeout) if when_busy == "wait" else seen["busy"]
        if busy and when_busy != "proceed":
            self.findings.append(finding("ENGINE_IN_USE", f"{self.name}: {', '.join(busy)}", user=self.name))
            return self.result([], pending=True)
        where = whereabouts(seen, recorded)
        if where != recorded:
            self.journal.put(DATA, self.name, where)
        left: list[dict[str, Any]] = []
        if user and seen["ours"]:
            done = as_user(user, lambda: Away(user, self.check, self.stacks_root).leave())
            self.actions += done["actions"]
            self.diff += done["diff"]
        if user:
            left = self.data(user, where)
            self.own_folders(user, where)
            if seen["ours"]:
                self.actions += as_user(user, lambda: Away(user, self.check, self.stacks_root).forget())["actions"]
        else:
            # Whoever made the account go has left data without an owner: neither ours to delete nor ids to give away.
            left = [{"path": place, "bytes": 0} for place in where["roots"] + where["data"] if Path(place).is_dir()]
        self.linger(user)
        self.settings(user, where)
        if not left:
            self.ranges()
            if self.remove_data:
                self.remove_account()
            self.journal.drop(DATA, self.name)
        self.journal.drop(ENGINE, self.name)
        return self.result(left)

    def wait(self, busy: list[str], timeout: int) -> list[str]:
        deadline = time.monotonic() + timeout
        while busy and not self.check and time.monotonic() < deadline:
            time.sleep(2)
            busy = look(self.name, self.journal, self.stacks_root)[1]["busy"]
        return busy

    def data(self, user: Account, where: Where) -> list[dict[str, Any]]:
        """Delete the data, or say how much stays."""
        found = sizes(user, where)
        if not self.remove_data:
            return found
        for each in found:
            self.actions.append(f"deleted {each['path']} ({readable(each['bytes'])})")
        if not self.check:
            delete(user, [path for _place, paths in data_of(user, where) for path in paths])
        return []

    def own_folders(self, user: Account, where: Where) -> None:
        """Folders that were made for the data, where nothing is left in them."""
        if self.check:
            return

        def remove() -> dict[str, Any]:
            gone = []
            for place in sorted([*where["folders"], *where["roots"]], key=len, reverse=True):
                with contextlib.suppress(OSError):
                    if Path(place) != user.home:
                        Path(place).rmdir()
                        gone.append(place)
            return {"gone": gone}

        self.actions += [f"removed {place}" for place in as_user(user, remove)["gone"]]

    def linger(self, user: Account | None) -> None:
        if self.name not in self.journal.entries(LINGER):
            return
        mark = LINGERING / self.name
        if user and mark.exists():
            self.actions.append("disabled lingering")
            self.root("loginctl", "disable-linger", self.name)
            if not self.check and not self.sessions():
                # Otherwise it would stay for another ten seconds and hold what goes next.
                self.root("systemctl", "stop", f"user@{user.uid}.service")
        elif mark.exists():
            self.actions.append(f"removed {mark}")
            if not self.check:
                mark.unlink()
        self.journal.drop(LINGER, self.name)

    def sessions(self) -> list[str]:
        """The user's logins; a service manager of the user's is not one."""
        out = self.run("loginctl", "show-user", "--property=Sessions", "--value", self.name)[1]
        kinds = [self.run("loginctl", "show-session", "--property=Class", each)[1] for each in out.split()]
        return [kind for kind in kinds if not parse_properties(kind).get("Class", "").startswith("manager")]

    def settings(self, user: Account | None, where: Where) -> None:
        """What root has written for this user alone."""
        own = [f"/var/lib/gpulab/runtime/{self.name}"]
        if user:
            own.append(f"/etc/systemd/system/user-{user.uid}.slice.d")
        below = tuple(f"{each}/" for each in own)
        files = [name for name in self.journal.entries(FILE) if name.startswith(below)]
        done = [_undo.file(self.journal, name, self.diff) for name in files]
        done += [_undo.tree(self.journal, name) for name in self.journal.entries(TREE) if name in own]
        folders = self.journal.entries(FOLDERS)
        made = [name for name in folders if name in [*own, *where["roots"]] or name.startswith(below)]
        done += [_undo.folder(self.journal, name, set(files)) for name in sorted(made, key=len, reverse=True)]
        self.actions += [action for action in done if action]
        if any(name.startswith("/etc/systemd/") for name in files):
            self.root("systemctl", "daemon-reload")

    def ranges(self) -> None:
        """Give back the subordinate ids that were given; nothing on the disk is theirs any more."""
        given: dict[str, list[str]] = self.journal.entries(SUBID).get(self.name) or {}
        if not given:
            return
        with (ETC / ".pwd.lock").open("a") as lock:
            fcntl.lockf(lock, fcntl.LOCK_EX)
            for kind, ranges in given.items():
                path = ETC / kind
                before = path.read_text(encoding="utf-8") if path.exists() else ""
                after = without(before, self.name, ranges)
                if after == before:
                    continue
                self.actions.append(f"gave back {', '.join(ranges)} of {path}")
                self.diff.append(
                    {"before_header": str(path), "after_header": str(path), "before": before, "after": after}
                )
                if not self.check:
                    write_atomic(path, after.encode(), 0o644)
        self.journal.drop(SUBID, self.name)

    def remove_account(self) -> None:
        """Remove the account, if this collection made it."""
        user = None
        with contextlib.suppress(FleetError):
            user = account(self.name)
        if self.name not in self.journal.entries(ACCOUNT):
            return
        if user:
            self.actions.append(f"removed the account {self.name} and {user.home}")
            if not self.check:
                self.end_processes(user)
                rc, _out, said = self.run("userdel", "--remove", self.name)
                if rc not in (0, 12):  # 12: the home could not be removed; it may be a mount point
                    raise FleetError("ACCOUNT_NOT_REMOVED", f"{self.name}: {said.strip()}")
        self.journal.drop(ACCOUNT, self.name)

    def end_processes(self, user: Account) -> None:
        """Its service manager may need a moment to go."""
        self.run("systemctl", "stop", f"user@{user.uid}.service", f"user-{user.uid}.slice")
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline and any(_owner(pid) == user.uid for pid in _processes()):
            time.sleep(0.2)

    def run(self, *argv: str) -> tuple[int, str, str]:
        answer: tuple[int, str, str] = self.module.run_command(list(argv))
        return answer

    def root(self, *argv: str) -> None:
        if not self.check:
            self.module.run_command(list(argv), check_rc=True)

    def result(self, left: list[dict[str, Any]], pending: bool = False) -> dict[str, Any]:
        if left and not pending:
            told = ", ".join(f"{each['path']} ({readable(each['bytes'])})" for each in left)
            self.findings.append(finding("DATA_KEPT", f"{self.name}: {told}", user=self.name))
        what = f"what goes of {self.name}"
        goes = {
            "before_header": what,
            "after_header": what,
            "before": "".join(f"{a}\n" for a in self.actions),
            "after": "",
        }
        return {
            "actions": self.actions,
            "diff": [*self.diff, goes] if self.actions else [],
            "data": left,
            "pending": pending,
            "findings": self.findings,
            "engine": {},
            "restart_pending": False,
        }


def _processes() -> list[Path]:
    return [path for path in Path("/proc").iterdir() if path.name.isdecimal()]


def _owner(process: Path) -> int:
    with contextlib.suppress(OSError):
        return process.stat().st_uid
    return -1
