#!/usr/bin/python
# Copyright: gpulab.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a reset would find on a host: users, their data with sizes, and who is at work."""

from __future__ import annotations

DOCUMENTATION = r"""
module: host_reset_info
short_description: Say what a reset of a host would take, before it does
version_added: 0.1.0
description:
  - Reads the host's journal and the users' homes; changes nothing. Refuses O(purge_data) that names nobody.
options:
  purge_data:
    description: Users whose data are to be deleted, or V(all).
    type: list
    elements: str
    default: []
  known_users:
    description: Users of the inventory; O(purge_data) may name those as well, whether they are on this host or not.
    type: list
    elements: str
    default: []
  stacks_root:
    description: Where the users' stacks lie, in case they were not deployed by this version.
    type: str
    default: ~/gpulab
extends_documentation_fragment: [gpulab.fleet.platform.systemd]
attributes:
  check_mode:
    description: Changes nothing.
    support: full
  diff_mode:
    description: Changes nothing.
    support: N/A
author:
  - gpulab.fleet contributors
"""

EXAMPLES = r"""
- name: See what there is
  gpulab.fleet.host_reset_info:
    purge_data: [guest]
  register: host
"""

RETURN = r"""
users:
  description: The users for whom there is something to take back, engines first.
  type: list
  elements: dict
  returned: success
  contains:
    name: {description: The user., type: str, returned: always}
    data: {description: What becomes of the data; keep or remove., type: str, returned: always}
    stacks: {description: Stacks that are deployed., type: list, elements: str, returned: always}
    busy: {description: Running containers that belong to no stack., type: list, elements: str, returned: always}
    sizes: {description: The data as path and bytes., type: list, elements: dict, returned: always}
lines:
  description: All of it as a person reads it.
  type: list
  elements: str
  returned: success
finding:
  description: Code, cause and remedy of a failure (RESET_PURGE_UNKNOWN, JOURNAL_INVALID).
  type: dict
  returned: failure
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.gpulab.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.gpulab.fleet.plugins.module_utils._findings import from_error, message
from ansible_collections.gpulab.fleet.plugins.module_utils._journal import (
    ACCOUNT,
    DATA,
    ENGINE,
    FILE,
    PACKAGE,
    Journal,
)
from ansible_collections.gpulab.fleet.plugins.module_utils._leaving import look, sizes, whereabouts
from ansible_collections.gpulab.fleet.plugins.module_utils._user_space import readable


def describe(user: dict[str, Any]) -> list[str]:
    """A user in words, with what each place holds."""
    stacks = f"stacks {', '.join(user['stacks'])}" if user["stacks"] else "no stacks"
    busy = f"; at work: {', '.join(user['busy'])}" if user["busy"] else ""
    fate = "WILL BE DELETED" if user["data"] == "remove" else "stays"
    places = [f"  {fate}: {each['path']} ({readable(each['bytes'])})" for each in user["sizes"]]
    return [f"{user['name']}: {stacks}{busy}", *(places or ["  no data"])]


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "purge_data": {"type": "list", "elements": "str", "default": []},
            "known_users": {"type": "list", "elements": "str", "default": []},
            "stacks_root": {"type": "str", "default": "~/gpulab"},
        },
        supports_check_mode=True,
    )
    purge = module.params["purge_data"]
    journal = Journal(check=True)
    known: list[str] = []
    try:
        recorded = journal.entries(DATA)
        names = list(dict.fromkeys([*journal.entries(ENGINE), *recorded]))
        known = sorted({*names, *journal.entries(ACCOUNT), *module.params["known_users"]})
        unknown = [name for name in purge if name not in [*known, "all"]]
        if unknown:
            raise FleetError("RESET_PURGE_UNKNOWN", f"gpulab_reset_purge_data has {', '.join(unknown)}")
    except FleetError as error:
        found = from_error(error, known=", ".join(known) or "no users")
        module.fail_json(msg=message(found), finding=found)
    users = []
    for name in names:
        account, seen = look(name, journal, module.params["stacks_root"])
        where = whereabouts(seen, recorded.get(name))
        users.append(
            {
                "name": name,
                "data": "remove" if name in purge or "all" in purge else "keep",
                "stacks": seen["stacks"],
                "busy": seen["busy"],
                "sizes": sizes(account, where) if account else [],
            }
        )
    lines = [line for user in users for line in describe(user)]
    lines += [f"{len(journal.entries(PACKAGE))} packages, {len(journal.entries(FILE))} files of root's to take back"]
    module.exit_json(changed=False, users=users, lines=lines)


if __name__ == "__main__":
    main()
