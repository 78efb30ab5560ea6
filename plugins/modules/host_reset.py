#!/usr/bin/python
# Copyright: gpulab.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A host goes back to what it was before this collection came."""

from __future__ import annotations

DOCUMENTATION = r"""
module: host_reset
short_description: Take back what this collection changed on a host
version_added: 0.1.0
description:
  - Undoes what the host's journal (C(/var/lib/gpulab/journal)) has, and nothing else. Packages that were installed are
    purged, also those that were pulled in; files, package sources, units, holds and kernel settings are as they were.
  - A package that something else needs by now stays and is listed. Packages that had been removed or upgraded are
    listed, they are not installed again.
  - Comes after M(gpulab.fleet.rootless_docker_user) with C(state=absent) for every user; refuses otherwise.
  - While a user's data are kept, so are their subordinate ids, and the journal with them.
  - A reset that was interrupted goes on where it was.
options:
  purge_data:
    description: >-
      Users, or V(all), whose account goes with its home when this collection made it. Data themselves are deleted by
      M(gpulab.fleet.rootless_docker_user).
    type: list
    elements: str
    default: []
extends_documentation_fragment: [gpulab.fleet.platform.systemd]
attributes:
  check_mode:
    description: Lists what would go, users' engines not counted.
    support: full
  diff_mode:
    description: Shows files, units and packages.
    support: full
author:
  - gpulab.fleet contributors
"""

EXAMPLES = r"""
- name: Take the host back
  gpulab.fleet.host_reset:
"""

RETURN = r"""
actions:
  description: What was done, or would be.
  type: list
  elements: str
  returned: success
  sample: ["purged docker-ce", "removed /etc/gpulab/cdi.json"]
left:
  description: What stays, in words.
  type: list
  elements: str
  returned: success
  sample: ["docker.io 20.10.24 had been removed for the engine; install it again if it is wanted"]
finding:
  description: Code, cause and remedy of a failure. Codes are RESET_ENGINES_LEFT, PACKAGE_REMOVAL_FAILED and APT_LOCKED.
  type: dict
  returned: failure
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.gpulab.fleet.plugins.module_utils._errors import FleetError
from ansible_collections.gpulab.fleet.plugins.module_utils._findings import from_error, message
from ansible_collections.gpulab.fleet.plugins.module_utils._host_undo import HostUndo


def main() -> None:
    module = AnsibleModule(
        argument_spec={"purge_data": {"type": "list", "elements": "str", "default": []}}, supports_check_mode=True
    )
    try:
        result = HostUndo(module).go(module.params["purge_data"])
    except FleetError as error:
        found = from_error(error, user=error.detail.partition(":")[0])
        module.fail_json(msg=message(found), finding=found)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
