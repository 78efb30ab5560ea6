#!/usr/bin/python
# Copyright: gpulab.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A line in the host's journal, for a change that another module makes."""

from __future__ import annotations

DOCUMENTATION = r"""
module: journal_entry
short_description: Record a change before a module of somebody else's makes it
version_added: 0.1.0
description:
  - This collection's modules record by themselves what they change on a host, so that a reset can take it back. For a
    change that a module from elsewhere makes, this one does it, in the task before.
options:
  accounts:
    description: Accounts that are about to be made.
    type: list
    elements: str
    default: []
extends_documentation_fragment: [gpulab.fleet.platform]
attributes:
  check_mode:
    description: Predicts without writing.
    support: full
  diff_mode:
    description: Shows the new entries.
    support: full
author:
  - gpulab.fleet contributors
"""

EXAMPLES = r"""
- name: Remember which accounts are made
  gpulab.fleet.journal_entry:
    accounts: [mara]
"""

RETURN = r"""
recorded:
  description: The entries that are new.
  type: list
  elements: str
  returned: success
  sample: [account mara]
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.gpulab.fleet.plugins.module_utils._journal import ACCOUNT, Journal


def main() -> None:
    module = AnsibleModule(
        argument_spec={"accounts": {"type": "list", "elements": "str", "default": []}}, supports_check_mode=True
    )
    journal = Journal(module.check_mode)
    known = journal.entries(ACCOUNT)
    new = [name for name in module.params["accounts"] if name not in known]
    for name in new:
        journal.add(ACCOUNT, name)
    recorded = [f"{ACCOUNT} {name}" for name in new]
    after = "".join(f"{line}\n" for line in recorded)
    module.exit_json(
        changed=bool(new),
        recorded=recorded,
        diff={
            "before_header": "the host's journal",
            "after_header": "the host's journal",
            "before": "",
            "after": after,
        },
    )


if __name__ == "__main__":
    main()
