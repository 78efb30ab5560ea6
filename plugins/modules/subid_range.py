#!/usr/bin/python
# Copyright: gpulab.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Subordinate ids for users, shared with nobody."""

from __future__ import annotations

DOCUMENTATION = r"""
module: subid_range
short_description: Give users subordinate id ranges that never overlap
version_added: 0.1.0
description:
  - Keeps the ranges in C(/etc/subuid) and C(/etc/subgid) that the users have, whatever they are, and appends a free
    range for those who have too few ids. A range once given is never moved.
  - A new range lies at 100000 or above, behind every existing range, and contains no id of an account or group.
  - Refuses before any change when a named user shares ids with somebody else.
options:
  users:
    description:
      - Names of the users. In check mode one who does not exist yet is expected to be made by an earlier task, with the
        ranges that C(useradd) gives to a new account.
    type: list
    elements: str
    required: true
  system:
    description: >-
      Those of O(users) whose accounts an earlier task makes as system accounts, to which C(useradd) gives no ranges.
      Needed in check mode only.
    type: list
    elements: str
    default: []
  count:
    description: How many ids each user must have in each file.
    type: int
    default: 65536
extends_documentation_fragment: [gpulab.fleet.platform]
attributes:
  check_mode:
    description: Predicts without changing.
    support: full
  diff_mode:
    description: Shows both files.
    support: full
author:
  - gpulab.fleet contributors
"""

EXAMPLES = r"""
- name: Give users subordinate ids
  gpulab.fleet.subid_range:
    users: [trainer, guest]
"""

RETURN = r"""
ranges:
  description: Each user's first range of each kind, the one that container ids from 1 on are mapped to.
  type: dict
  returned: success
  sample: {trainer: {subuid: {start: 100000, count: 65536}, subgid: {start: 100000, count: 65536}}}
findings:
  description: Warnings, each with code, cause and remedy (SUBID_COVERS_ACCOUNT).
  type: list
  elements: dict
  returned: success
finding:
  description: >-
    Code, cause and remedy of a failure. Codes are USER_MISSING, SUBID_OVERLAP, SUBID_FILE_INVALID and SUBID_EXHAUSTED.
  type: dict
  returned: failure
"""

import fcntl
import grp
import os
import pwd
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.gpulab.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.gpulab.fleet.plugins.module_utils._files import write_atomic
from ansible_collections.gpulab.fleet.plugins.module_utils._findings import finding, from_error, message
from ansible_collections.gpulab.fleet.plugins.module_utils._journal import SUBID, Journal
from ansible_collections.gpulab.fleet.plugins.module_utils._subid import (
    Range,
    find_free,
    foreign_overlap,
    of_user,
    parse,
)

KINDS = ("subuid", "subgid")


def allot(
    users: dict[str, int | None],
    ranges: dict[str, list[Range]],
    ids: set[int],
    count: int,
    given: dict[str, list[Range]] | None = None,
) -> dict[str, list[Range]]:
    """The ranges to append to each file; a user who lacks both kinds gets the same numbers in both.

    given  what was given before, whether it is still in the files or not: somebody's files may belong to these ids, so
           their owner has them back and nobody else gets them; likewise what the other file still says
    """
    known = given or {kind: [] for kind in KINDS}
    added: dict[str, list[Range]] = {kind: [] for kind in KINDS}

    def lacks(user: str, uid: int | None, kind: str) -> bool:
        return sum(r.count for r in of_user([*ranges[kind], *added[kind]], user, uid)) < count

    for user, uid in users.items():
        taken = [r for k in KINDS for r in [*ranges[k], *added[k], *known[k]] if r.owner != user]
        for kind in [k for k in KINDS if lacks(user, uid, k)]:
            had = [*of_user(known[kind], user, None), *(r for k in KINDS for r in of_user(ranges[k], user, uid))]
            for each in (Range(user, r.start, r.count) for r in had):
                if not any(each.overlaps(o) for o in [*ranges[kind], *added[kind], *taken]):
                    added[kind].append(each)
        lacking = [k for k in KINDS if lacks(user, uid, k)]
        if lacking:
            start = find_free(count, [r for k in KINDS for r in [*ranges[k], *added[k], *known[k]]], ids)
            for kind in lacking:
                added[kind].append(Range(user, start, count))
    return added


def recorded(journal: Journal) -> dict[str, list[Range]]:
    """The ranges that the host's journal says were given."""
    entries: dict[str, dict[str, list[str]]] = journal.entries(SUBID)
    return {
        kind: [
            Range(user, *map(int, each.split(":"))) for user, given in entries.items() for each in given.get(kind, [])
        ]
        for kind in KINDS
    }


def appended(text: str, ranges: list[Range]) -> str:
    """A file's text with further lines, also when its last line has no end."""
    if ranges and text and not text.endswith("\n"):
        text += "\n"
    return text + "".join(f"{r}\n" for r in ranges)


class Ranges:
    """Reads both files, refuses overlaps, appends what is missing."""

    def __init__(self, module: AnsibleModule, etc: Path = Path("/etc")) -> None:
        self.module = module
        self.files = {kind: etc / kind for kind in KINDS}
        self.users: dict[str, int | None] = {}
        for name in module.params["users"]:
            try:
                self.users[name] = pwd.getpwnam(name).pw_uid
            except KeyError as error:
                if not module.check_mode:
                    raise FleetError("USER_MISSING", name) from error
                if name in module.params["system"] or not all(path.exists() for path in self.files.values()):
                    self.users[name] = None  # useradd gives ranges only where the files exist

    def converge(self) -> dict[str, Any]:
        text = {k: p.read_text(encoding="utf-8") if p.exists() else "" for k, p in self.files.items()}
        ranges = {k: parse(text[k], str(p)) for k, p in self.files.items()}
        for kind in KINDS:
            for user, uid in self.users.items():
                pair = foreign_overlap(ranges[kind], user, uid)
                if pair:
                    error = FleetError("SUBID_OVERLAP", f"{self.files[kind]}: {pair[0]} and {pair[1]}")
                    found = from_error(error, path=self.files[kind])
                    self.module.fail_json(msg=message(found), finding=found)
        accounts = {"subuid": {e.pw_uid: e.pw_name for e in pwd.getpwall()}}
        accounts["subgid"] = {e.gr_gid: e.gr_name for e in grp.getgrall()}
        ids = {i for known in accounts.values() for i in known}
        journal = Journal(self.module.check_mode)
        given = recorded(journal)
        added = allot(self.users, ranges, ids, self.module.params["count"], given)
        after = {k: appended(text[k], added[k]) for k in KINDS}
        changed = [k for k in KINDS if added[k]]
        if not self.module.check_mode:
            for user in {r.owner: None for k in changed for r in added[k]}:
                mine = {k: dict.fromkeys(of_user([*given[k], *added[k]], user, None)) for k in KINDS}
                journal.put(SUBID, user, {k: [f"{r.start}:{r.count}" for r in mine[k]] for k in KINDS})
            for kind in changed:
                write_atomic(self.files[kind], after[kind].encode(), 0o644)
        total = {k: [*ranges[k], *added[k]] for k in KINDS}
        return {
            "changed": bool(changed),
            "ranges": {user: {k: self.first(total[k], user) for k in KINDS} for user in self.users},
            "findings": [f for k in KINDS for f in self.covered(k, ranges[k], accounts[k])],
            "diff": [
                {
                    "before_header": str(self.files[k]),
                    "after_header": str(self.files[k]),
                    "before": text[k],
                    "after": after[k],
                }
                for k in changed
            ],
        }

    def first(self, ranges: list[Range], user: str) -> dict[str, int]:
        mine = of_user(ranges, user, self.users[user])[0]
        return {"start": mine.start, "count": mine.count}

    def covered(self, kind: str, ranges: list[Range], accounts: dict[int, str]) -> list[dict[str, Any]]:
        """Warnings about existing ranges that contain the id of a real account."""
        return [
            finding("SUBID_COVERS_ACCOUNT", f"{self.files[kind]}: {r} contains {accounts[i]} ({i})", user=user)
            for user, uid in self.users.items()
            for r in of_user(ranges, user, uid)
            for i in sorted(accounts)
            if r.start <= i < r.end
        ]


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "users": {"type": "list", "elements": "str", "required": True},
            "system": {"type": "list", "elements": "str", "default": []},
            "count": {"type": "int", "default": 65536},
        },
        supports_check_mode=True,
    )
    try:
        # The lock that useradd and its kin take, so that none of them writes in between.
        lock = os.open("/etc/.pwd.lock", os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.lockf(lock, fcntl.LOCK_EX)  # given back when this process ends
        result = Ranges(module).converge()
    except FleetError as error:
        found = from_error(error, user=error.detail, path=error.detail.partition(":")[0])
        module.fail_json(msg=message(found), finding=found)
    for found in result["findings"]:
        module.warn(message(found))
    module.exit_json(**result)


if __name__ == "__main__":
    main()
