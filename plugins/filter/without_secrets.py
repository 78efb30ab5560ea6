# Copyright: gpulab.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Variables as they may appear in a log."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ansible.errors import AnsibleFilterError

DOCUMENTATION = r"""
name: without_secrets
short_description: Variables of this collection without what must not reach a log
version_added: 0.1.0
description:
  - Replaces the values of every stack's C(secrets) by a text that says whether there is one, and passwords in addresses
    (C(https://user:password@mirror/)) by asterisks. Everything else stays as it is.
options:
  _input:
    description: The collection's variables by name.
    type: dict
    required: true
author:
  - gpulab.fleet contributors
"""

EXAMPLES = r"""
- name: Hold the settings against a host
  gpulab.fleet.host_health_info:
    settings: "{{ {'gpulab_users': gpulab_users, 'gpulab_stacks': gpulab_stacks} | gpulab.fleet.without_secrets }}"
"""

RETURN = r"""
_value:
  description: The same variables, fit for a log.
  type: dict
"""

HIDDEN = "(secret)"


def without_secrets(variables: Any) -> dict[str, Any]:
    """A copy of the variables without secrets."""
    if not isinstance(variables, Mapping):
        raise AnsibleFilterError("without_secrets takes a mapping of variables by name")
    shown = {str(name): _shown(value) for name, value in variables.items()}
    stacks = shown.get("gpulab_stacks")
    for stack in stacks.values() if isinstance(stacks, dict) else []:
        if isinstance(stack, dict) and "secrets" in stack:
            secrets = stack["secrets"]
            # What is no mapping is an error that the check reports; its value is as secret.
            stack["secrets"] = dict.fromkeys(secrets, HIDDEN) if isinstance(secrets, dict) else HIDDEN
    return shown


def _shown(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _shown(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_shown(each) for each in value]
    if isinstance(value, str):
        return re.sub(r"(\w+://[^/\s:@]*):[^/\s@]*@", r"\1:***@", value)
    return value


class FilterModule:
    """What Ansible asks for."""

    def filters(self) -> dict[str, Any]:
        return {"without_secrets": without_secrets}
