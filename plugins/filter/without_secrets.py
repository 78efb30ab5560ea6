# Copyright: gpulab.fleet contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Variables as they may appear in a log."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from typing import Any

from ansible.errors import AnsibleFilterError

DOCUMENTATION = r"""
name: without_secrets
short_description: Variables of this collection without what must not reach a log
version_added: 0.1.0
description:
  - Replaces what stands under C(secrets), and under any name that speaks of a password, token or secret, by the text
    C((secret\)), at any depth and in every variable, also a misspelled one.
  - Replaces passwords in addresses (C(https://user:password@mirror/)) by asterisks. Everything else stays as it is.
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


# Names whose values are secret wherever they stand; one letter astray in "secrets" does not show them.
SECRET_NAME = re.compile(r"secret|token|passw|passphrase|credential|api_?key|private_?key", re.IGNORECASE)
# Their keys are names of users and stacks, not of settings: a stack may be called tokenizer.
NAMED = ("gpulab_users", "gpulab_stacks")
ADDRESS_PASSWORD = re.compile(r"(\w+://[^/\s:@]*):[^/\s@]*@")


def without_secrets(variables: Any) -> dict[str, Any]:
    """A copy of the variables without secrets."""
    if not isinstance(variables, Mapping):
        raise AnsibleFilterError("without_secrets takes a mapping of variables by name")
    return {
        str(name): {str(key): _shown(each) for key, each in value.items()}
        if name in NAMED and isinstance(value, Mapping)
        else _of_key(str(name), value)
        for name, value in variables.items()
    }


def _of_key(key: str, value: Any) -> Any:
    """The value of one key, as far as its name lets it be seen."""
    if difflib.get_close_matches(key.lower(), ["secrets"], 1, 0.8):
        # What is no mapping is an error that the check reports; its value is as secret.
        return {str(name): HIDDEN for name in value} if isinstance(value, Mapping) else HIDDEN
    if SECRET_NAME.search(key):
        return _hidden(value)
    if key == "gpus" and isinstance(value, Mapping):  # by the names of services
        return {str(name): _shown(each) for name, each in value.items()}
    return _shown(value)


def _hidden(value: Any) -> Any:
    """Of the same form, so that the check still sees a wrong one."""
    if isinstance(value, Mapping):
        return {str(key): _hidden(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_hidden(each) for each in value]
    return value if value is None or isinstance(value, bool) else HIDDEN


def _shown(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _of_key(str(key), each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_shown(each) for each in value]
    if isinstance(value, str):
        return ADDRESS_PASSWORD.sub(r"\1:***@", value)
    return value


class FilterModule:
    """What Ansible asks for."""

    def filters(self) -> dict[str, Any]:
        return {"without_secrets": without_secrets}
