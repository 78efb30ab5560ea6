#!/usr/bin/python
# Copyright: gpulab.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Which stacks run where, of which release, and whether they are well."""

from __future__ import annotations

DOCUMENTATION = r"""
module: compose_release_info
short_description: Which stacks run on a host, of which release, and whether they are well
version_added: 0.1.0
description:
  - Reads each user's releases and asks their engine what runs; changes nothing. C(gpulab status) on the host says the
    same of one user.
options:
  users:
    description: Whose stacks. A user who is not on the host has none.
    type: list
    elements: str
    required: true
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
notes:
  - Runs as root, or as the one user that is asked for.
seealso:
  - module: gpulab.fleet.compose_release
"""

EXAMPLES = r"""
- name: See what runs
  gpulab.fleet.compose_release_info:
    users: [mara, trainer]
  register: running

- name: Refuse to go on while a stack is not well
  ansible.builtin.assert:
    that: running.stacks | rejectattr('state', 'eq', 'healthy') | length == 0
"""

RETURN = r"""
stacks:
  description: The stacks of these users.
  type: list
  elements: dict
  returned: success
  contains:
    user: {description: Whose it is., type: str, returned: always}
    name: {description: The stack., type: str, returned: always}
    state:
      description: One of healthy, starting, unhealthy, stopped, unfinished.
      type: str
      returned: always
    release: {description: The release that is current., type: str, returned: always}
    made: {description: When it was made, as ISO 8601 in UTC., type: str, returned: always}
    by: {description: Who made it., type: str, returned: always}
    why: {description: What was said of why., type: str, returned: always}
    folder: {description: Where C(docker compose) works., type: str, returned: always}
    secret_files:
      description: Where each secret lies that was generated on the host, by name.
      type: dict
      returned: always
    mounts: {description: What the site mounts of the host into containers, by name., type: dict, returned: always}
    services: {description: The services with status and addresses., type: list, elements: dict, returned: always}
    failed: {description: The newest release when it failed; what it said., type: dict, returned: always}
    unfinished: {description: A transaction that was cut off., type: dict, returned: always}
lines:
  description: All of it as a person reads it.
  type: list
  elements: str
  returned: success
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.gpulab.fleet.plugins.module_utils import _gpulab_status as status
from ansible_collections.gpulab.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.gpulab.fleet.plugins.module_utils._userenv import account, as_user


def of_user(name: str) -> tuple[list[dict[str, Any]], list[str]]:
    """A user's stacks and the lines about them."""
    try:
        user = account(name)
    except FleetError:
        return [], []
    try:
        found = as_user(user, lambda: status.answer(user, None))
    except FleetError as error:
        return [], [f"{name}: {error.code}: {error.detail}"]
    if not found["stacks"]:
        return [], []
    return [{"user": name, **stack} for stack in found["stacks"]], [f"{name}:", *status.lines(found), ""]


def main() -> None:
    module = AnsibleModule(
        argument_spec={"users": {"type": "list", "elements": "str", "required": True}}, supports_check_mode=True
    )
    stacks: list[dict[str, Any]] = []
    lines: list[str] = []
    for name in module.params["users"]:
        found, said = of_user(name)
        stacks += found
        lines += said
    module.exit_json(changed=False, stacks=stacks, lines=lines or ["no stacks"])


if __name__ == "__main__":
    main()
